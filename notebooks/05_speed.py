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
# The original project's procedure and this study's, on the same head, the same weights and the same machine.
#
# **Goals.** Ratios of time for each part of the work; peak memory; how far both outputs lie apart, and how
# far either lies from exact computation; how near the machine's own limit the network runs.
# **Inputs.** One head of the manifest, resampled to HCP's size. **Outputs.** `results/<profile>/`:
# `measurements.csv`, `ratios.csv`, `agreement.csv`, `losses.csv`, `ceilings.csv`, `operations.csv`,
# `networks.csv`, `figures/speed.png`, `bench_environment.json`.
# **Time.** Two minutes on the smoke profile, 20 to 45 minutes for `make bench` on two cores.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
manifest = "data_manifest/demo.csv"  # heads, sources, splits; a path from the repository root
bench_head = "oasis"  # id of the head that is resampled; of the training split
bench_sizes = [[40, 48, 48]]  # volumes on which inference is timed, the last is the largest
bench_memory_gib = 3.0  # bound on the memory for the network's features
bench_repeats = 1  # timed runs of each side; of the largest volume one is timed
original_cubes = 1  # of the largest volume the original procedure runs so many cubes; 0: all
bench_patch = 16  # edge of the cubes in training steps
compare_steps = 4  # training steps whose losses are compared
feed_subjects = 2  # prepared subjects of the largest size on disk, for drawing patches
feed_patches = 8  # patches drawn in one timed run
bench_matrix = 512  # edge of the matrices that show the machine's limit
seed = 0  # of everything random

# %%
# %matplotlib inline
import shutil

import numpy as np
import pandas as pd

from sprl_utils import figures, metrics
from sprl_utils.comparison import bench
from sprl_utils.fetch import fetch
from sprl_utils.manifest import read_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.networks import MODELS
from sprl_utils.runs import start_run
from sprl_utils.volumes import read_volume

run = start_run(profile, "bench_environment.json", seed)
root, runs, results = run.root, run.runs / "bench", run.results

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
# everything concatenated, three voxels cut off each side. *Ours*: a stream of planes, with and without
# running the network on air. Each side runs in a process of its own, on the same random weights near the
# identity: speed does not depend on what the weights are.

# %%
measured = []
for size, folder in folders.items():
    facts = {"folder": str(folder), "memory_gib": bench_memory_gib}
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
agreement = pd.DataFrame([bench.agreement(f, exact=f == smallest) for f in folders.values()])
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
# ## Feeding, preparing, scoring
#
# *The original* loads whole volumes and cuts them into 100 cubes; ours reads random patches where they lie on
# disk. Its LR is a full 3D transform in double precision. Its metrics are scikit-image's. *Subject*: from the
# compressed file to all that training and evaluation read, masks included; the original left that to MATLAB.

# %%
bench.write_subjects(runs / "subjects", folders[largest], feed_subjects)
for side in bench.SIDES:
    facts = {"folder": str(runs / "subjects"), "patches": feed_patches, "edge": min(bench.CUBE, *largest)}
    feeding = bench.measure("feeding", side, bench_repeats, **facts)
    measured.append(feeding | {"size": f"{feed_subjects} subjects"})
    for task, extra in (("LR", {"keep": keep}), ("metrics", {})):
        facts = {"folder": str(folders[largest]), **extra}
        measured.append(bench.measure(task, side, bench_repeats, **facts) | {"size": folders[largest].name})
shutil.rmtree(runs / "subjects")
facts = {"folder": str(folders[largest])}
measured.append(bench.measure("subject", "ours", bench_repeats, 0, **facts) | {"size": folders[largest].name})
print(f"first patch after {feeding['first_patch_s']:.2f} s; the process holds {feeding['peak_gib']:.2f} GiB")
scores = {m["side"]: m for m in measured if m["task"] == "metrics"}
off = max(abs(scores["ours"][name] - scores["original"][name]) for name in metrics.METRICS)
print(f"PSNR, SSIM and NRMSE differ from scikit-image's by at most {off:.0e}")
assert off < 1e-4

# %% [markdown]
# What that makes for 1,113 subjects, HCP's number: memory does not grow with subjects, because each patch
# opens its file and lets it go; the disk does.

# %%
bytes_each = 2 * 4 * float(np.prod([256, 320, 320])) + 2 * float(np.prod([256, 320, 320]))
print(f"1,113 prepared subjects of 256x320x320: {1113 * bytes_each / 2**40:.2f} TiB on disk")

# %% [markdown]
# ## Why not faster? The machine's limit
#
# A large matrix product is the best that this machine does. `floor_s` is what a task's operations (counted by
# torch, both of a multiply-add) would take at that rate; `share_of_limit` is how near ours comes, and
# `at_most` how many times faster than the original anything could be here that computes the same.

# %%
limit = bench.measure("matrix product", "ours", 3, size=bench_matrix)
middle = folders[sorted(folders)[len(folders) // 2]]
tasks = {
    "inference": {"folder": str(middle), "memory_gib": bench_memory_gib},
    **dict.fromkeys(("pretraining step", "D step", "G step"), {"patch_size": bench_patch}),
}
profiled = [
    bench.measure("profile", "ours", 1, 0, profiled=task, **facts)
    | {"task": task, "size": middle.name if task == "inference" else edge}
    for task, facts in tasks.items()
]
ceilings = bench.ceilings(measured, profiled, limit["gflops"])
print(f"matrix product in {limit['dtype']}: {limit['gflops']:.0f} GFLOP/s")
ceilings.round(3)

# %% [markdown]
# Where the time goes, by kind of operation. What is not a convolution (normalisation, activation, copies) is
# bound by memory rather than by arithmetic.

# %%
operations = bench.operations(profiled)
operations.round(3)

# %% [markdown]
# ## All ratios
#
# Medians of the runs; of the largest volume the original ran a share of its cubes (`original_cubes`), and
# its time is that over the share.

# %%
table = bench.ratios(measured)
figure = figures.speed(table)
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
    "ceilings": ceilings,
    "operations": operations.reset_index(),
    "networks": compared,
}
for name, frame in tables.items():
    frame.to_csv(results / f"{name}.csv", index=False)
traces.rename_axis("step").to_csv(results / "losses.csv")
used = {
    "bench_sizes": bench_sizes,
    "bench_memory_gib": bench_memory_gib,
    "original_cubes": original_cubes,
    "matrix_gflops": limit["gflops"],
    "matrix_dtype": limit["dtype"],
}
run.finish(used, outputs=[results / "ratios.csv"])

# %% [markdown]
# ## Recap
#
# The ratios hold for this machine, this run and these sizes. On processors with bfloat16 arithmetic
# (AVX512-BF16, AMX) and on GPUs the dense units run in it, which widens them; on others all is fp32, and no
# procedure can pass the matrix product's rate.
