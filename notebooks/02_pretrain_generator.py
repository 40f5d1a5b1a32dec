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
# # Pretrain the generator: mDCSRN learns with L1
#
# The densely connected generator first learns to bring LR patches close to HR, voxel by voxel.
#
# **Goals.** Build the paper's generator, train it, watch it.
# **Inputs.** `runs/<profile>/prepared/` of `01_prepare_data`.
# **Outputs.** `runs/<profile>/pretrain/`: `generator.safetensors`, `checkpoint.pt`, `history.csv`,
# `examples/`.
# **Time.** Half a minute on the smoke profile, two to ten minutes on `demo` with two cores.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
patch_size = 16  # edge of the training cubes, in voxels
batch_size = 2  # cubes per step (2 in the paper)
patches = "random"  # "random" cubes of the foreground, or the original project's "grid"
flips = True  # flip random cubes along each axis
swap = False  # exchange the two coarse axes of every second random cube
gain = 0.0  # multiply intensities of random cubes by up to exp(gain), or divide them
usage = 1.0  # grid only: share of the cubes used in an epoch
leave_out = [0]  # grid only: numbers of cubes never used
pretrain_steps = 16  # updates of the generator
pretrain_learning_rate = 0.001  # of Adam (1e-4 in the paper)
rate_reconstruction = 0.05  # factor on the learning rate of the last 1x1x1 conv
rate_compressors = 0.3  # factor on the learning rate of the compressors
rate_schedule = "cosine"  # "constant" or "cosine"
rate_warmup = 4  # steps over which "cosine" rises
average = 0.95  # decay of the running average of the weights; 0: off
model = "mDCSRN"  # a name in sprl_utils.networks.MODELS; sprl_utils.comparison.networks adds three others
init = "edges"  # "edges", "identity" or the original project's "kaiming"
start_weights = ""  # path of a generator to go on from (fine-tuning); empty: a new one
edsr_steps = 8  # updates of EDSR, the network on the measured grid; 0: none
edsr_model = "EDSR"  # "EDSR" where a quarter of k-space is kept on two axes, "EDSR_2x2" where half is
edsr_start_weights = ""  # path of an EDSR to go on from; empty: a new one
edsr_learning_rate = 0.0005  # of Adam
edsr_batch_size = 2  # boxes per step
edsr_edges = [
    8,
    16,
    16,
]  # edges of its training boxes on D, H, W, in voxels; D is the axis that is kept whole
pretrain_every = 8  # steps between checkpoints, each with a look at the validation patches
validation_patches = 4  # number of fixed validation cubes
seed = 0  # of everything random
device = "auto"  # "auto", "cpu" or "cuda"
precision = "auto"  # "auto", "32-true" or "bf16-mixed"
devices = 1  # more than one: as many processes, started by torchrun, `batch_size` cubes in each

# %%
# %matplotlib inline
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from sprl_utils import figures, training
from sprl_utils.extras import stages, viewer
from sprl_utils.networks import count_parameters, make_generator, multiply_adds
from sprl_utils.patches import RandomPatches
from sprl_utils.prepare import load_prepared
from sprl_utils.runs import start_run

run = start_run(profile, "02_environment.json", seed)
root, runs, results = run.root, run.runs, run.results

# %% [markdown]
# ## The generator
#
# > *The paper* (its figure, "b4u4"): a first 3x3x3 conv to $2k$ maps ($k = 16$), four dense blocks of four
# > units (BatchNorm, ELU, 3x3x3 conv to $k$ maps), before each next block a 1x1x1 compressor to $2k$ maps
# > over all that came before, and a last 1x1x1 conv to one map.
#
# With $x_0$ the first conv's maps, $B_i$ the blocks and $C_i, R$ 1x1x1 convs over concatenations,
#
# $$x_i = B_i\!\left(C_i[x_0, x_1, \dots, x_{i-1}]\right), \qquad \mathrm{SR} = R[x_0, \dots, x_4].$$
#
# There is no up-sampling and no global skip. The start is *ours*: one map of the first conv passes the input
# through, and $R$ reads that map alone, so training starts at the LR image instead of at noise. With
# `init="edges"` all other 3x3x3 kernels have mean 0: their maps hold edges and no brightness.

# %% tags=["nbval-check-output"]
generator = make_generator(model, init)
print(
    f"{count_parameters(generator):,} parameters, sees {generator.receptive_radius} voxels to each side, "
    f"{multiply_adds(generator, 64) / 1e9:.0f} G multiply-adds for a 64-cube"
)
assert count_parameters(generator) == 411_648 or model != "mDCSRN"

# %% tags=["nbval-check-output"]
x = torch.randn(1, 1, 9, 10, 11)  # (N, C, D, H, W)
with torch.no_grad():
    change = (generator.eval()(x) - x).abs().max().item()
print("the untrained generator returns its input:", change == 0)

# %% [markdown]
# ## Patches
#
# Training heads and validation heads share no person and no average. The validation patches are fixed: number
# 0 to `validation_patches` - 1 of a stream with its own seed.

# %% tags=["nbval-check-output"]
train_heads, validation_heads = (load_prepared(runs / "prepared", split) for split in ("train", "validation"))
validation = RandomPatches(validation_heads, patch_size, seed + 1, flips=False)
print("train on", [p.meta["id"] for p in train_heads[:8]])
print("validate on", [p.meta["id"] for p in validation_heads[:8]])

# %% [markdown]
# ## Training
#
# $$\mathcal{L}_1 = \frac{1}{n} \sum_{v} \left| \mathrm{SR}_v - \mathrm{HR}_v \right|$$
#
# *The paper* trains 500,000 steps of Adam at $10^{-4}$ with two cubes per step; the demo has minutes. *Ours*
# has lower rates for the layers that read hundreds of maps, a cosine schedule, and averaged weights.
# `results/study/EXPLORATION.md` says how these settings were chosen.
#
# The plan is written to `runs/<profile>/pretrain_plan.json` and run in this process, or, with `devices`, in
# several that torchrun starts on that file. Stop the cell or kill the kernel whenever you like: started again
# it goes on from the last checkpoint, and on a CPU in fp32 ends with the very same bits. In JupyterLab and
# VS Code a progress bar and the curve grow as it trains.

# %%
settings = training.PretrainSettings(
    steps=pretrain_steps,
    batch_size=batch_size,
    learning_rate=pretrain_learning_rate,
    rate_reconstruction=rate_reconstruction,
    rate_compressors=rate_compressors,
    rate_schedule=rate_schedule,
    rate_warmup=rate_warmup,
    average=average,
    model=model,
    init=init,
    seed=seed,
    every=pretrain_every,
)
plan = {
    "profile": profile,
    "stage": "pretrain",
    "patches": {
        "kind": patches,
        "patch_size": patch_size,
        "seed": seed,
        "flips": flips,
        "usage": usage,
        "leave_out": leave_out,
        "swap": swap,
        "gain": gain,
    },
    "validation": {"patches": validation_patches, "patch_size": patch_size, "seed": seed + 1},
    "start": start_weights,
    "device": device,
    "precision": precision,
    "settings": vars(settings),
}
panels = {
    "L1": {"train_l1": "training", "l1": "validation"},
    "PSNR (dB)": {"psnr": "validation"},
    "SSIM": {"ssim": "validation"},
}
live = figures.LiveCurve(panels) if viewer.has_front_end() else None
history = stages.train(plan, devices, live)

# %%
lr_scores = training.zero_filled_scores(validation, validation_patches)
figure = figures.curves(history, panels, lr_scores)
figures.save(figure, results / "figures" / "pretrain_curves.png")

# %% [markdown]
# **What is to be seen.** `training` is the mean L1 over the training patches since the last point;
# `validation` is measured on the fixed validation patches with the averaged weights, and the dashed line is
# zero-filled LR on the same patches. Training loss is noisy because every step sees other patches. In the
# demo's 160 steps the network may well end on the wrong side of the line. Fine-tuning begins at step 0. The
# first and the last point as numbers:

# %%
pd.DataFrame(
    [
        {"image": "zero-filled LR", **lr_scores},
        *(
            {"image": f"SR, step {history['step'].iloc[i]:.0f}", **history.iloc[i][list(lr_scores)]}
            for i in (0, -1)
        ),
    ]
).round(4)

# %% [markdown]
# ## Along the way
#
# The validation patch with most contrast at the checkpoints, between its LR and HR.

# %%
saved = sorted((runs / "pretrain" / "examples").glob("*.npy"))
chosen = [saved[i] for i in np.unique(np.linspace(0, len(saved) - 1, 5).round().astype(int))]
number = np.argmax([validation.patch(i)[1].std() for i in range(validation_patches)])
figure = figures.examples(
    {f"step {int(p.stem.split('_')[1]):,}": np.load(p) for p in chosen},
    validation.subject(number).meta["affine"],
)
figures.save(figure, results / "figures" / "pretrain_examples.png")

# %% [markdown]
# **What is to be seen** (validation head, middle axial slice of one patch). SR starts as LR, and gains what
# contrast at edges the steps of this run could teach: after minutes, little that the eye can find. After long
# training, look twice: what SR has and HR has not is invented.

# %% [markdown]
# ## EDSR: a network on the measured grid
#
# A zero-filled 4x4 image holds one measured sample per sixteen voxels, yet mDCSRN computes 416 maps at each
# voxel. EDSR (Lim et al. 2017) computes where the samples are. The voxels of a block become the maps of one
# coarse voxel, eight residual blocks of two 3x3x3 convs follow, and a pixel shuffle (Shi et al. 2016) brings
# the maps back to the fine grid, where they are added to the input. The paper has no such network; *this
# study adds it*, on the same heads and with the same loss.

# %%
if edsr_steps:
    edsr = make_generator(edsr_model)
    print(
        f"{edsr_model}: {count_parameters(edsr):,} parameters on blocks of {edsr.reduction} voxels, "
        f"{multiply_adds(edsr, 64) / 1e9:.0f} G multiply-adds for a 64-cube"
    )
    edsr_settings = replace(
        settings,
        steps=edsr_steps,
        batch_size=edsr_batch_size,
        learning_rate=edsr_learning_rate,
        rate_reconstruction=1.0,
        rate_compressors=1.0,
        model=edsr_model,
        init="kaiming",
    )
    edsr_plan = plan | {
        "folder": "edsr",
        "patches": plan["patches"] | {"kind": "random", "patch_size": edsr_edges},
        "validation": plan["validation"] | {"patch_size": edsr_edges},
        "start": edsr_start_weights,
        "settings": vars(edsr_settings),
    }
    edsr_history = stages.train(edsr_plan, devices, live)
    boxes = RandomPatches(validation_heads, edsr_edges, seed + 1, flips=False)
    figure = figures.curves(edsr_history, panels, training.zero_filled_scores(boxes, validation_patches))
    figures.save(figure, results / "figures" / "edsr_curves.png")

# %% [markdown]
# **What is to be seen.** The same three curves for EDSR, on its own validation boxes. They cannot be compared
# with the curves above voxel by voxel, because the boxes differ; `04_evaluate` compares both networks on the
# same whole heads.

# %%
history.to_csv(results / "pretrain_history.csv", index=False)
outputs = [runs / "pretrain" / "generator.safetensors", results / "pretrain_history.csv"]
inputs = [root / path for path in (start_weights, edsr_start_weights) if path]
if edsr_steps:
    edsr_history.to_csv(results / "edsr_history.csv", index=False)
    outputs += [runs / "edsr" / "generator.safetensors", results / "edsr_history.csv"]
used = {
    **training.describe_fabric(training.make_fabric(device, precision)),
    **vars(settings),
    "patch_size": patch_size,
    "patches": patches,
    "flips": flips,
    "swap": swap,
    "gain": gain,
    "validation_patches": validation_patches,
    "processes": devices,
    "edsr": edsr_plan if edsr_steps else None,
}
run.finish(used, inputs, outputs, trained_in=runs / "pretrain")

# %% [markdown]
# ## Recap
#
# The generator has the paper's 411,648 parameters. It has learned with L1 alone, and so has EDSR. L1 rewards
# the mean of all sharp images that fit an LR one, which is blurred. Next: `03_train_gan` asks a discriminator
# for more.
