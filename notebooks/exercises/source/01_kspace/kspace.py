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
# # Exercises on k-space: what a scan of lower resolution loses
#
# You cut the k-space of a real slice, predict the error before you see it, and find the shape of the blur.
#
# **Follows** notebook `01_prepare_data`. **Exercises** 1 and 2, 10 points, about 45 minutes; every cell
# runs in seconds.
#
# **How it works.** Replace each line `raise NotImplementedError()` with your code. The cell below it tests
# your code, and your teacher's grader runs further tests of the same kind with other numbers. A passed cell
# prints nothing. A picture fails until the functions that it draws are written. Hints unfold with a click.
# Before you hand in, choose *Kernel, Restart Kernel and Run All Cells*.

# %% nbgrader={"grade": false, "grade_id": "kspace_setup", "locked": true, "schema_version": 3, "solution": false, "task": false}
# %matplotlib inline
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np

from sprl_utils import kspace

# A real brain that the package nibabel carries: a slice of 80 x 96 voxels. The bright end of tissue is 1.
file = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"
head = np.asarray(nib.load(file).dataobj[24:104, :, 12, 0], float)
head = np.clip(head / np.percentile(head[head > 0], 99.5), 0, 1.2)


def show(images, size=3.4, **options):
    """Draw named images side by side."""
    figure, axes = plt.subplots(1, len(images), figsize=(size * len(images), size * 0.9), squeeze=False)
    for ax, (name, image) in zip(axes[0], images.items(), strict=True):
        drawn = ax.imshow(image.T, origin="lower", **({"cmap": "gray", "vmin": 0, "vmax": 1} | options))
        ax.set_title(name)
        ax.axis("off")
    figure.colorbar(drawn, ax=axes[0].tolist(), shrink=0.8)


# %% [markdown]
# ## Exercise 1: Cut k-space
#
# A scan of lower resolution measures fewer samples of k-space. We make one by throwing samples away.
#
# ### 1a. Cut (2 points)
#
# Write `cut(image, keep)`. It transforms an image of two axes to k-space, keeps the central `keep[0]` times
# `keep[1]` samples, sets all others to 0, and transforms back. Of an axis of $n$ samples in the order of
# `np.fft.fftshift`, DC (frequency 0) is number `n // 2`, and the kept samples begin at number `n // 2 -
# keep // 2`. Return the complex image. (Here `keep` counts samples; in notebook 01 it is their share.)
#
# <details><summary>Hint 1: the order of the samples</summary>
#
# `np.fft.fft2` puts DC first. `np.fft.fftshift` moves it to the middle, and `np.fft.ifftshift` moves it
# back.
#
# </details>
#
# <details><summary>Hint 2: the steps</summary>
#
# Transform, shift, make an array of zeros of the same shape and type, copy the central box into it, shift
# back, transform back.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "cut", "locked": false, "schema_version": 3, "solution": true, "task": false}
def cut(image, keep):
    """The complex image that the central keep[0] x keep[1] samples of k-space make."""
    ### BEGIN SOLUTION
    samples = np.fft.fftshift(np.fft.fft2(image))
    starts = [n // 2 - k // 2 for n, k in zip(image.shape, keep, strict=True)]
    centre = tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))
    zero_filled = np.zeros_like(samples)
    zero_filled[centre] = samples[centre]
    return np.fft.ifft2(np.fft.ifftshift(zero_filled))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e1a", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
def of_package(image, keep):
    """The package cuts volumes of three axes, and returns a complex image where it is given one."""
    return kspace.truncate_kspace(image[None].astype(complex), (None, *keep))[0]


assert np.iscomplexobj(cut(head, (20, 24))), "the result has to be complex: do not take its magnitude"
assert np.allclose(cut(head, head.shape), head), "an image of which all samples are kept does not change"
assert np.allclose(cut(head, (20, 24)), of_package(head, (20, 24)), atol=1e-5), "the package's is another"
### BEGIN HIDDEN TESTS
assert np.allclose(cut(head, (1, 1)), head.mean()), "DC alone is the image's mean"
odd = head[0:71, 3:80]
for image, keep in [(odd, (27, 20)), (odd, (30, 13)), (head, (5, 96)), (head[:, :95], (53, 41))]:
    before = image.copy()
    assert np.allclose(cut(image, keep), of_package(image, keep), atol=1e-5), (image.shape, keep)
    assert np.array_equal(image, before), "the image that is given must not change"
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "kspace_pictures", "locked": true, "schema_version": 3, "solution": false, "task": false}
quarter = abs(cut(head, (20, 24)))
show({"head": head, "cut to 20 x 24 samples": quarter})
show({"error: cut - head": quarter - head}, cmap="RdBu_r", vmin=-0.3, vmax=0.3)

# %% [markdown]
# **What is to be seen.** The cut image is smooth, and thin stripes run along the rim of the brain: this is
# Gibbs ringing. The error map holds edges. Too bright is red, too dark is blue.
#
# ### 1b. Predict PSNR (2 points)
#
# Parseval's theorem says that an image and its k-space hold the same energy. For numpy's transform of an
# image of $N$ voxels
#
# $$\sum_{\text{voxels}} |x|^2 = \frac{1}{N} \sum_{\text{samples}} |X|^2 .$$
#
# So the error of the cut image is known before it is made. Write `predicted_psnr(image, keep)`: the PSNR in
# dB, for a data range of 1, of the complex image `cut(image, keep)` against `image`. Do not transform back.
#
# <details><summary>Hint 1: which energy</summary>
#
# Let $D$ be what was thrown away: the samples of the image outside the box, and 0 inside it. The transform
# is linear, so $D$ is the transform of the error image.
#
# </details>
#
# <details><summary>Hint 2: from energy to PSNR</summary>
#
# The mean squared error is the error's energy divided by the number of voxels $N$. Parseval's theorem
# brings another factor $1/N$. PSNR is $10 \log_{10}(1 / \mathrm{MSE})$.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "predicted_psnr", "locked": false, "schema_version": 3, "solution": true, "task": false}
def predicted_psnr(image, keep):
    """PSNR (dB, data range 1) of the image cut to `keep` samples, from the discarded energy."""
    ### BEGIN SOLUTION
    discarded = np.fft.fftshift(np.fft.fft2(image))
    starts = [n // 2 - k // 2 for n, k in zip(image.shape, keep, strict=True)]
    discarded[tuple(slice(start, start + k) for start, k in zip(starts, keep, strict=True))] = 0
    mse = (abs(discarded) ** 2).sum() / image.size**2
    return 10 * np.log10(1 / mse)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e1b", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert np.isclose(predicted_psnr(head, (20, 24)), 22.87, atol=0.01)
### BEGIN HIDDEN TESTS
waves = np.cos(2 * np.pi * 20 * np.arange(64) / 64)[:, None] * np.ones(48)
assert np.isclose(predicted_psnr(waves, (9, 9)), 10 * np.log10(2)), "a discarded cosine has the power 1/2"
for image, keep in [(head, (40, 48)), (head[:71, :77], (27, 20)), (3 * head, (20, 24))]:
    lost = np.fft.fftshift(np.fft.fft2(image))
    box = tuple(kspace.kept_slice(n, k) for n, k in zip(image.shape, keep, strict=True))
    lost[box] = 0
    error = np.fft.ifft2(np.fft.ifftshift(lost))
    assert np.isclose(predicted_psnr(image, keep), -10 * np.log10(np.mean(abs(error) ** 2)), atol=1e-6)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "kspace_psnr_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
shares = np.array([0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875])
keeps = [tuple(round(n * share) for n in head.shape) for share in shares]
measured = [-10 * np.log10(np.mean((abs(cut(head, keep)) - head) ** 2)) for keep in keeps]
plt.figure(figsize=(6, 3.6))
plt.plot(shares, [predicted_psnr(head, keep) for keep in keeps], label="predicted, complex image")
plt.plot(shares, measured, "o", label="measured, magnitude image")
plt.xlabel("share of the samples kept on each axis")
plt.ylabel("PSNR (dB)")
plt.legend()
plt.tight_layout()

# %% [markdown]
# **What is to be seen.** The prediction follows the measurement closely, and not exactly: the scanner's
# image is the magnitude $|z|$ of the complex image $z$.
#
# ### 1c. The magnitude (1 point)
#
# An image $x$ has no value below 0. How does the PSNR of the magnitude image $|z|$ compare with the one
# that you predicted for $z$, for every such $x$? Set `psnr_of_magnitude` to `"never lower"`, `"never
# higher"` or `"either"`, which means that it depends on the image.
#
# <details><summary>Hint</summary>
#
# Where $x \ge 0$, compare $\bigl||z| - x\bigr|$ with $|z - x|$ in one voxel. The triangle inequality for
# complex numbers helps.
#
# </details>

# %% nbgrader={"grade": false, "grade_id": "magnitude", "locked": false, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
psnr_of_magnitude = "never lower"
### END SOLUTION

# %% nbgrader={"grade": true, "grade_id": "e1c", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert psnr_of_magnitude in ("never lower", "never higher", "either")
### BEGIN HIDDEN TESTS
assert psnr_of_magnitude == "never lower", "| |z| - |x| | <= |z - x| at each voxel"
### END HIDDEN TESTS

# %% [markdown]
# ## Exercise 2: The point spread function
#
# What does the cut make of a single bright voxel? This image is the point spread function (PSF). The cut
# does the same to each voxel, so the PSF says all about the blur.
#
# ### 2a. The PSF (2 points)
#
# Write `psf(n, keep)` for one axis: a line of `n` voxels is 1 at voxel `n // 2` and 0 elsewhere, and of its
# k-space the `keep` central samples stay. Return the line after the cut, as real numbers. `keep` is odd
# here, so that the kept samples are symmetric and nothing imaginary is left.
#
# <details><summary>Hint</summary>
#
# You may cut the line as you cut the image, or write the closed form. It is a sum of `keep` waves,
# $\frac{1}{n} \sum_{f} e^{2 \pi i f m / n}$ for the frequencies $f = -\frac{k - 1}{2} \dots \frac{k -
# 1}{2}$ with $k$ for `keep` and $m$ for the distance to the bright voxel. It has a name: the Dirichlet
# kernel.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "psf", "locked": false, "schema_version": 3, "solution": true, "task": false}
def psf(n, keep):
    """The line of n voxels that a bright voxel at n // 2 becomes when `keep` (odd) samples stay."""
    ### BEGIN SOLUTION
    frequencies = np.arange(keep) - keep // 2
    distance = np.arange(n) - n // 2
    return np.cos(2 * np.pi * np.outer(distance, frequencies) / n).sum(axis=1) / n
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e2a", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
assert psf(64, 17).shape == (64,) and not np.iscomplexobj(psf(64, 17))
assert np.argmax(psf(64, 17)) == 32, "the PSF is highest where the bright voxel was"
assert np.isclose(psf(64, 17).sum(), 1), "DC stays, and so does the sum of the line"
### BEGIN HIDDEN TESTS
for n, keep in [(64, 17), (96, 25), (101, 51), (128, 1)]:
    distance = np.arange(n) - n // 2
    sines = np.sin(np.pi * keep * distance / n), n * np.sin(np.pi * distance / n)
    dirichlet = np.divide(*sines, out=np.full(n, keep / n), where=distance != 0)
    assert np.allclose(psf(n, keep), dirichlet, atol=1e-9), (n, keep)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "psf_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
figure, ax = plt.subplots(figsize=(7, 3.4))
for keep in (17, 33, 65):
    ax.plot(np.arange(128) - 64, psf(128, keep), ".-", label=f"{keep} of 128 samples kept")
ax.axhline(0, color="grey", linewidth=0.8)
ax.set(xlim=(-24, 24), xlabel="distance from the bright voxel (voxels)", ylabel="PSF")
ax.legend()
figure.tight_layout()

# %% [markdown]
# **What is to be seen.** Fewer samples make a wider and lower peak. On both sides the PSF falls below 0:
# next to a bright edge the image becomes too dark. The side lobes are Gibbs ringing.
#
# ### 2b. Its width (1 point)
#
# Write `first_zero(n, keep)`: the distance in voxels, to three digits or better, from the peak to the point where the
# PSF, as a continuous function of the distance, first is 0. It is also called the nominal resolution.
#
# <details><summary>Hint</summary>
#
# In the closed form $\frac{\sin(\pi k m / n)}{n \sin(\pi m / n)}$ look for the smallest $m > 0$ for which
# the numerator is 0. Compare with the figure.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "first_zero", "locked": false, "schema_version": 3, "solution": true, "task": false}
def first_zero(n, keep):
    """Distance in voxels from the peak of the PSF to its first zero."""
    ### BEGIN SOLUTION
    return n / keep
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e2b", "locked": true, "points": 1, "schema_version": 3, "solution": false, "task": false}
assert 3.5 < first_zero(128, 33) < 4.5, "see the figure"
### BEGIN HIDDEN TESTS
for n, keep, distance in ((128, 33, 128 / 33), (90, 45, 2), (320, 64, 5)):
    assert np.isclose(first_zero(n, keep), distance, rtol=1e-3), f"first_zero({n}, {keep}) is {distance:.3f}"
### END HIDDEN TESTS

# %% [markdown]
# ### 2c. Blur is a convolution (2 points)
#
# Write `blur(line, kernel)`: the circular convolution of a line with a PSF of the same length, whose peak
# lies at voxel `n // 2`. "Circular" means that the voxel after the last one is the first. The result has to
# be what the cut makes of the line.
#
# <details><summary>Hint 1: as a sum</summary>
#
# Each voxel of value $v$ at position $j$ becomes $v$ times the PSF, moved so that its peak lies at $j$.
# `np.roll(kernel, shift)` moves a line in a circle. Add these lines up.
#
# </details>
#
# <details><summary>Hint 2: as a product</summary>
#
# A convolution is a product of spectra. The peak has to lie at voxel 0 first: `np.fft.ifftshift(kernel)`.
#
# </details>


# %% nbgrader={"grade": false, "grade_id": "blur", "locked": false, "schema_version": 3, "solution": true, "task": false}
def blur(line, kernel):
    """Circular convolution of a line with a PSF whose peak lies at n // 2."""
    ### BEGIN SOLUTION
    peak = len(line) // 2
    return sum(value * np.roll(kernel, j - peak) for j, value in enumerate(line))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "e2c", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
bright_voxel = np.eye(64)[32]
kernel = np.exp(-0.5 * (np.arange(64) - 32) ** 2)
assert np.allclose(blur(bright_voxel, kernel), kernel), "a bright voxel in the middle becomes the kernel"
### BEGIN HIDDEN TESTS
lopsided = np.arange(64.0) ** 2
assert np.allclose(blur(np.eye(64)[5], lopsided), np.roll(lopsided, 5 - 32)), "the peak moves to the voxel"
for line, keep in [(head[40], 25), (head[:, 50], 31), (head[:71, 50], 51)]:
    n = len(line)
    made = np.real(np.fft.fftshift(np.fft.fft(np.fft.ifftshift(np.eye(n)[n // 2]))))
    made[abs(np.arange(n) - n // 2) > keep // 2] = 0
    kernel = np.fft.fftshift(np.fft.ifft(np.fft.ifftshift(made))).real
    low = kspace.truncate_kspace(np.asarray(line, complex)[None, None], (None, None, keep))[0, 0].real
    assert np.allclose(blur(line, kernel), low, atol=1e-5)
### END HIDDEN TESTS

# %% nbgrader={"grade": false, "grade_id": "gibbs_picture", "locked": true, "schema_version": 3, "solution": false, "task": false}
box = np.where(abs(np.arange(128) - 64) < 20, 1.0, 0.0)
figure, ax = plt.subplots(figsize=(7, 3.4))
ax.step(np.arange(128), box, where="mid", color="grey", label="box")
ax.plot(blur(box, psf(128, 33)), label="box, cut to 33 of 128 samples")
ax.set(xlabel="voxel", ylabel="intensity")
ax.legend(loc="center")
figure.tight_layout()

# %% [markdown]
# **What is to be seen.** The edges of the box become slopes about as wide as the nominal resolution, and
# the line overshoots beside them by about 9 % of the step. More samples make the ringing narrower and not
# lower.
