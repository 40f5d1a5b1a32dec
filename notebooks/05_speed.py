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
# # Speed: how much faster than the original procedure, at the same answer?
#
# An appendix: the original project's procedure and this study's, on the same head, the same
# weights and the same machine.
#
# **Goals.** Ratios of time for each part of the work; peak memory; how far both outputs lie apart, and how
# far either lies from exact computation.
# **Inputs.** One head of the manifest, resampled to HCP's size. **Outputs.** `results/<profile>/`:
# `measurements.csv`, `ratios.csv`, `agreement.csv`, `losses.csv`, `networks.csv`, `figures/speed.png`,
# `bench_environment.json`.
# **Time.** Two minutes on the smoke profile, 12 minutes for `make bench` on two cores with bfloat16.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
manifest = "data_manifest/demo.csv"  # heads, sources, splits; a path from the repository root
bench_weights = "mDCSRN_2x2"  # shipped weights for inference; empty: an untrained start
bench_edsr = "EDSR_4x4"  # shipped weights of EDSR, timed on the largest volume; empty: not timed
bench_head = "oasis"  # id of the head that is resampled; of the training split
bench_sizes = [[40, 48, 48]]  # volumes on which inference is timed, the last is the largest
bench_memory_gib = 3.0  # bound on the memory for the network's features
bench_repeats = 1  # timed runs of each side; of the largest volume one is timed
original_cubes = 1  # of the largest volume the original procedure runs so many cubes; 0: all
bench_patch = 16  # edge of the cubes in training steps
compare_steps = 4  # training steps whose losses are compared
seed = 0  # of everything random

# %%
# %matplotlib inline
import numpy as np
import pandas as pd

from sprl_utils import figures
from sprl_utils.comparison import bench, figures as pictures
from sprl_utils.extras import weights
from sprl_utils.fetch import fetch
from sprl_utils.manifest import read_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.networks import MODELS
from sprl_utils.runs import start_run
from sprl_utils.volumes import read_volume

run = start_run(profile, "bench_environment.json", seed)
root, runs, results = run.root, run.runs / "bench", run.results
trained = str(weights.shipped(bench_weights)) if bench_weights else ""

# %% [markdown]
# ## What both sides get
#
# A head, cut to HCP's field of view and resampled; LR keeps half of k-space on two axes, the paper's 2x2. The
# share of voxels that are head (with a margin of five voxels) is what skipping air can save.

# %%
subject = next(s for s in read_manifest(root / manifest) if s.id == bench_head)
(file,) = fetch(subject, root / "runs" / "cache")
head = read_volume(file, subject.id).data
head = head / intensity_scale(head)
keep = [None, 0.5, 0.5]
folders = {}
for size in map(tuple, bench_sizes):
    folders[size] = folder = runs / "x".join(map(str, size))
    bench.write_inputs(folder, bench.head_of_size(head, size), keep)
    print(*size, f"{np.load(folder / 'head.npy').mean():.0%} head", sep="  ")
largest = tuple(bench_sizes[-1])

# %% [markdown]
# ## Inference
#
# *The original procedure*: 64-cubes every 58 voxels (180 of them for 256x320x320), fp32, contiguous tensors,
# everything concatenated, three voxels cut off each side. *Ours*: exact inference, with and without running
# the network on air. Each side runs in a process of its own with the same weights. Speed does not depend on
# them, but how far the outputs lie apart does.

# %%
measured = []
for size, folder in folders.items():
    facts = {"folder": str(folder), "memory_gib": bench_memory_gib, "weights": trained}
    few = original_cubes if size == largest else 0
    times = 1 if size == largest else bench_repeats
    plain = bench.measure("inference", "original", 1, 0, folder / "original.npy", cubes=few, **facts)
    whole = bench.measure("inference", "ours", times, 0, folder / "ours.npy", **facts)
    facts |= {"skip_air": True}
    skipping = bench.measure("inference", "ours", times, 0, folder / "skipping.npy", **facts)
    name = folder.name
    measured += [m | {"task": "inference", "size": name} for m in (plain, whole)]
    measured += [m | {"task": "inference, air skipped", "size": name} for m in (plain, skipping)]
bench.ratios(measured)

# %% [markdown]
# ### At the same answer?
#
# PSNR against HR of each output, and between both. *Exact* is one pass of the network over the whole volume
# in fp32, computed where it fits in memory, which is the smallest volume. The original's seams are where
# 64-cubes with a margin of 3 miss what a network that sees 17 voxels needs.

# %%
smallest = folders[min(folders)]
agreement = pd.DataFrame([bench.agreement(f, f == smallest, trained) for f in folders.values()])
agreement.round(3)

# %% [markdown]
# ## Training
#
# A step of pretraining, and of each network in the GAN stage, on two cubes. The original's D step has no
# gradient penalty (it clips weights); ours has, which costs a second backward pass.

# %%
edge = f"2 x {bench_patch}-cube"
for task in ("pretraining step", "D step", "G step"):
    for side in bench.SIDES:
        measured.append(bench.measure(task, side, bench_repeats, patch_size=bench_patch) | {"size": edge})
bench.ratios([m for m in measured if m["size"] == edge])

# %% [markdown]
# The same losses? Both sides train the same generator on the same two cubes, from the same start. In bfloat16
# they may part by its rounding (8 bits, 0.4 %) and by what training makes of that; in fp32 they begin
# alike and part slowly, because training multiplies the rounding of each step.

# %%
traces = {
    side: bench.measure("pretraining step", side, 1, 0, patch_size=16, steps=compare_steps)["losses"]
    for side in bench.SIDES
}
traces = pd.DataFrame(traces)
apart = (traces["ours"] / traces["original"] - 1).abs()
print(f"losses of {compare_steps} steps differ by {apart.mean():.2%} in the mean, at most {apart.max():.2%}")
assert apart.head(10).max() < 0.02

# %% [markdown]
# ## The other networks
#
# > *The paper* says of mDCSRN that it runs 6x faster; the page of its authors' repository, which holds no
# > code, adds: than SRResNet.
#
# Each generator once on the same cube on HR's grid, in this study's implementation of all of them. The
# paper's SRResNet may have worked on the coarse grid; ours does not, because LR comes zero-filled.

# %%
compared = [
    bench.measure("network", "ours", bench_repeats, model=model, edge=bench_patch) | {"model": model}
    for model in MODELS
]
compared = pd.DataFrame(compared)[["model", "parameters", "multiply_adds", "seconds"]]
compared["seconds"] = compared["seconds"].map(np.median)
compared["times_mDCSRN"] = compared["seconds"] / compared["seconds"][compared["model"] == "mDCSRN"].item()
compared.round(4)

# %% [markdown]
# EDSR computes on the measured grid, which at 4x4 has a sixteenth of the voxels. On the largest volume,
# against the original's procedure with mDCSRN:

# %%
name, both = folders[largest].name, []
if bench_edsr:
    facts = {"folder": str(folders[largest]), "memory_gib": bench_memory_gib}
    facts["weights"] = str(weights.shipped(bench_edsr))
    edsr = bench.measure("inference", "ours", bench_repeats, **facts)
    both = [m for m in measured if (m["task"], m["size"], m["side"]) == ("inference", name, "original")]
    both = [m | {"task": "inference, EDSR", "size": name} for m in (*both, edsr)]
    measured += both
bench.ratios(both) if both else None

# %% [markdown]
# ## LR from HR
#
# *The original* takes a full 3D transform in double precision; ours transforms the degraded axes alone.

# %%
folder = folders[largest]
for side in bench.SIDES:
    facts = {"folder": str(folder), "keep": keep}
    measured.append(bench.measure("LR", side, bench_repeats, **facts) | {"size": folder.name})
bench.ratios(measured[-2:])

# %% [markdown]
# ## All ratios
#
# Medians of the runs; of the largest volume the original ran a share of its cubes (`original_cubes`), and
# its time is that over the share.

# %%
table = bench.ratios(measured)
figure = pictures.speed(table)
figures.save(figure, results / "figures" / "speed.png")

# %% [markdown]
# **What is to be seen.** On the left, how many times faster each part of the work is at its largest size; a
# bar to the left of 1 is a part that became slower. On the right, how time grows with the volume. The axes
# are logarithmic.

# %%
table.round(3)

# %%
tables = {
    "ratios": table,
    "agreement": agreement,
    "measurements": bench.long_table(measured),
    "networks": compared,
}
for name, frame in tables.items():
    frame.to_csv(results / f"{name}.csv", index=False)
traces.rename_axis("step").to_csv(results / "losses.csv")
used = {
    "bench_sizes": bench_sizes,
    "bench_memory_gib": bench_memory_gib,
    "original_cubes": original_cubes,
    "bench_weights": bench_weights,
    "bench_edsr": bench_edsr,
}
run.finish(used, outputs=[results / "ratios.csv"])

# %% [markdown]
# ## Recap
#
# The ratios hold for this machine, this run and these sizes. On processors with bfloat16 arithmetic
# (AVX512-BF16, AMX) and on GPUs the dense units run in it, which widens them; on others all is fp32.
