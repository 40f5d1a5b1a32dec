# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Exercises on evaluation: seams, leaks and inventions
#
# You find the seam between two tiles, break a split on purpose and see what it does to the scores, and look
# for a detail that was never there.
#
# **Follows** notebook `04_evaluate`, and the split of `01_prepare_data`. **Exercises** 8 to 10, 15 points,
# about 90 minutes; every cell runs in seconds.
#
# **How it works.** Replace each line `raise NotImplementedError()` with your code. The cell below it tests
# your code, and your teacher's grader runs further tests of the same kind with other numbers. A passed cell
# prints nothing. A picture fails until the functions that it draws are written. Hints unfold with a click.
# Before you hand in, choose *Kernel, Restart Kernel and Run All Cells*.

# %% nbgrader={"grade": false, "grade_id": "evaluation_setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from sprl_utils.kspace import truncate_kspace
from sprl_utils.networks import Generator

# A real brain that the package nibabel carries, 80 x 96 x 24 voxels. The bright end of tissue is 1.
file = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"
brain = np.asarray(nib.load(file).dataobj[24:104, :, :, 0], np.float32)
brain = np.clip(brain / np.percentile(brain[brain > 0], 99.5), 0, 1.2)


def cut(image, keep):
    """Cut a real image (x, y) to keep[0] x keep[1] samples of k-space: odd numbers, so it stays real."""
    return truncate_kspace(image.astype(complex)[None], (None, *keep))[0].real


def psnr(image, reference):
    """In dB, for a data range of 1."""
    return float(-10 * np.log10(np.mean((image - reference) ** 2)))


def draw(ax, image, title, **options):
    """Draw one image (x, y), x to the right."""
    drawn = ax.imshow(image.T, origin="lower", **({"cmap": "gray", "vmin": 0, "vmax": 1} | options))
    ax.set_title(title)
    ax.axis("off")
    return drawn


# %% [markdown]
# ## Exercise 8: Tiles and their seam
#
# A whole head does not fit through the network at once on every machine, so it is cut into tiles. Near a
# cut the network does not see what lies beyond, and its result there differs: a seam. The remedy is a
# **halo**: each tile reads some voxels more than it writes.
#
# ### 8a. Two tiles (3 points)
#
# Write `in_two_tiles(volume, network, cut_at, halo)` for a tensor `volume` of the shape `(1, 1, D, H, W)`.
# The first tile writes the planes `0 ... cut_at - 1` of axis D, the second the rest. Each reads `halo`
# planes more beyond the cut, and nothing more at the volume's faces. Return a tensor of the shape of
# `volume`.
#
# <details><summary>Hint 1: the first tile</summary>
#
# It reads the planes `0 ... cut_at + halo - 1`. Of the network's result keep the first `cut_at` planes.
#
# </details>
#
# <details><summary>Hint 2: the second tile</summary>
#
# It reads from plane `cut_at - halo` on, and its first `halo` planes are thrown away. Mind Python's
# negative indices: `x[:, :, -0:]` is not empty. Join both with `torch.cat(..., dim=2)`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "in_two_tiles", "locked": false, "schema_version": 3, "solution": true, "task": false}
def in_two_tiles(volume, network, cut_at, halo):
    """The network's result on two tiles of (1, 1, D, H, W), each with a halo at the cut."""
    ### BEGIN SOLUTION
    first = network(volume[:, :, : cut_at + halo])[:, :, :cut_at]
    second = network(volume[:, :, cut_at - halo :])[:, :, halo:]
    return torch.cat([first, second], dim=2)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e8a", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
_ = torch.manual_seed(0)
network = (
    Generator(growth_rate=4, blocks=1, units=2).eval().requires_grad_(False)
)  # sees 3 voxels to each side
volume = torch.from_numpy(brain[20:60, 20:60, 4:20])[None, None]
whole = network(volume)
assert in_two_tiles(volume, network, 20, 0).shape == volume.shape
assert torch.allclose(in_two_tiles(volume, network, 20, 3), whole, atol=1e-4), "this halo leaves no seam"
### BEGIN HIDDEN TESTS
assert torch.allclose(in_two_tiles(volume, network, 11, 5), whole, atol=1e-4)
for cut_at, halo in [(20, 0), (20, 2), (9, 1)]:
    first, second = network(volume[:, :, : cut_at + halo]), network(volume[:, :, cut_at - halo :])
    expected = torch.cat([first[:, :, :cut_at], second[:, :, halo:]], dim=2)
    assert torch.allclose(in_two_tiles(volume, network, cut_at, halo), expected, atol=1e-4), (cut_at, halo)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "seam_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
figure, axes = plt.subplots(1, 4, figsize=(11, 2.8))
draw(axes[0], whole[0, 0, :, :, 8], "whole volume", vmin=None, vmax=None)
for ax, halo in zip(axes[1:], (0, 1, 2), strict=True):
    error = in_two_tiles(volume, network, 20, halo)[0, 0, :, :, 8] - whole[0, 0, :, :, 8]
    drawn = draw(ax, error, f"halo {halo}", cmap="RdBu_r", vmin=-0.3, vmax=0.3)
figure.colorbar(drawn, ax=axes.tolist(), shrink=0.8, label="tiles - whole volume")

# %% [markdown]
# **What is to be seen.** The network has random weights, so its image is only a filtered brain. The error
# maps are white except near the cut. A longer halo makes the seam narrower and weaker.
#
# ### 8b. Find the seam (1 point)
#
# Write `seam(tiled, whole)`: the numbers of the planes of axis D, as a sorted list, in which some voxel of
# the two tensors `(1, 1, D, H, W)` differs by more than `1e-3`.
#
# <details><summary>Hint</summary>
#
# `(tiled - whole).abs().amax(dim=(0, 1, 3, 4))` has one number per plane.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "seam", "locked": false, "schema_version": 3, "solution": true, "task": false}
def seam(tiled, whole):
    """Sorted list of the planes in which two results differ by more than 1e-3."""
    ### BEGIN SOLUTION
    largest = (tiled - whole).abs().amax(dim=(0, 1, 3, 4))
    return [plane for plane, difference in enumerate(largest.tolist()) if difference > 1e-3]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e8b", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert list(seam(volume, volume)) == []
### BEGIN HIDDEN TESTS
touched = volume.clone()
touched[0, 0, 4, 0, 0] += 0.5
touched[0, 0, 30, 20, 15] -= 0.5
touched[0, 0, 12] += 1e-4
assert list(seam(touched, volume)) == [4, 30] and list(seam(volume, touched)) == [4, 30]
### END HIDDEN TESTS

# %% [markdown]
# ### 8c. The original's halo (1 point)
#
# The paper's generator sees 17 voxels to each side. The original project read cubes of 64 voxels and threw
# away 3 voxels at each face, so it had a halo of 3. In how many planes, counted on both sides of one cut,
# can its result differ from that on the whole volume? Set `planes_of_the_seam`.
#
# <details><summary>Hint</summary>
#
# Count with the network above, which sees 3 voxels: `seam(in_two_tiles(volume, network, 20, halo), whole)`
# for the halos 0, 1, 2 and 3. Then find the rule.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "planes_of_the_seam", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
planes_of_the_seam = 2 * (17 - 3)
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "e8c", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert isinstance(planes_of_the_seam, int)
### BEGIN HIDDEN TESTS
assert planes_of_the_seam == 28, "it lies within 17 - 3 planes of the cut, on either side"
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 9: Break the split on purpose
#
# Two scans of one person are not independent. If one is trained on and the other is validated on, the split
# **leaks**: validation then rewards a network for remembering a person whom it was trained on.
#
# ### 9a. Find leaks (1 point)
#
# Write `leaks(split, person)`: the set of persons who have scans in more than one split. Both arguments are
# dictionaries from the name of a scan, to `"train"`, `"validation"` or `"test"`, and to a person.
#
# <details><summary>Hint</summary>
#
# Collect for each person the set of splits of their scans. A person leaks if this set has more than one
# element.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "leaks", "locked": false, "schema_version": 3, "solution": true, "task": false}
def leaks(split, person):
    """The persons with scans in more than one split."""
    ### BEGIN SOLUTION
    splits = {}
    for scan, name in split.items():
        splits.setdefault(person[scan], set()).add(name)
    return {one for one, names in splits.items() if len(names) > 1}
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e9a", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
example_split = {"s1": "train", "s2": "validation", "s3": "test", "s4": "train", "s5": "train"}
example_person = {"s1": "anna", "s2": "anna", "s3": "ben", "s4": "cleo", "s5": "cleo"}
assert leaks(example_split, example_person) == {"anna"}
### BEGIN HIDDEN TESTS
assert leaks({"a": "train", "b": "test"}, {"a": 1, "b": 2}) == set()
three = {"a": "train", "b": "test", "c": "validation", "d": "test", "e": "test", "f": "validation"}
assert leaks(three, {"a": 1, "b": 1, "c": 2, "d": 3, "e": 3, "f": 1}) == {1}
assert leaks(three, {"a": 1, "b": 2, "c": 1, "d": 3, "e": 2, "f": 3}) == {1, 3}
### END HIDDEN TESTS

# %% [markdown]
# ### 9b. Repair the split (2 points)
#
# Write `repaired(split, person)`: a new split without leaks. All scans of a person who leaks go to the test
# split if one of them is there, else to validation. All other scans stay where they are, and no scan is
# lost.
#
# <details><summary>Hint</summary>
#
# Of the splits of a leaking person's scans, take the one that comes first in `("test", "validation",
# "train")`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "repaired", "locked": false, "schema_version": 3, "solution": true, "task": false}
def repaired(split, person):
    """The split with all scans of each person in one part: test before validation before train."""
    ### BEGIN SOLUTION
    order = ("test", "validation", "train")
    place = {}
    for scan, name in split.items():
        place[person[scan]] = min(place.get(person[scan], "train"), name, key=order.index)
    return {scan: place[person[scan]] for scan in split}
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e9b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
mended = repaired(example_split, example_person)
assert mended == {"s1": "validation", "s2": "validation", "s3": "test", "s4": "train", "s5": "train"}
### BEGIN HIDDEN TESTS
three = {"a": "train", "b": "test", "c": "validation", "d": "test", "e": "test", "f": "validation"}
before = dict(three)
mended = repaired(three, {"a": 1, "b": 1, "c": 2, "d": 3, "e": 3, "f": 1})
assert mended == {"a": "test", "b": "test", "c": "validation", "d": "test", "e": "test", "f": "test"}
assert three == before, "the split that is given must not change"
mended = repaired(three, {"a": 1, "b": 2, "c": 1, "d": 3, "e": 2, "f": 3})
assert mended == {"a": "validation", "b": "test", "c": "validation", "d": "test", "e": "test", "f": "test"}
### END HIDDEN TESTS

# %% [markdown]
# ### 9c. What a leak does (2 points)
#
# To see it in seconds we take made-up people and a method that is as old as it is simple. `scan(person,
# number)` is a slice of a made-up person: the anatomy depends on the person alone, the noise on the scan.
# The method learns pairs: a patch of 5 x 5 voxels of the LR image, and what its central voxel lacks in the
# LR image. For a new patch it looks up the `k` most similar ones and adds the mean of what they lacked.

# %% nbgrader={"grade": false, "grade_id": "example_based", "locked": true, "schema_version": 3, "solution": false, "task": false}
SIZE, KEEP, NEIGHBOURS = 48, 13, (1, 2, 4, 8, 16, 32)


def scan(person, number):
    """A slice of a made-up person: own anatomy, and noise that is new in each scan."""
    rng, noise = np.random.default_rng(person), np.random.default_rng([person, number])
    x, y = np.meshgrid(np.linspace(-1, 1, SIZE), np.linspace(-1, 1, SIZE), indexing="ij")
    image = np.where(x**2 / 0.8 + y**2 / 0.6 < 1, 0.6, 0)
    for _ in range(40):
        (a, b), (width, height) = rng.uniform(-0.65, 0.65, 2), rng.uniform(0.03, 0.25, 2)
        image[((x - a) / width) ** 2 + ((y - b) / height) ** 2 < 1] = rng.uniform(0.2, 1)
    return ndimage.gaussian_filter(image, 0.5) + 0.02 * noise.standard_normal(image.shape)


def patches(image):
    """All patches of 5 x 5 voxels, one per row."""
    return np.lib.stride_tricks.sliding_window_view(image, (5, 5)).reshape(-1, 25)


def scores(training, tested):
    """PSNR of the method for each number of neighbours k, trained on one list of scans, tested on a scan."""
    pairs = [(cut(hr, (KEEP, KEEP)), hr) for hr in (scan(*one) for one in training)]
    lacking = np.concatenate([patches(hr - lr)[:, 12] for lr, hr in pairs])
    tree = cKDTree(np.concatenate([patches(lr) for lr, hr in pairs]))
    hr = scan(*tested)
    lr = cut(hr, (KEEP, KEEP))
    nearest = tree.query(patches(lr), max(NEIGHBOURS))[1]
    centres = patches(lr)[:, 12], patches(hr)[:, 12]
    return {k: psnr(centres[0] + lacking[nearest[:, :k]].mean(axis=1), centres[1]) for k in NEIGHBOURS}


# Each scan is (person, number). Person 10 is validated on, person 11 is tested on.
validation_scan, test_scan = (10, 0), (11, 0)
honest_training = [(person, 0) for person in range(8)]
honest = {"validation": scores(honest_training, validation_scan), "test": scores(honest_training, test_scan)}

figure, axes = plt.subplots(1, 4, figsize=(11, 3))
draw(axes[0], scan(0, 0), "person 0, scan 0")
draw(axes[1], scan(*validation_scan), "person 10, scan 0")
draw(axes[2], scan(10, 1), "person 10, scan 1")
draw(axes[3], cut(scan(*validation_scan), (KEEP, KEEP)), "person 10, LR")
figure.tight_layout()

# %% [markdown]
# Break the split on purpose, choose `k` on validation as one should, and see what comes of it:
#
# - Set `leaked_training` to `honest_training` with its last scan replaced by scan 1 of person 10: both lists
#   are equally long.
# - Set `leaked` to the scores after training on it, a dictionary like `honest`.
# - Set `honest_k` and `leaked_k` to the `k` with the highest PSNR **on validation**, in `honest` and in
#   `leaked`.
# - Set `lost_on_test` to the test PSNR in `honest` at `honest_k` minus that in `leaked` at `leaked_k`.
#
# <details><summary>Hint</summary>
#
# `max(table, key=table.get)` is the key of the largest value of a dictionary `table`.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "broken_split", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
leaked_training = [*honest_training[:-1], (10, 1)]
leaked = {
    "validation": scores(leaked_training, validation_scan),
    "test": scores(leaked_training, test_scan),
}
honest_k, leaked_k = (max(table["validation"], key=table["validation"].get) for table in (honest, leaked))
lost_on_test = honest["test"][honest_k] - leaked["test"][leaked_k]
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "e9c", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert len(leaked_training) == len(honest_training) and set(leaked) == {"validation", "test"}
assert honest_k in NEIGHBOURS and leaked_k in NEIGHBOURS
### BEGIN HIDDEN TESTS
assert sorted(leaked_training) == [(person, 0) for person in range(7)] + [(10, 1)]
truth = {name: scores(leaked_training, one) for name, one in [("validation", (10, 0)), ("test", (11, 0))]}
for name, table in truth.items():
    assert all(np.isclose(leaked[name][k], table[k], atol=0.01) for k in NEIGHBOURS), name
right = [max(NEIGHBOURS, key=table["validation"].get) for table in (honest, truth)]
assert [honest_k, leaked_k] == right, "the k with the highest PSNR on validation"
assert np.isclose(lost_on_test, honest["test"][right[0]] - truth["test"][right[1]], atol=0.01)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "leak_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
unchanged = psnr(
    *(patches(image)[:, 12] for image in (cut(scan(*test_scan), (KEEP, KEEP)), scan(*test_scan)))
)
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True)
for ax, (title, tables) in zip(axes, {"honest split": honest, "leaked split": leaked}.items(), strict=True):
    for name, table in tables.items():
        ax.semilogx(list(table), list(table.values()), "o-", base=2, label=name)
    ax.axhline(unchanged, color="grey", linestyle="--", label="test, LR image unchanged")
    ax.set(title=title, xlabel="number of neighbours k", xticks=NEIGHBOURS, xticklabels=NEIGHBOURS)
axes[0].set_ylabel("PSNR (dB)")
axes[1].legend()
figure.tight_layout()
print(f"honest: k = {honest_k}; leaked: k = {leaked_k}; lost on the test person: {lost_on_test:.2f} dB")

# %% [markdown]
# **What is to be seen.** With the honest split, validation and test agree about a good `k`. With the leaked
# split validation is many dB higher, and it is highest where the method copies: `k = 1` finds the same
# place of the same person. The test person gains nothing, and the `k` that the leak chooses makes the image
# worse than it was. A network with 411,648 parameters can copy, too.
#
# ## Exercise 10: Find the invented detail
#
# A network that was trained to please a discriminator may draw detail that is sharp, plausible and not
# there. `restored(seed)` is such an image of the brain: it has all that the LR image measured, most of the
# detail that was cut, and **one small spot**, brighter or darker than it should be, that is not in the HR
# image.

# %% nbgrader={"grade": false, "grade_id": "restored_image", "locked": true, "schema_version": 3, "solution": false, "task": false}
hr = brain[:, :, 12].astype(float)
LR_KEEP, SR_KEEP = (21, 25), (57, 69)
lr = cut(hr, LR_KEEP)


def restored(seed):
    """An image with a spot that nobody measured, at a place that the seed draws."""
    rng = np.random.default_rng(seed)
    place = rng.choice(np.argwhere(ndimage.binary_erosion(hr > 0.25, iterations=10)))
    distance = ((np.indices(hr.shape) - place[:, None, None]) ** 2).sum(axis=0)
    spot = rng.choice([-0.4, 0.4]) * np.exp(-distance / (2 * 1.3**2))
    return cut(hr, SR_KEEP) + spot - cut(spot, LR_KEEP)


sr = restored(5)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.8))
for ax, (name, image) in zip(axes, {"LR": lr, "SR": sr, "HR": hr}.items(), strict=True):
    draw(ax, image, name if image is hr else f"{name}, {psnr(image, hr):.1f} dB")
figure.tight_layout()

# %% [markdown]
# **What is to be seen.** SR is much closer to HR than LR is, by eye and in dB. Can you find the spot before
# you compute it?
#
# ### 10a. Where is it? (2 points)
#
# Write `find_invented(sr, hr)`: the place `(x, y)` of the spot, as two integers, to within 2 voxels.
#
# <details><summary>Hint 1: where to look</summary>
#
# In the error map `sr - hr`. The spot may be brighter or darker than HR.
#
# </details>
#
# <details><summary>Hint 2: from a number to a place</summary>
#
# `np.argmax` counts voxels in one long line. `np.unravel_index(number, shape)` turns the number into
# indices.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "find_invented", "locked": false, "schema_version": 3, "solution": true, "task": false}
def find_invented(sr, hr):
    """Where (x, y) the image has a spot that is not in HR."""
    ### BEGIN SOLUTION
    place = np.unravel_index(abs(sr - hr).argmax(), hr.shape)
    return tuple(int(index) for index in place)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e10a", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
x, y = find_invented(sr, hr)
assert 0 <= x < hr.shape[0] and 0 <= y < hr.shape[1]
### BEGIN HIDDEN TESTS
for seed in range(20):
    place = np.random.default_rng(seed).choice(np.argwhere(ndimage.binary_erosion(hr > 0.25, iterations=10)))
    assert np.abs(np.array(find_invented(restored(seed), hr)) - place).max() <= 2, seed
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "error_map", "locked": true, "schema_version": 3, "solution": false, "task": false}
figure, axes = plt.subplots(1, 2, figsize=(8, 3.8))
draw(axes[0], sr, "SR")
drawn = draw(axes[1], sr - hr, "error map: SR - HR", cmap="RdBu_r", vmin=-0.3, vmax=0.3)
for ax in axes:
    ax.plot(*find_invented(sr, hr), "o", markersize=22, markerfacecolor="none", markeredgecolor="orange")
figure.colorbar(drawn, ax=axes.tolist(), shrink=0.8)

# %% [markdown]
# **What is to be seen.** In the error map the spot is the strongest place. In SR alone it looks like
# anatomy.
#
# ### 10b. Does the measurement contradict it? (2 points)
#
# The LR image is all that was measured. Write `contradiction(sr, lr, keep)`: cut SR to the samples that
# were measured, and return the largest absolute difference from `lr`, in any voxel. The function `cut` is
# above. Then set `scan_shows_it` to `True` or `False`: does this difference reveal the spot in `sr`?
#
# <details><summary>Hint</summary>
#
# This is the question of data consistency: would the SR image, had it been scanned with few samples, have
# given the LR image that we have? Print `contradiction(sr, lr, LR_KEEP)` before you answer.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "contradiction", "locked": false, "schema_version": 3, "solution": true, "task": false}
def contradiction(sr, lr, keep):
    """Largest absolute difference between LR and what the measured samples of SR make."""
    ### BEGIN SOLUTION
    return float(abs(cut(sr, keep) - lr).max())
    ### END SOLUTION


### BEGIN SOLUTION
scan_shows_it = False
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "e10b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert contradiction(hr, lr, LR_KEEP) < 1e-5, "HR made this LR image"
assert scan_shows_it in (True, False)
### BEGIN HIDDEN TESTS
assert np.isclose(contradiction(hr + 0.25, lr, LR_KEEP), 0.25, atol=1e-4)
assert np.isclose(contradiction(hr - 0.25, lr, LR_KEEP), 0.25, atol=1e-4)
assert contradiction(restored(3), lr, LR_KEEP) < 1e-4
assert np.isclose(contradiction(hr, 0 * lr, (41, 41)), abs(cut(hr, (41, 41))).max(), atol=1e-4)
assert not scan_shows_it, "the spot lies in the samples that were cut"
### END HIDDEN TESTS

# %% [markdown]
# ### 10c. Who can find it? (1 point)
#
# A radiologist has an SR image and the LR scan it was made from, and no HR scan. Which of these would show
# that the spot is invented? Set `would_show_it` to `"data consistency"`, `"PSNR"`, `"error map"` or `"none
# of them"`.
#
# <details><summary>Hint</summary>
#
# Which images does each of the three need? What did 10b say?
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "would_show_it", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
would_show_it = "none of them"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "e10c", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert would_show_it in ("data consistency", "PSNR", "error map", "none of them")
### BEGIN HIDDEN TESTS
assert would_show_it == "none of them"  # PSNR and the error map need HR, and the scan agrees with the spot
### END HIDDEN TESTS

# %% [markdown]
# A scan leaves open what lies in the samples that were not measured. Whatever a network puts there agrees
# with the scan, true or not. So a method is judged on people whose HR scan exists, and an SR image is no
# basis for a diagnosis.
