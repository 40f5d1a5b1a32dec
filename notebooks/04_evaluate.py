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
# # Evaluate: is the sharper image also the truer one?
#
# Every network meets heads that nobody trained on, and each claim about it gets a picture, a number and an
# interval.
#
# - **Goals.** Merge whole volumes without seams. See where the errors are before reading any score. Know how
#   PSNR, HFEN and Fourier shell correlation answer to a blurred, a sharpened and a noisy image. Tell restored
#   detail from invented detail.
# - **You need.** Notebooks 01 to 03, which prepare the heads and train the networks.
# - **Inputs.** `runs/<profile>/` of the notebooks before.
# - **Outputs.** `results/<profile>/`: `metrics.csv`, `differences.csv`, `summary.csv`, `table.md`,
#   `detail.csv`, `rescan.csv`, `figures/`, `slices/`; volumes in the input's own units in
#   `runs/<profile>/sr/`.
# - **Time.** Reading takes about 20 minutes. Running takes a minute on the smoke profile, and about a minute
#   per head on two cores with bfloat16.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
memory_gib = 4.0  # bound on the memory for the network's features; decides how many planes run together
model = "mDCSRN"  # the network that notebook 02 trained, by which tables name it
edsr_steps = 16  # updates of EDSR, the network on the measured grid; 0: none
edsr_mirrored = True  # also the mean of EDSR over mirrored volumes ("EDSR+"), which takes four times as long
skip_air = False  # copy the air around the head instead of running the network there
regions = ["whole", "brain"]  # where methods are scored; also "head", "inner brain" and "brain box"
tissues = False  # segment grey and white matter in SR and HR; half a minute per image of a whole head
two_sample_patches = 32  # places of which a classifier is shown SR and HR, on each side; 0: no such test
first_head = ""  # id of the test head that is shown in full; empty: the first of the manifest
second_scans = []  # ids of test heads that only serve to judge a first scan of the same person
seed = 0  # of everything random
device = "auto"  # "auto", "cpu" or "cuda"
precision = "auto"  # "auto", "32-true" or "bf16-mixed"
engine = "auto"  # of whole volumes: "auto", "openvino" (a compiler for CPUs) or "torch"

# %%
# %matplotlib inline
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy import ndimage

from sprl_utils import evaluation, figures, kspace, metrics
from sprl_utils.extras import detail, rescan, tissue, viewer
from sprl_utils.extras.weights import held_out_rows
from sprl_utils.inference import choose_engine
from sprl_utils.networks import channels_last, load_generator
from sprl_utils.prepare import load_prepared
from sprl_utils.runs import start_run
from sprl_utils.training import describe_fabric, fabric_dtype, make_fabric

run = start_run(profile, "environment.json", seed)
root, runs, results = run.root, run.runs, run.results

# %% tags=["nbval-check-output"]
test_heads = sorted(load_prepared(runs / "prepared", "test"), key=lambda p: p.meta["id"] != first_head)
heads = [p for p in test_heads if p.meta["id"] not in second_scans]
trained = {model: "pretrain", f"{model}-GAN": "gan"} | ({"EDSR": "edsr"} if edsr_steps else {})
weights = {name: runs / folder / "generator.safetensors" for name, folder in trained.items()}
fabric = make_fabric(device, precision)
generators = {name: channels_last(load_generator(path)).to(fabric.device) for name, path in weights.items()}
pictured = list(generators)
if edsr_steps and edsr_mirrored:
    generators["EDSR+"] = generators["EDSR"]
    pictured[pictured.index("EDSR")] = "EDSR+"
print("test heads:", ", ".join(f"{p.meta['id']} ({p.meta['kind']})" for p in heads))

# %% [markdown]
# ## Whole volumes
#
# A network trains on patches and then has to give a whole volume. Where memory allows, it reads the volume in
# one piece. Otherwise it reads parts that overlap by as much as the network sees, which gives the same
# result. A column of the first test head in two parts, with a margin of the network's reach and with the 3
# voxels that *the original project* cut off its cubes:

# %%
network = load_generator(weights[model])
reach = int(np.max(network.receptive_radius))
middle = [slice(n // 2 - 12, n // 2 + 12) for n in heads[0].shape[:2]]
column = torch.from_numpy(np.array(heads[0].lr[(*middle, slice(None))]))[None, None]
half = column.shape[-1] // 16 * 8  # a multiple of every network's blocks


def in_two_parts(margin):
    """The column in two parts that overlap by the margin, which is then cut off."""
    begin = max(0, half - margin)
    left, right = network(column[..., : half + margin]), network(column[..., begin:])
    return torch.cat([left[..., :half], right[..., half - begin :]], dim=-1)


with torch.no_grad():
    whole = network(column)
    seams = {margin: (in_two_parts(margin) - whole).abs().max().item() for margin in (3, reach)}
print(f"difference from one pass: {seams[3]:.4f} with a margin of 3, {seams[reach]:.0e} with {reach} voxels")
assert seams[reach] < 1e-4

# %% [markdown]
# The package has faster ways that give the same values: a compiler for CPUs (OpenVINO), and for mDCSRN in
# short memory a stream of planes, in which no plane is computed twice (`results/bench/README.md`).
#
# What was measured need not be guessed. With $P$ the cut to the kept samples and $z$ the LR image with the
# phase of $P(\mathrm{SR})$ (its magnitude alone was kept),
#
# $$\mathrm{SR}' = \mathrm{SR} + \operatorname{Re} P(z - P(\mathrm{SR}))$$
#
# has LR's samples where there are any and the network's elsewhere. The paper has no such step; it is known
# as data consistency in MR reconstruction, and notebook 01 draws it. The tables have both results in rows of
# their own, and pictures show the one with data consistency.
#
# A network's errors change when the volume is mirrored, and what is true does not. **EDSR+** (Lim et al.
# 2017) is the mean of EDSR over the volume mirrored along the axes that were cut, each result mirrored back.
# It costs no training, and four times the time. Pictures show it in place of EDSR.

# %%
tables, shown, cubic = [], {}, {}
for head in heads:
    name = head.meta["id"]
    made = evaluation.reconstruct(
        head, generators, memory_gib, skip_air, fabric_dtype(fabric), engine, mirrored=["EDSR+"]
    )
    tables.append(evaluation.score(head, made, profile, regions))
    consistent = head.meta["keep"] is not None  # else nobody knows which samples were measured
    networks = [one for one in made if one.network in pictured and one.data_consistency == consistent]
    shown[name] = [one for one in made if one.network == "zero-filled"] + networks
    cubic[name] = [one for one in made if one.network == "cubic"] if tissues else []
    for one in networks:
        evaluation.save_volume(head, one.image, runs / "sr" / f"{name}_{one.network}.nii.gz")
scores = pd.concat(tables, ignore_index=True)

# %% [markdown]
# ## The picture
#
# The piece of an axial slice of the first test head in which zero-filling is furthest from HR. HR is the
# truth, and every other column is made from the same LR. In the error maps red is too bright and blue is too
# dark. Titles give the PSNR of the tables below.

# %%
head = heads[0]
figure = figures.comparison(shown[head.meta["id"]], head, scores, whole_slice=False)
figures.save(figure, results / "figures" / "zoom.png")

# %% [markdown]
# **What is to be seen** (test head). Compare the zoom of a network with zero-filling first, and with HR then.
# Stripes parallel to edges are ringing, which a network can remove without knowing any anatomy. Folds of the
# cortex that are blurred in zero-filling and sharp in HR are detail. Where the error map of a network has the
# same pattern as that of zero-filling, nothing was restored; where it is paler, something was.
#
# ## The numbers
#
# PSNR $= 10 \log_{10}(1 / \mathrm{MSE})$ dB, 3D SSIM with data range 1 (scikit-image's 7x7x7 window), NRMSE
# $= \lVert \mathrm{SR} - \mathrm{HR} \rVert / \lVert \mathrm{HR} \rVert$. Zero-filling costs no training, so
# what counts is the difference from it, head by head:

# %%
scores = pd.concat([scores, held_out_rows(scores, root / "results", profile)], ignore_index=True)
differences = evaluation.over_zero_filled(scores)
figure = figures.gains(differences)
figures.save(figure, results / "figures" / "gains.png")

# %% [markdown]
# **What is to be seen** (test heads). One point per head, and a line at the mean of a data set that has more
# than one. Left of the upright line a method is worse than zero-filling.
#
# `source_run` names the run that a row comes from. Rows of another run than this one are read from
# `results/study_*/metrics.csv` and not computed. They are the shipped weights, on heads that they did not
# learn from, where HR and LR are the same as here.
#
# The same as a table: means over heads, with the interval in which the mean over many more such heads lies
# with 95 % (Student's t). `better` counts the heads on which a method is above zero-filling. A single head
# has no interval.

# %%
means = evaluation.mean_differences(differences)
means.round(3)

# %% [markdown]
# **Read with care.** Every row is one training run with one seed, so the interval says how heads differ and
# not how runs do. `colin27`, if it is here, is the mean of 27 scans of one person, sharp and with little
# noise. `bb1` is a noisy scan of another person, and the heads of `ds000011` are noisy, too: noise cannot be
# predicted, so no method can score as high there. `ds002748` are extracted brains with empty air around them,
# which every method gets right: read their `brain` and not their `whole`.
#
# ## How to read the measures
#
# PSNR rewards blur where detail cannot be predicted. Other measures look at detail itself. What they say is
# best learned on images of which we know what is wrong with them. Here HR itself is blurred, sharpened, and
# made noisy, so that the error has about the same size each time:

# %%
hr = np.asarray(head.hr)
brain, keep_of_head = np.asarray(head.brain), head.meta["keep"] or [None, 0.5, 0.5]
rms = np.sqrt(np.mean((np.asarray(shown[head.meta["id"]][0].image) - hr)[brain] ** 2)) / 2
change = hr - ndimage.gaussian_filter(hr, 1.5)
change *= rms / np.sqrt(np.mean(change[brain] ** 2))
noise = np.random.default_rng(seed).normal(0, rms, hr.shape).astype(np.float32)
known = {"blurred": hr - change, "sharpened": hr + change, "noisy": hr + noise}
judged = {
    name: {
        "psnr": metrics.psnr(image, hr, brain),
        "ssim": metrics.ssim(image, hr, brain),
        "hfen": detail.hfen(image, hr, brain),
        "gradient_similarity": detail.gradient_similarity(image, hr, brain),
        **detail.band(image, hr, keep_of_head),
    }
    for name, image in known.items()
}
pd.DataFrame(judged).T.round(3)

# %%
shells = {name: detail.shell_correlation(image, hr) for name, image in known.items()}
first_cut = detail.first_cut_frequency(head.shape, keep_of_head)
figure = figures.shell_correlation(shells, first_cut, f"{head.meta['id']}: HR, changed on purpose")
figures.save(figure, results / "figures" / "shell_correlation_known.png")

# %% [markdown]
# **What is to be seen** (test head, changed on purpose). All three have the same PSNR.
#
# - **HFEN** is the relative error of the edges (a Laplacian of Gaussian); 0 is best. It is the same for too
#   little and for too much sharpness.
# - **Gradient similarity** compares the steepness of edges; 1 is best.
# - `band_power` is the power in the part of k-space that LR lost, over HR's. It is below 1 for the blurred
#   image and above 1 for the other two: power alone cannot tell sharpening from noise.
# - `band_correlation` is how much of that power is right. It stays near 1 for blur and for sharpening, which
#   put nothing in the wrong place, and it falls with noise.
# - **Fourier shell correlation** is the same by spatial frequency. Blur and sharpening leave it near 1,
#   because they only scale a frequency. Noise makes it fall where the image has little power. So a curve that
#   falls says that detail of this frequency is wrong, invented, or missing in part of the shell, and never
#   that it is only too soft.
#
# ## Sharp, or right?
#
# The same measures of the networks, in the brain. `classifier_accuracy`, where it is given, is the share of
# patches, half SR's and half HR's, that a fresh small classifier recognises (0.5 is chance).

# %%
details = pd.concat(
    [detail.score(h, shown[h.meta["id"]], profile, two_sample_patches, seed) for h in heads],
    ignore_index=True,
)
details.groupby(evaluation.METHOD, sort=False).mean(numeric_only=True).round(3)

# %%
shells = {one.label: detail.shell_correlation(one.image, hr) for one in shown[head.meta["id"]]}
figure = figures.shell_correlation(shells, first_cut, f"{head.meta['id']} ({head.meta['split']})")
figures.save(figure, results / "figures" / "shell_correlation.png")

# %% [markdown]
# **What is to be seen** (the table is the mean over test heads, the curves are of the first one). All images
# agree up to the upright line, where k-space was cut on two axes; beyond it zero-filling keeps only what lies
# along the third axis. A network restores detail where its curve lies above that of zero-filling, and spoils
# some where it lies below.
#
# ### What is invented
#
# The part of an image that lies in the lost samples of k-space is its detail. LR has next to none (only what
# taking the magnitude adds, see `band_power` of zero-filling above), so what is there comes from the network.
# Beside HR's own detail it shows what was restored, what was missed, and what was invented:

# %%
best = shown[head.meta["id"]][-1]


def beyond_the_cut(image):
    """The part of an image in the samples of k-space that LR lost (see notebook 01)."""
    spectrum = np.fft.fftshift(np.fft.fftn(image))
    samples = zip(image.shape, kspace.kept_samples(image.shape, keep_of_head), strict=True)
    spectrum[tuple(slice(n // 2 - k // 2, n // 2 - k // 2 + k) for n, k in samples)] = 0
    return np.fft.ifftn(np.fft.ifftshift(spectrum)).real.astype(np.float32)


true, added = (figures.as_seen(beyond_the_cut(image), head) for image in (hr, best.image))
place = figures.most_brain(head)  # an axial plane
invented = np.where(true * added > 0, np.sign(added) * np.maximum(np.abs(added) - np.abs(true), 0), added)
inside = figures.as_seen(ndimage.binary_erosion(brain, iterations=2), head)[..., place]
worst = np.unravel_index(np.argmax(np.abs(invented[..., place]) * inside), inside.shape)

panels = {"HR's detail": true, f"{best.network}'s detail": added, "invented": invented}
limit = np.percentile(np.abs(true[..., place]), 99)
figure, axes = plt.subplots(1, 3, figsize=(10, 4.2), layout="constrained")
size = figures.size_seen(head.meta["affine"])
within = figures.as_seen(brain, head)
shares = [np.sum(image[within] ** 2) / np.sum(true[within] ** 2) for image in panels.values()]
for ax, (title, image), share in zip(axes, panels.items(), shares, strict=True):
    style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit, "aspect": size[1] / size[0]}
    drawn = ax.imshow(image[..., place].T, origin="lower", **style)
    ax.plot(*worst, "o", ms=14, mfc="none", mec="black")
    ax.set(title=f"{title}\n{share:.0%} of HR's power", xticks=[], yticks=[])
figure.colorbar(drawn, ax=axes, shrink=0.7, label="share of the intensity scale")
figures.save(figure, results / "figures" / "invented.png")

# %% [markdown]
# **What is to be seen** (test head). Detail of the network that HR also has, at the same place and with the
# same sign, is restored. *Invented* is what has the wrong sign or goes beyond HR's. Titles give the power in
# the brain, over that of HR's detail; a network that has learned for minutes adds little of either, and its
# panels are pale. The circle marks the largest invented value of this plane. On a scan of one's own nobody
# has HR, so nobody can draw the third panel: that is why these images are not for diagnosis.
#
# How good can it get on a noisy scan? Where a person was scanned twice (bb1 and bb2), the second scan,
# registered to the first, says so. Both are noisy: an image without noise could lie 3 dB higher than this. A
# profile names such scans as `second_scans`; no network is run on them, because two scans of one person are
# not two people.

# %%
rescans = rescan.score_rescans(test_heads)
rescans.round(4)

# %% [markdown]
# ## Does it help what people do with scans?
#
# Many studies measure the volumes of grey and white matter. dipy's classifier, a hidden Markov random field,
# segments the brain in each image, and its result in HR is the reference. Dice is 1 where both agree on every
# voxel. (`tissues` in a profile turns it on, because it takes longer than all of the above.)

# %%
if tissues:
    measured = {name: cubic[name] + [o for o in shown[name] if o.network != f"{model}-GAN"] for name in shown}
    overlap = pd.concat([tissue.score(h, measured[h.meta["id"]], profile) for h in heads], ignore_index=True)
    overlap.to_csv(results / "tissue.csv", index=False)
    figures.save(figures.tissue_overlap(overlap), results / "figures" / "tissue.png")

# %% [markdown]
# ## Every head
#
# In JupyterLab and VS Code the next cell has three sliders to walk through the first head; elsewhere it shows
# the middle.

# %%
images = {one.label: one.image for one in shown[head.meta["id"]]} | {"HR": hr}
viewer.browse(images | {f"{best.network} - HR + 0.5": best.image - hr + 0.5}, head)

# %% [markdown]
# The same head as a whole slice, cut to the brain; left is on the left. The other heads' pictures go to
# `results/<profile>/figures/`, and a slice of every volume to `results/<profile>/slices/`.

# %%
for number, other in enumerate(heads):
    name = other.meta["id"]
    figure = figures.comparison(shown[name], other, scores)
    figures.save(figure, results / "figures" / f"comparison_{name}.png")
    if number:
        plt.close(figure)
slices = {h.meta["id"]: {one.label: one.image for one in shown[h.meta["id"]]} | {"HR": h.hr} for h in heads}
figures.save_slices(slices, heads, results / "slices")

# %% [markdown]
# PSNR, SSIM and NRMSE of every method on every head, over the whole volume and in the brain alone:

# %%
whole = evaluation.results_table(scores, "whole")
whole

# %%
evaluation.results_table(scores, "brain")

# %% [markdown]
# Mean and SD over the test heads, with parameters and seconds per volume on this machine. Seconds are missing
# (NaN) where `source_run` is another run, which may have had another machine:

# %%
summary = evaluation.summary(scores)
summary.round(4)

# %%
scores.to_csv(results / "metrics.csv", index=False)
means.to_csv(results / "differences.csv", index=False)
details.to_csv(results / "detail.csv", index=False)
rescans.to_csv(results / "rescan.csv", index=False)
summary.to_csv(results / "summary.csv", index=False)
(results / "table.md").write_text(whole.to_markdown(index=False) + "\n", encoding="utf-8")
chosen = choose_engine(engine, generators[model])
used = {"memory_gib": memory_gib, "skip_air": skip_air, "seed": seed, "engine": chosen}
used |= describe_fabric(fabric)
run.finish(used, inputs=weights.values(), outputs=[results / "metrics.csv"])
assert scores[["psnr", "ssim", "nrmse"]].notna().all().all()

# %% [markdown]
# ## Recap
#
# Is the sharper image the truer one? The table of differences answers for this run, on heads nobody trained
# on, with one seed: where its interval lies above 0, yes, by so much; where it holds 0, this run has not
# shown it. A network can raise PSNR by removing ringing alone; only the detail that correlates with HR beyond
# the cut is super-resolution.
#
# **Try it.** Predict first: what does Fourier shell correlation make of an image that is shifted by one
# voxel? What of HR times 1.1? Which of the measures would notice a missing vessel?
#
# **References**
#
# - Wang et al. 2004, SSIM: [doi 10.1109/TIP.2003.819861](https://doi.org/10.1109/TIP.2003.819861)
# - Ravishankar and Bresler 2011, HFEN:
#   [doi 10.1109/TMI.2010.2090538](https://doi.org/10.1109/TMI.2010.2090538)
# - Harauz and van Heel 1986, Fourier shell correlation: Optik 73, 146-156
# - Xue et al. 2014, gradient similarity: [arXiv 1308.3052](https://arxiv.org/abs/1308.3052)
# - Lopez-Paz and Oquab 2017, classifier two-sample tests:
#   [arXiv 1610.06545](https://arxiv.org/abs/1610.06545)
# - Zhang, Brady and Smith 2001, tissue by a hidden Markov random field:
#   [doi 10.1109/42.906424](https://doi.org/10.1109/42.906424)
# - Lim et al. 2017, EDSR and the mean over mirrored images: [arXiv 1707.02921](https://arxiv.org/abs/1707.02921)
# - Blau and Michaeli 2017, why sharpness costs PSNR: [arXiv 1711.06077](https://arxiv.org/abs/1711.06077)
