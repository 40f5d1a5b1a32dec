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
# Every method on the test heads: three interpolations, zero-filled LR, mDCSRN, mDCSRN-GAN and EDSR, and each
# of these networks with the measured part of k-space restored.
#
# **Goals.** Merged volumes without seams; PSNR, SSIM and NRMSE per head; measures that tell sharp from right;
# pictures that show where the errors are.
# **Inputs.** `runs/<profile>/` of the notebooks before.
# **Outputs.** `results/<profile>/`: `metrics.csv`, `summary.csv`, `table.md`, `detail.csv`, `rescan.csv`,
# `figures/`; volumes in the input's own units in `runs/<profile>/sr/`.
# **Time.** A minute on the smoke profile; one to four minutes per head with two cores.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
memory_gib = 4.0  # bound on the memory for the network's features; decides how many planes run together
edsr_steps = 16  # updates of EDSR, the network on the measured grid; 0: none
skip_air = False  # copy the air around the head instead of running the network there
regions = ["whole", "brain"]  # where methods are scored; also "head", "inner brain" and "brain box"
tissues = False  # segment grey and white matter in SR and HR; half a minute per image of a whole head
two_sample_patches = 32  # places of which a classifier is shown SR and HR, on each side; 0: no such test
seed = 0  # of everything random
device = "auto"  # "auto", "cpu" or "cuda"
precision = "auto"  # "auto", "32-true" or "bf16-mixed"
engine = "auto"  # of whole volumes: "auto", "openvino" (a compiler for CPUs) or "torch"

# %%
# %matplotlib inline
import numpy as np
import pandas as pd

from sprl_utils import evaluation, figures
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
heads = load_prepared(runs / "prepared", "test")
trained = {"mDCSRN": "pretrain", "mDCSRN-GAN": "gan"} | ({"EDSR": "edsr"} if edsr_steps else {})
weights = {name: runs / folder / "generator.safetensors" for name, folder in trained.items()}
fabric = make_fabric(device, precision)
generators = {name: channels_last(load_generator(path)).to(fabric.device) for name, path in weights.items()}
print("test heads:", ", ".join(f"{p.meta['id']} ({p.meta['kind']})" for p in heads))

# %% [markdown]
# ## Whole volumes
#
# The network reads the volume in one piece or, where memory is short, as a stream of planes of which it
# remembers what the next planes still need: the result is that of one pass over the whole volume, without
# seams. (*The original project* ran 180 overlapping cubes, cut 3 voxels off each, where the network sees 17,
# and merged the rest.)
#
# Interpolations start from the coarse image that the kept k-space samples make; zero-filling is the network's
# input. What was measured need not be guessed: with $P$ the cut to the kept samples and $z$ the LR image with
# the phase of $P(\mathrm{SR})$ (its magnitude alone was kept),
#
# $$\mathrm{SR}' = \mathrm{SR} + \operatorname{Re} P(z - P(\mathrm{SR}))$$
#
# has LR's samples where there are any and the network's elsewhere. The paper has no such step; it is known
# as data consistency in MR reconstruction. The column `data_consistency` says where it was done.

# %%
tables, shown = [], {}
for head in heads:
    made = evaluation.reconstruct(head, generators, memory_gib, skip_air, fabric_dtype(fabric), engine)
    tables.append(evaluation.score(head, made, profile, regions))
    networks = [one for one in made if one.network in generators and not one.data_consistency]
    shown[head.meta["id"]] = [one for one in made if one.network == "zero-filled"] + networks
    for one in networks:
        evaluation.save_volume(head, one.image, runs / "sr" / f"{head.meta['id']}_{one.network}.nii.gz")
scores = pd.concat(tables, ignore_index=True)

# %% [markdown]
# ## Numbers
#
# PSNR $= 10 \log_{10}(1 / \mathrm{MSE})$ dB, 3D SSIM with data range 1 (scikit-image's 7x7x7 window), NRMSE
# $= \lVert \mathrm{SR} - \mathrm{HR} \rVert / \lVert \mathrm{HR} \rVert$. First over the whole volume, then
# in the brain alone.
#
# `make study` trains for longer, without the person that it is then tested on. Where HR and LR are the same
# as here, its scores are added: they are read from `results/study_*/metrics.csv`, not computed. The column
# `source_run` names the run of each row.

# %%
scores = pd.concat([scores, held_out_rows(scores, root / "results", profile)], ignore_index=True)
whole = evaluation.results_table(scores, "whole")
whole

# %%
evaluation.results_table(scores, "brain")

# %% [markdown]
# **Read with care.** Every row is one training run with one seed. `colin27`, if it is here, is one person,
# the mean of 27 scans: sharp, with little noise. `bb1` and `bb2`, if they are here, are two noisy single
# scans of one other person; noise cannot be predicted, so no method can score as high there. What the
# networks were trained on is listed in `02_pretrain_generator`: in the demo, group averages and synthetic
# heads made from them.
# EDSR, where a profile trains it, needs some hundred steps before it is above zero-filling; after the smoke
# profile's 16 its image still holds the noise of its start.
#
# Mean and SD over the test heads, with parameters and seconds per volume on this machine. Seconds are missing
# (NaN) where `source_run` is another run, which may have had another machine:

# %%
summary = evaluation.summary(scores)
summary.round(4)

# %% [markdown]
# The difference that counts: PSNR and SSIM minus those of zero-filling, which costs no training. Negative
# values mean that zero-filling is better.

# %%
differences = evaluation.over_zero_filled(scores)
figure = figures.gains(differences)
figures.save(figure, results / "figures" / "gains.png")

# %% [markdown]
# **What is to be seen** (test heads). One point per head: left of the line a method is worse than
# zero-filling. Nearest and linear interpolation lie far to the left and are in the tables alone.

# %%
differences.round(4)

# %% [markdown]
# ## Sharp, or right?
#
# PSNR rewards blur where detail cannot be predicted. In the brain: HFEN (relative error of a Laplacian of
# Gaussian, 0 is best), similarity of the gradients' magnitudes (1 is best), and `classifier_accuracy`: the
# share of patches, half SR's and half HR's, that a fresh small classifier recognises (0.5 is chance).
# In the part of k-space that was cut: `band_power`, the power that is back there over HR's, and
# `band_correlation`, how much of that is right (1) rather than invented (0).

# %%
details = pd.concat(
    [detail.score(head, shown[head.meta["id"]], profile, two_sample_patches, seed) for head in heads],
    ignore_index=True,
)
details.round(4)

# %% [markdown]
# How good can it get on a noisy scan? Where a person was scanned twice (bb1 and bb2), the second scan,
# registered to the first, says so. Both are noisy: an image without noise could lie 3 dB higher than this.

# %%
rescans = rescan.score_rescans(heads)
rescans.round(4)

# %% [markdown]
# The same question by spatial frequency, on the first test head: correlation of the image's spectrum with
# HR's.

# %%
head = heads[0]
shells = {
    one.label: detail.shell_correlation(one.image, np.asarray(head.hr)) for one in shown[head.meta["id"]]
}
first_cut = detail.first_cut_frequency(head.shape, head.meta["keep"] or [None] * 3)
figure = figures.shell_correlation(shells, first_cut, f"{head.meta['id']} ({head.meta['split']})")
figures.save(figure, results / "figures" / "shell_correlation.png")

# %% [markdown]
# **What is to be seen** (test head). All images agree up to the upright line, where k-space was cut on two
# axes; beyond it zero-filling keeps only what lies along the third axis. A network restores detail where its
# curve lies above that, and spoils some where it lies below.
#
# ## Pictures
#
# The first test head, cut to the brain; left is on the left. In the error maps red is too bright and blue too
# dark. Titles repeat PSNR from the tables above.

# %%
figure = figures.comparison(shown[head.meta["id"]], head, scores)
figures.save(figure, results / "figures" / f"comparison_{head.meta['id']}.png")

# %% [markdown]
# **What is to be seen** (test head). The errors sit at edges between tissues and at vessels. Ringing parallel
# to edges in the zero-filled image is what a network can remove first; new detail shows only where the error
# map grows paler. Where no difference between the maps can be found, the network changed little.
#
# In JupyterLab and VS Code the next cell has three sliders to walk through the head; elsewhere it shows the
# middle.

# %%
images = {one.label: one.image for one in shown[head.meta["id"]]} | {"HR": np.asarray(head.hr)}
viewer.browse(images | {"mDCSRN - HR + 0.5": images["mDCSRN"] - images["HR"] + 0.5}, head)

# %% [markdown]
# The other heads' pictures go to `results/<profile>/figures/`, and a slice of every volume to
# `results/<profile>/slices/`.

# %%
for other in heads[1:]:
    name = other.meta["id"]
    figure = figures.comparison(shown[name], other, scores)
    figures.save(figure, results / "figures" / f"comparison_{name}.png")
    figures.plt.close(figure)
slices = {h.meta["id"]: {one.label: one.image for one in shown[h.meta["id"]]} | {"HR": h.hr} for h in heads}
figures.save_slices(slices, heads, results / "slices")

# %% [markdown]
# ## Does it help what people do with scans?
#
# Many studies measure the volumes of grey and white matter. dipy's classifier, a hidden Markov random field,
# segments the brain in each image, and its result in HR is the reference. Dice is 1 where both agree on every
# voxel.

# %%
overlap = pd.DataFrame()
if tissues:
    measured = {h.meta["id"]: [o for o in shown[h.meta["id"]] if o.network != "mDCSRN-GAN"] for h in heads}
    overlap = pd.concat([tissue.score(h, measured[h.meta["id"]], profile) for h in heads], ignore_index=True)
    overlap.to_csv(results / "tissue.csv", index=False)
    overlap = (
        overlap.groupby(["tissue", "network"], sort=False)["dice"].agg(["mean", "std", "count"]).round(4)
    )
overlap

# %% [markdown]
# ## Keep the results

# %%
scores.to_csv(results / "metrics.csv", index=False)
details.to_csv(results / "detail.csv", index=False)
rescans.to_csv(results / "rescan.csv", index=False)
summary.to_csv(results / "summary.csv", index=False)
(results / "table.md").write_text(whole.to_markdown(index=False) + "\n", encoding="utf-8")
chosen = choose_engine(engine, generators["mDCSRN"])
used = {"memory_gib": memory_gib, "skip_air": skip_air, "seed": seed, "engine": chosen}
used |= describe_fabric(fabric)
run.finish(used, inputs=weights.values(), outputs=[results / "metrics.csv"])
assert scores[["psnr", "ssim", "nrmse"]].notna().all().all()

# %% [markdown]
# ## Recap
#
# Is the sharper image the truer one? The table of differences answers for this run, on heads nobody trained
# on, with one seed: where it is positive, yes, by so much; where it is negative or near nothing, this run has
# not shown it. What the paper's 780 HCP subjects and 500,000 steps would give needs HCP (see the README) and
# a GPU.
