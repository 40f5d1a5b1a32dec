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
# - **Goals.** Know every layer of the paper's generator, count its parameters and how far it sees. Do one
#   training step by hand, then train it and watch it. Understand why L1 alone leaves an image blurred.
# - **You need.** `01_prepare_data`, and a first acquaintance with convolutions. Terms are explained in
#   `notebooks/glossary.md`.
# - **Inputs.** `runs/<profile>/prepared/` of `01_prepare_data`.
# - **Outputs.** `runs/<profile>/pretrain/`: `generator.safetensors`, `checkpoint.pt`, `history.csv`,
#   `examples/`.
# - **Time.** Reading takes about 30 minutes. Running takes half a minute on the smoke profile, and two to
#   ten minutes on `demo` with two cores.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
patch_size = 16  # edge of the training cubes, in voxels
batch_size = 2  # cubes per step (2 in the paper)
patches = "random"  # "random" cubes, "slices" (cubes of thick slices), or the original project's "grid"
flips = True  # flip random cubes along each axis
swap = False  # exchange the two coarse axes of every second random cube
gain = 0.0  # multiply intensities of random cubes by up to exp(gain), or divide them
pretrain_steps = 16  # updates of the generator
pretrain_learning_rate = 0.001  # of Adam (1e-4 in the paper)
rate_reconstruction = 0.05  # factor on the learning rate of the last 1x1x1 conv
rate_compressors = 0.3  # factor on the learning rate of the compressors
rate_schedule = "cosine"  # "constant" or "cosine"
rate_warmup = 4  # steps over which "cosine" rises
gradient_norm = 0.0  # longer gradients are shortened to it; 0: none
restarts = []  # steps at which "cosine" begins anew
average = 0.95  # decay of the running average of the weights; 0: off
model = "mDCSRN"  # a name in sprl_utils.networks.MODELS, to which CONTRIBUTING.md says how to add one
init = "edges"  # "edges", "identity" or the original project's "kaiming"
start_weights = ""  # path of a generator to go on from (fine-tuning); empty: a new one
edsr_steps = 16  # updates of EDSR, the network on the measured grid; 0: none
edsr_restarts = []  # steps at which its "cosine" begins anew
edsr_model = "EDSR"  # "EDSR" where a quarter of k-space is kept on two axes, "EDSR_2x2" where half is
edsr_start_weights = ""  # path of an EDSR to go on from; empty: a new one
edsr_learning_rate = 0.0005  # of Adam
edsr_gradient_norm = 0.05  # longer gradients are shortened to it; 0: none
edsr_batch_size = 2  # boxes per step
edsr_edges = [8, 16, 16]  # edges of its training boxes on D, H, W; D is the axis kept whole
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
# Square brackets join maps along the channel axis. There is no up-sampling and no global skip. As a drawing,
# with numbers of maps at the arrows:

# %%
from sprl_utils.networks import Generator

figure = figures.dense_network(growth_rate=16, blocks=4, units=4)
figures.save(figure, results / "figures" / "network.png")

# %% [markdown]
# **What is to be seen** (a drawing). A **map** is one channel, an image of its own with the size of the
# input. The black line stands for all maps made so far, joined to one tensor. An arrow down reads all of
# them, an arrow up adds new ones. Above, the first conv makes 32 maps, and each block adds 96. Below, the
# same idea inside a block: each of the four units reads everything before it and adds $k = 16$ maps, so 32
# become 96. That is what "densely connected" means: nothing that was computed is computed again, and a
# gradient has a short way back to every layer. The price is that the readers grow, and so the 1x1x1
# compressors bring 128, 224 and 320 maps back to 32 before the next block.
#
# The start is *ours*: one map of the first conv passes the input through, and $R$ reads that map alone, so
# training starts at the LR image instead of at noise. With `init="edges"` all other 3x3x3 kernels have mean
# 0: their maps hold edges and no brightness.

# %% tags=["nbval-check-output"]
generator = make_generator(model, init)
print(
    f"{count_parameters(generator):,} parameters, sees {generator.receptive_radius} voxels to each side, "
    f"{multiply_adds(generator, 64) / 1e9:.0f} G multiply-adds for a 64-cube"
)
assert count_parameters(generator) == 411_648 or model != "mDCSRN"

# %% [markdown]
# ### Where the parameters are
#
# A 3x3x3 conv makes each output voxel as a weighted sum of 27 voxels of every input map, so it has 27 weights
# for each pair of an input and an output map. A 1x1x1 conv has one. There are no biases. BatchNorm brings
# each map to mean 0 and variance 1 and then has a scale and a shift for it. ELU has no parameters: it bends
# negative values, without which a chain of convs would be no more than one conv. That is all it takes to
# count:

# %% tags=["nbval-check-output"]
k, blocks, units = 16, 4, 4
width = 2 * k  # maps that enter a block
grown = width + units * k  # maps that leave it
unit_parameters = [2 * maps + 27 * maps * k for maps in range(width, grown, k)]  # BatchNorm, conv
counted = {
    "first conv": 27 * 1 * width,
    **{f"block {i}": sum(unit_parameters) for i in range(blocks)},
    "compressors": sum((width + i * grown) * width for i in range(1, blocks)),
    "reconstruction": width + blocks * grown,
}
mdcsrn = make_generator("mDCSRN", "edges")
assert counted["block 0"] == count_parameters(mdcsrn.block0) == 97_216
assert sum(counted.values()) == count_parameters(mdcsrn) == 864 + 4 * 97_216 + 21_504 + 416 == 411_648
table = pd.DataFrame({"parameters": counted})
table.assign(share=[f"{count / 411_648:.1%}" for count in table["parameters"]])

# %% [markdown]
# Nearly all parameters are in the dense units. The reconstruction has the fewest, and yet all of SR passes
# through it: SR is the sum of the 416 maps, each times one of its weights.
#
# ### How far it sees
#
# An output voxel depends on the input voxels in its **receptive field**. A 3x3x3 conv looks one voxel to each
# side, and a conv on top of it one further. 1x1x1 convs, BatchNorm and ELU look at the voxel itself. The
# longest way through the network passes the first conv and all 16 units:

# %% tags=["nbval-check-output"]
reach = 1 + blocks * units * 1
print(f"{reach} voxels to each side, a cube with an edge of {2 * reach + 1}")

thin = Generator(growth_rate=2, init="kaiming").eval()  # fewer maps, the same wiring: cheap to differentiate
cube = torch.randn(1, 1, 41, 41, 41, requires_grad=True)
thin(cube)[0, 0, 20, 20, 20].backward()  # how the middle output voxel depends on each input voxel
influence = cube.grad[0, 0].abs()
farthest = int((influence.nonzero() - 20).abs().max())
print(f"farthest voxel with any influence, measured: {farthest}")
assert farthest == reach == mdcsrn.receptive_radius

# %%
import matplotlib.pyplot as plt

within = [float(influence[20 - r : 21 + r, 20 - r : 21 + r, 20 - r : 21 + r].sum()) for r in range(21)]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
image = left.imshow(
    torch.log10(influence[20] / influence.max() + 1e-12), cmap="magma", extent=(-20.5, 20.5, -20.5, 20.5)
)
left.set(title="influence on the voxel in the middle", xlabel="voxels", ylabel="voxels")
right.plot([share / within[-1] for share in within], ".-")
right.axvline(reach, color="black", ls="--", lw=0.8)
right.set(title="share of all influence within a cube", xlabel="voxels to each side", ylabel="share")
figure.colorbar(image, ax=left).set_label("log$_{10}$ of the influence")

# %% [markdown]
# **What is to be seen** (a narrow network with random weights, on noise). Left: the influence ends sharply at
# 17 voxels, where it has faded by ten powers of ten. Right: nearly all of it comes from within seven or eight
# voxels. The reach is what tiles must overlap by when a volume is computed in parts, if no seam is to show
# (`04_evaluate`). What such a network mainly uses is far smaller. The paper's cubes have 64 voxels to an
# edge, the demo's 32. In those, every voxel's receptive field of 35 leaves the cube and sees the zeros around
# it.
#
# ### The start

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
validation = stages.validation_patches(validation_heads, patches, patch_size, seed + 1)
print("train on", [p.meta["id"] for p in train_heads[:8]])
print("validate on", [p.meta["id"] for p in validation_heads[:8]])

# %% [markdown]
# ## One training step by hand
#
# Training repeats one small step. Two LR cubes go through the network and become SR. The **loss** is their
# mean absolute difference from HR (L1). `backward` computes the gradient of the loss with respect to each of
# the 411,648 weights, and **Adam** moves each weight against its gradient, in the first step by about the
# learning rate:

# %%
from sprl_utils.patches import batch

cubes = RandomPatches(train_heads, 16, seed)
torch.manual_seed(seed)
student = make_generator("mDCSRN", "edges")
before = [p.detach().clone() for p in student.parameters()]
adam = torch.optim.Adam(student.parameters(), lr=1e-4)

lr_cubes, hr_cubes = batch(cubes, step=0, batch_size=2)  # each (N, C, D, H, W) = (2, 1, 16, 16, 16)
student.train()  # BatchNorm takes mean and variance from these two cubes
sr_cubes = student(lr_cubes)
loss = (sr_cubes - hr_cubes).abs().mean()
adam.zero_grad()
loss.backward()
adam.step()

# %% [markdown]
# The package must do the same. We let it train for one step, with the same seed and cubes, and compare all
# weights:

# %% tags=["nbval-check-output"]
import tempfile
from pathlib import Path

from sprl_utils.networks import load_generator

with tempfile.TemporaryDirectory() as folder:
    one_step = training.PretrainSettings(steps=1, learning_rate=1e-4, init="edges", seed=seed)
    looked_at = RandomPatches(validation_heads, 16, seed)
    fabric = training.make_fabric("cpu", "32-true")
    training.pretrain(cubes, looked_at, 1, Path(folder) / "run", one_step, fabric)
    package = load_generator(Path(folder) / "run" / "generator.safetensors")
pairs = list(zip(student.parameters(), package.parameters(), strict=True))
assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in pairs)
moved = sum(int((p != old).sum()) for p, old in zip(student.parameters(), before, strict=True))
print(f"the same weights as training.pretrain; this step moved {moved} of {count_parameters(student):,}")

# %% [markdown]
# So few weights move because of the start: the reconstruction reads one map alone, so no gradient reaches the
# others. This first step gives its 416 weights and the 27 of that map's kernel a push, and from the second
# step on all layers learn.
#
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
if model == "EDSR" and edsr_steps:
    raise ValueError("model EDSR: expected edsr_steps: 0, because the tables have one network of each name")
settings = training.PretrainSettings(
    steps=pretrain_steps,
    batch_size=batch_size,
    learning_rate=pretrain_learning_rate,
    rate_reconstruction=rate_reconstruction,
    rate_compressors=rate_compressors,
    rate_schedule=rate_schedule,
    rate_warmup=rate_warmup,
    restarts=restarts,
    gradient_norm=gradient_norm,
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
    "L1 (training patches)": {"train_l1": "training"},
    "L1 (validation patches)": {"l1": "validation"},
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
# zero-filled LR on the same patches. PSNR and SSIM measure how close an image is to HR, and more is better;
# notebook 04 defines both. Training loss is noisy because every step sees other patches. A few hundred steps
# on a few heads, as in the smoke run and the demo, end near the line and often on its wrong side. The study's
# curve, `results/study_4x4/figures/pretrain_curves.png`, rises far above it. Where `start_weights` names
# trained weights, the curve has a point at step 0, which shows them. The first and the last point as numbers:

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
    validation.subject(number).turned_affine,
)
figures.save(figure, results / "figures" / "pretrain_examples.png")

# %% [markdown]
# **What is to be seen** (validation head, middle axial slice of one patch). SR starts as LR, and gains what
# contrast at edges the steps of this run could teach: after minutes, little that the eye can find. After long
# training, look twice: what SR has and HR has not is invented.

# %% [markdown]
# ## One slice on its way through the maps
#
# The forward pass is the drawing read from left to right. We walk it by hand through a slab of a validation
# head, with the weights just trained (where a profile trains another network, with an untrained mDCSRN), and
# keep a few maps of each block:

# %% tags=["nbval-check-output"]
walked = load_generator(runs / "pretrain" / "generator.safetensors") if model == "mDCSRN" else mdcsrn.eval()
head = validation_heads[0]
lr_turned, hr_turned = (np.transpose(image, head.order) for image in (head.lr, head.hr))  # cut axes last
slab = training.central_box(lr_turned.shape, (16, 96, 96))
x = torch.from_numpy(np.array(lr_turned[slab]))[None, None]  # (D, H, W) becomes (N, C, D, H, W)
with torch.no_grad():
    maps = walked.conv0(x)
    kept = {"first conv": maps[0, :3]}
    print(f"first conv: {maps.shape[1]} maps")
    for i in range(blocks):
        entering = maps if i == 0 else getattr(walked, f"comp{i - 1}")(maps)
        leaving = getattr(walked, f"block{i}")(entering)
        maps = torch.cat([maps, leaving], dim=1)
        kept[f"block {i}"] = leaving[0, [width, width + k, width + 3 * k]]  # one of its units 1, 2 and 4
        print(f"block {i} reads {entering.shape[1]} maps and adds {leaving.shape[1]}: {maps.shape[1]} so far")
    sr_slab = walked.recon(maps)
    assert torch.allclose(sr_slab, walked(x), atol=1e-5)

# %%
columns = {"LR, SR, HR": [x[0, 0], sr_slab[0, 0], hr_turned[slab]], **kept}
figure, axes = plt.subplots(3, len(columns), figsize=(9, 4.9), layout="constrained")
for column, (name, images) in zip(axes.T, columns.items(), strict=True):
    for ax, image in zip(column, images, strict=True):
        middle = np.asarray(image)[len(image) // 2, 6:-6, 6:-6]  # without the rim that sees padding
        low, high = (0, 1) if column[0] is axes[0, 0] else np.percentile(middle, (1, 99))
        ax.imshow(middle.T, origin="lower", cmap="gray", vmin=low, vmax=high)
        ax.set(xticks=[], yticks=[])
    column[0].set_title(name)

# %% [markdown]
# **What is to be seen** (validation head, the middle slice of the slab; each map with a grey scale of its
# own). The first column is LR, SR and HR from top to bottom. First conv: with the start `edges` the map at
# the top passes the image on, and the others answer edges of different directions. Blocks: further edges,
# ridges and spots, computed from edges. No map is "the cortex" or "a vessel", and most of them can be read by
# the network alone. SR is the weighted sum of all 416 maps.
#
# ## Why L1 blurs
#
# Many sharp images have the same LR. Which one does a network answer that has learned with L1? The smallest
# case: an edge that lies at voxel 12 or at voxel 20, equally often, while LR shows the same ramp for both.
# And a second case: a thin bright line at one of five places. We look for the one answer whose mean loss over
# all truths is smallest, by going down the gradient from LR, for L1 and for the squared difference L2:

# %% tags=["nbval-check-output"]
place = torch.arange(32)
edge_truths = torch.stack([(place >= 12).float(), (place >= 20).float()])
line_truths = torch.stack([(place == p).float() for p in range(14, 19)])
cases = {
    "an edge at 12 or at 20": (edge_truths, ((place - 7) / 18).clamp(0, 1)),
    "a line at one of five places": (line_truths, torch.exp(-(((place - 16) / 5) ** 2)) / 4),
}
answers = {}
for case, (truths, blurred) in cases.items():
    for name, power in (("L1", 1), ("L2", 2)):
        answer = blurred.clone().requires_grad_(True)
        adam = torch.optim.Adam([answer], lr=0.005)
        for _ in range(400):
            loss = (answer - truths).abs().pow(power).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        answers[case, name] = answer.detach()

edge_l1, edge_l2, line_l1, line_l2 = answers.values()
assert torch.allclose(edge_l2, edge_truths.mean(dim=0), atol=0.02)
assert torch.allclose(line_l2, line_truths.mean(dim=0), atol=0.02)
assert torch.allclose(line_l1, line_truths.median(dim=0).values, atol=0.02)
print("L2 gives the mean of the truths, and L1 their median at each voxel")
print("between the two edges L1 moved nothing:", torch.equal(edge_l1[12:20], ((place - 7) / 18)[12:20]))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
for ax, (case, (truths, blurred)) in zip(axes, cases.items(), strict=True):
    for i, truth in enumerate(truths):
        ax.step(place, truth, where="mid", color="0.6", label="" if i else "the truths")
    ax.plot(place, blurred, ":", color="black", label="LR, where training starts")
    ax.plot(place, answers[case, "L1"], ".-", label="answer of L1")
    ax.plot(place, answers[case, "L2"], ".-", label="answer of L2")
    ax.set(title=case, xlabel="voxel", ylim=(-0.05, 1.5))
    ax.legend(loc="upper left", ncols=2)

# %% [markdown]
# **What is to be seen** (made-up signals). Left: where both truths agree, both losses find them. Between the
# two edges L2 gives the mean, a grey step that no truth has. L1 gives a median, and of two equally likely
# values all that lie between are equally good: its gradient is zero there, so the blur that LR began with
# stays. Right: each place is dark more often than bright, so L1 removes the line altogether, and L2 leaves a
# faint smear. Each loss gives the best answer *on average*, and no sharp one. A sharp answer would have to
# choose one of the truths, and would pay for it when it chooses wrongly.

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
        restarts=edsr_restarts,
        gradient_norm=edsr_gradient_norm,
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
# **What is to be seen** (validation boxes). Unlike mDCSRN, EDSR does not start at the LR image. Its convs
# start at random, which adds a grid of noise, so it begins far below the dashed line. In the study, which
# learns from 36 people, it is above the line within 500 steps. The smoke run and the demo
# end too early for that. The demo's heads are averages and drawn ones, and a network that learns what is
# special to them may even get worse on the validation head. The boxes are not those of the curves above:
# `04_evaluate` compares both networks on the same whole heads.

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
# - The generator has the paper's 411,648 parameters, nearly all of them in 16 dense units, and sees 17 voxels
#   to each side.
# - A step is a forward pass, a loss, a gradient, and a move of all weights. The package repeats that, with
#   averaged weights and a schedule of the rate.
# - L1 rewards the median of all sharp images that fit an LR one. Where they disagree, that is blurred, or
#   empty.
# - EDSR learned from the same heads with the same loss. It computes on the measured grid.
#
# **Try it.** Predict first: how many parameters has a network of growth rate 8, and how far does it see? What
# happens to the L1 answer when the edge lies at 12 in two of three cases?
#
# **References**
#
# - Chen et al. 2018, the paper: [arXiv 1803.01417](https://arxiv.org/abs/1803.01417)
# - Chen et al. 2018, its predecessor DCSRN: [arXiv 1801.02728](https://arxiv.org/abs/1801.02728)
# - Huang et al. 2016, densely connected networks: [arXiv 1608.06993](https://arxiv.org/abs/1608.06993)
# - Ioffe and Szegedy 2015, BatchNorm: [arXiv 1502.03167](https://arxiv.org/abs/1502.03167)
# - Clevert et al. 2015, ELU: [arXiv 1511.07289](https://arxiv.org/abs/1511.07289)
# - Kingma and Ba 2014, Adam: [arXiv 1412.6980](https://arxiv.org/abs/1412.6980)
# - Luo et al. 2017, the effective receptive field: [arXiv 1701.04128](https://arxiv.org/abs/1701.04128)
# - Lim et al. 2017, EDSR: [arXiv 1707.02921](https://arxiv.org/abs/1707.02921)
# - Shi et al. 2016, the pixel shuffle: [arXiv 1609.05158](https://arxiv.org/abs/1609.05158)
# - Zhao et al. 2015, losses for image restoration: [arXiv 1511.08861](https://arxiv.org/abs/1511.08861)
#
# Next: `03_train_gan` asks a discriminator for more.
