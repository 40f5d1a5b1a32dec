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
# # Train the GAN: mDCSRN against a WGAN-GP discriminator
#
# A second network learns to tell SR from HR, and the generator learns to please it a little while staying
# close to HR.
#
# - **Goals.** Know what a Wasserstein distance is and how a network measures it. Do one step of the
#   discriminator D and one of the generator G by hand. Train a true WGAN-GP with the paper's schedule, and
#   see that G is trained.
# - **You need.** `01_prepare_data` and `02_pretrain_generator`. Terms are explained in
#   `notebooks/glossary.md`.
# - **Inputs.** `runs/<profile>/prepared/`, `runs/<profile>/pretrain/generator.safetensors`.
# - **Outputs.** `runs/<profile>/gan/`: both networks, checkpoint, history.
# - **Time.** Reading takes about 30 minutes. Running takes half a minute on the smoke profile and some
#   minutes on `demo`.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
patch_size = 16  # edge of the training cubes, in voxels; a multiple of 16
batch_size = 2  # cubes per step (2 in the paper)
patches = "random"  # "random" cubes of the foreground, or the original project's "grid"
flips = True  # flip random cubes along each axis
gan_steps = 24  # updates of either network
gan_learning_rate = 0.0001  # of Adam (5e-6 in the paper)
gan_warmup = 8  # first steps, of D alone (10,000 in the paper)
d_per_g = 3  # D steps for each G step (7 in the paper)
extra_every = 500  # steps of the cycle after which D gets extra ones
extra = 200  # number of those extra D steps
adversarial_weight = 0.001  # of -D(SR) beside L1 (paper)
penalty_weight = 10.0  # of the gradient penalty (WGAN-GP's own)
discriminator_width = 8  # maps of D's first conv (64 in the paper)
discriminator_head = "gap"  # "gap" or "fc"
negative_slope = 0.2  # of D's LeakyReLU; 1 in the original project, which makes D linear
gan_every = 8  # steps between checkpoints
gan_validate_every = 24  # steps between validations on merged volumes
validation_crop = [32, 48, 48]  # central box that is validated; empty: the whole head
seed = 0  # of everything random
device = "auto"  # "auto", "cpu" or "cuda"
precision = "auto"  # "auto", "32-true" or "bf16-mixed"
engine = "auto"  # of whole volumes: "auto", "openvino" (a compiler for CPUs) or "torch"
devices = 1  # more than one: as many processes, started by torchrun, `batch_size` cubes in each

# %%
# %matplotlib inline
import pandas as pd

from sprl_utils import figures, training
from sprl_utils.extras import stages, viewer
from sprl_utils.inference import choose_engine
from sprl_utils.networks import Discriminator, count_parameters, load_generator
from sprl_utils.prepare import load_prepared
from sprl_utils.runs import start_run

run = start_run(profile, "03_environment.json", seed)
root, runs, results = run.root, run.runs, run.results

# %% [markdown]
# ## Warm-up: how far apart are two clouds?
#
# `02_pretrain_generator` ended with a dilemma: a loss per voxel rewards the middle of all sharp answers, and
# that is no sharp answer. A loss that compares *sets* of images can do better. It does not ask whether this
# SR is close to this HR, but whether SR images as a set look like HR images as a set.
#
# The **Wasserstein distance** between two sets is such a loss. Move the points of one set onto those of the
# other, so that the moves are as short as possible in all: the distance is their mean length. In two
# dimensions we can compute it exactly. One cloud stands for HR, the other for SR:

# %% tags=["nbval-check-output"]
import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

rng = np.random.default_rng(0)
points = 200
angle = rng.uniform(0, 2 * np.pi, points)
hr_cloud = 2 * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(0, 0.1, (points, 2))
sr_cloud = rng.normal(0, 0.5, (points, 2))

lengths = np.linalg.norm(sr_cloud[:, None] - hr_cloud[None], axis=2)  # of every possible move
moved, target = linear_sum_assignment(lengths)  # the cheapest way to pair them all
exact = lengths[moved, target].mean()
means_apart = np.linalg.norm(hr_cloud.mean(axis=0) - sr_cloud.mean(axis=0))
print(f"Wasserstein distance {exact:.2f}; the means of the clouds are {means_apart:.2f} apart")

# %% [markdown]
# Images are points in a space of many thousand dimensions, of which only a few are at hand at a time, so
# nobody can pair them. The way out is a theorem (Kantorovich and Rubinstein): the distance is also the
# largest difference of mean scores
#
# $$W = \max_{D} \; \overline{D(\mathrm{HR})} - \overline{D(\mathrm{SR})}$$
#
# that any function $D$ can reach whose gradient is nowhere longer than 1. A network is such a function if
# it is trained to make the difference large and the norm of its gradient 1. **WGAN-GP** asks for that norm
# with a **gradient penalty**, which it measures at random places between the two sets. Here is all of it,
# for two networks: one with LeakyReLU of slope 0.2 on the negative side, and one of slope 1, as in the
# original project:

# %% tags=["nbval-check-output"]
hr_points, sr_points = (torch.tensor(cloud, dtype=torch.float32) for cloud in (hr_cloud, sr_cloud))
critics, estimates = {}, {}
for slope in (0.2, 1.0):
    torch.manual_seed(0)
    critic = nn.Sequential(
        nn.Linear(2, 64), nn.LeakyReLU(slope), nn.Linear(64, 64), nn.LeakyReLU(slope), nn.Linear(64, 1)
    )
    adam = torch.optim.Adam(critic.parameters(), lr=0.005)
    critics[slope], estimates[slope] = critic, []
    for _ in range(300):
        share = torch.rand(points, 1)
        between = (share * hr_points + (1 - share) * sr_points).requires_grad_(True)
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (gradient.norm(dim=1) - 1).square().mean()
        wasserstein = critic(hr_points).mean() - critic(sr_points).mean()
        loss = 10 * penalty - wasserstein
        adam.zero_grad()
        loss.backward()
        adam.step()
        estimates[slope].append(wasserstein.item())

assert abs(estimates[0.2][-1] / exact - 1) < 0.15
assert abs(estimates[1.0][-1] / means_apart - 1) < 0.15
print("slope 0.2 finds the distance within 15 %; slope 1 finds the distance of the means")

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(9.5, 3.5), layout="constrained")
for ax in (left, middle):
    ax.plot(*hr_cloud.T, ".", color="tab:blue", label="HR")
    ax.plot(*sr_cloud.T, ".", color="tab:orange", label="SR")
    ax.set(aspect="equal", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
left.plot(*np.stack([sr_cloud[moved], hr_cloud[target]], axis=1).T, color="gray", lw=0.4, zorder=0)
left.legend(loc="upper right")
left.set_title("the cheapest moves")

grid = torch.linspace(-2.6, 2.6, 60)
with torch.no_grad():
    scores = critics[0.2](torch.cartesian_prod(grid, grid)).reshape(60, 60)
middle.contour(grid, grid, scores.T, levels=12, cmap="gray", linewidths=0.8)
some = sr_points[::8].clone().requires_grad_(True)
(uphill,) = torch.autograd.grad(critics[0.2](some).sum(), some)
middle.quiver(*some.detach().T, *uphill.T, angles="xy", scale_units="xy", scale=1, width=0.008)
middle.set_title("D's scores (lines), and uphill (arrows)")

for slope, found in estimates.items():
    right.plot(found, label=f"D with LeakyReLU {slope}")
right.axhline(exact, color="black", ls="--", label="exact distance")
right.axhline(means_apart, color="black", ls=":", label="distance of the means")
right.set(title="D's estimate", xlabel="step of D", ylim=(0, 2.9))
right.legend(loc="upper right")
figures.save(figure, results / "figures" / "two_clouds.png")

# %% [markdown]
# **What is to be seen** (made-up points). Left: each SR point has its partner on the ring. Middle: D has
# built a landscape that rises from the SR cloud to the ring. An arrow at an SR point is what G is told: "go
# there, and your score rises". It leads each point outward, to a place where HR points are, and not to
# their mean in the middle. Right: D with LeakyReLU of 0.2 finds the distance. It ends a little above it,
# because the penalty tolerates a gradient slightly longer than 1. A LeakyReLU of 1 is the identity, so that
# network is linear, whatever its size. A linear D sees the means alone, and those nearly agree: it tells G
# next to nothing.
#
# ## The discriminator
#
# > *The paper* (its figure): SRGAN's discriminator in 3D, LayerNorm instead of BatchNorm, 64 to 512 maps,
# > four convs of stride 2, dense 1024, dense 1.
#
# The penalty of WGAN-GP speaks about the gradient at each sample on its own; BatchNorm would mix samples.

# %% tags=["nbval-check-output"]
discriminator = Discriminator(patch_size, discriminator_head, negative_slope, discriminator_width)
print(f"discriminator for cubes of {patch_size}: {count_parameters(discriminator):,} parameters")

# %% [markdown]
# ## Losses
#
# $$\mathcal{L}_D = D(\mathrm{SR}) - D(\mathrm{HR}) + 10\,\left(\lVert \nabla_{\hat x} D(\hat x) \rVert_2 -
# 1\right)^2, \qquad \hat x = \epsilon\,\mathrm{HR} + (1 - \epsilon)\,\mathrm{SR},\; \epsilon \sim U(0, 1)$$
#
# $$\mathcal{L}_G = \mathcal{L}_1 - 0.001\, D(\mathrm{SR})$$
#
# The original project is named after WGAN-GP but clips weights instead (to ±0.01), and its LeakyReLU of slope
# 1 is the identity. Here nothing is clipped, and the slope is the parameter `negative_slope`.
#
# ### One step of D by hand
#
# The same lines as in the warm-up, with two cubes per set and a small D. In this step G is a fixed source of
# SR images:

# %%
import copy

from sprl_utils import losses
from sprl_utils.patches import RandomPatches, batch

torch.manual_seed(seed)
g = load_generator(runs / "pretrain" / "generator.safetensors")  # BatchNorm keeps its statistics
d = Discriminator(patch_size=16, width=8)
g_adam, d_adam = (torch.optim.Adam(network.parameters(), lr=1e-4) for network in (g, d))
g_before, d_before = copy.deepcopy(g), copy.deepcopy(d)
cubes = RandomPatches(load_prepared(runs / "prepared", "train"), 16, seed)
lr, hr = batch(cubes, step=0, batch_size=2)  # each (N, C, D, H, W) = (2, 1, 16, 16, 16)

with torch.no_grad():
    sr = g(lr)
torch.manual_seed(seed)
share = torch.rand(2)
weight = share.view(2, 1, 1, 1, 1)
between = (weight * hr + (1 - weight) * sr).requires_grad_(True)
(gradient,) = torch.autograd.grad(d(between).sum(), between, create_graph=True)  # one per cube
penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
d_loss = d(sr).mean() - d(hr).mean() + 10 * penalty
assert torch.allclose(d_loss, losses.discriminator_loss(d, hr, sr, share)[0])
d_adam.zero_grad()
d_loss.backward()  # a derivative of a derivative: the penalty holds a gradient already
d_adam.step()

# %% [markdown]
# ### One step of G by hand
#
# Now D is fixed. The gradient of $-D(\mathrm{SR})$ flows through D into G: these are the arrows of the
# warm-up. L1 keeps SR close to the HR of the same person. Without it, any sharp brain would please D:

# %%
sr = g(lr)
l1 = (sr - hr).abs().mean()
g_loss = l1 - 0.001 * d(sr).mean()
assert torch.allclose(g_loss, losses.generator_loss(d, sr, hr)[0])
g_adam.zero_grad()
g_loss.backward()  # it leaves gradients in D, too, which the next step of D sets to zero
g_adam.step()

# %% [markdown]
# The package takes the same two steps from the same start. All weights must agree:

# %% tags=["nbval-check-output"]
fabric = training.make_fabric("cpu", "32-true")
gan = training.Gan(g_before, d_before, training.GanSettings(steps=2, learning_rate=1e-4), fabric)
torch.manual_seed(seed)
gan.update_discriminator(lr, hr)
gan.update_generator(lr, hr)
for name, mine, theirs in (("D", d, gan.discriminator), ("G", g, gan.generator)):
    pairs = zip(mine.parameters(), theirs.parameters(), strict=True)
    print(f"{name}: the same weights:", all(torch.allclose(a, b, atol=1e-6) for a, b in pairs))

# %% [markdown]
# ## Schedule
#
# > *The paper*: D alone for the first 10,000 steps; then 7 D steps for each G step; every 500 steps, 200
# > extra of D.
#
# It is a pure function of the step, so it can be looked at before anything is trained:

# %% tags=["nbval-check-output"]
counters = (gan_warmup, d_per_g, extra_every, extra)
print("this run:", "".join(training.gan_schedule(s, *counters) for s in range(min(gan_steps, 64))))
print("paper, from step 10,000:", "".join(training.gan_schedule(s) for s in range(10_000, 10_032)))

# %%
first, end = 9_980, 10_740
schedules = {
    f"this run, its first {min(gan_steps, end - first)} steps": (0, min(gan_steps, end - first), counters),
    f"the paper, steps {first:,} to {end:,}": (first, end, ()),
}
figure, axes = plt.subplots(2, 1, figsize=(9, 3.2), layout="constrained")
for ax, (title, (low, high, numbers)) in zip(axes, schedules.items(), strict=True):
    letters = np.array([training.gan_schedule(s, *numbers) for s in range(low, high)])
    for height, (network, colour) in enumerate({"D": "tab:blue", "G": "tab:orange"}.items()):
        steps = low + np.flatnonzero(letters == network)
        ax.vlines(steps, height - 0.4, height + 0.4, color=colour, lw=1, snap=False)
    ax.set(title=title, yticks=(0, 1), yticklabels=("D", "G"), xlim=(low - 1, high))
axes[1].set_xlabel("step")
figures.save(figure, results / "figures" / "schedule.png")

# %% [markdown]
# **What is to be seen** (a function of the step, no data). Below, the paper's schedule: to the left of step
# 10,000 D is alone. Then each eighth step is one of G, until 500 steps have passed; 200 steps of D alone
# follow, and so on. D gets so many more steps because G can only learn from a D that knows the distance, and
# that distance changes with each step of G.

# %% [markdown]
# ## Training
#
# G keeps the BatchNorm statistics of pretraining, so what D judges is what is evaluated, and G changes in G
# steps alone.

# %%
validation_heads = load_prepared(runs / "prepared", "validation")
start = runs / "pretrain" / "generator.safetensors"

# %%
settings = training.GanSettings(
    steps=gan_steps,
    batch_size=batch_size,
    learning_rate=gan_learning_rate,
    warmup=gan_warmup,
    d_per_g=d_per_g,
    extra_every=extra_every,
    extra=extra,
    adversarial_weight=adversarial_weight,
    penalty_weight=penalty_weight,
    patch_size=patch_size,
    head=discriminator_head,
    negative_slope=negative_slope,
    width=discriminator_width,
    seed=seed,
    every=gan_every,
    validate_every=gan_validate_every,
)
plan = {
    "profile": profile,
    "stage": "gan",
    "patches": {
        "kind": patches,
        "patch_size": patch_size,
        "seed": seed + 2,
        "flips": flips,
    },
    "validation": {"crop": validation_crop},
    "start": str(start.relative_to(root)),
    "device": device,
    "precision": precision,
    "settings": vars(settings),
}
panels = {
    "Wasserstein estimate": {"wasserstein": "D steps"},
    "gradient penalty": {"penalty": "D steps"},
    "L1 of G": {"l1": "training, G steps"},
    "mean change of G's weights": {"weight_change": "G"},
    "PSNR of merged volumes (dB)": {"psnr": "validation head"},
}
live = figures.LiveCurve(panels) if viewer.has_front_end() else None
history = stages.train(plan, devices, live)

# %%
figure = figures.curves(history, panels)
figures.save(figure, results / "figures" / "gan_curves.png")

# %% [markdown]
# **What is to be seen** (training patches). The Wasserstein estimate $D(\mathrm{HR}) - D(\mathrm{SR})$ is
# what D can tell the two apart by, once the penalty is small, which says that D's slope is near 1. A run of
# tens of steps does not get that far, and its curves are noise around a start. Where the estimate still rises
# after thousands of steps, D learns faster than G closes the distance. L1 and the weight change have values
# only where G was trained: before the warm-up ends G does not move at all. The last panel is measured on
# merged volumes of the validation head.

# %%
change, trained = history["weight_change"], history["g_steps"] > 0
before, after = change[~trained], change[trained]
assert (before == 0).all() and (after > 0).all() and len(after)
moves = history["g_steps"].iloc[-1]
print(f"G moved in {moves} of {gan_steps} steps, by {after.iloc[-1]:.2e} per weight on average")

# %% [markdown]
# The original project's counter never let G train in this phase; the line above is the check that ours does.
#
# ## On merged volumes
#
# Validation scores of the generator before and after this stage, on the same box of the validation head:

# %%
pretrained = load_generator(start)
scores = training.validate_volumes(pretrained, validation_heads, validation_crop, engine)
last = history.dropna(subset=["psnr"]).iloc[-1][list(scores)] if "psnr" in history else {}
pd.DataFrame([{"generator": "pretrained", **scores}, {"generator": "after GAN training", **last}]).round(4)

# %% [markdown]
# A GAN is not trained for PSNR: a small fall here is what the paper's method accepts for sharper texture.
# Whether there is texture to gain is the question of `04_evaluate`.

# %%
history.to_csv(results / "gan_history.csv", index=False)
outputs = [runs / "gan" / f"{name}.safetensors" for name in ("generator", "discriminator")]
used = {
    **training.describe_fabric(training.make_fabric(device, precision)),
    **vars(settings),
    "patches": patches,
    "flips": flips,
    "validation_crop": validation_crop,
    "engine": choose_engine(engine, pretrained),
    "processes": devices,
}
run.finish(used, inputs=[start], outputs=outputs, trained_in=runs / "gan")

# %% [markdown]
# ## Recap
#
# - The Wasserstein distance compares sets of images. D estimates it, if its slope is kept near 1 and it is
#   not linear.
# - G is told by D's gradient where HR images lie, and by L1 which of them is meant.
# - Both losses are the paper's, the schedule is its schedule (with the counters of this profile), and G
#   moved.
#
# **Try it.** Predict first: what does D estimate without the penalty (weight 0 instead of 10)? What becomes
# of the arrows when both clouds are the same? How many of this run's steps are steps of G when `d_per_g` is
# 7?
#
# **References**
#
# - Chen et al. 2018, the paper: [arXiv 1803.01417](https://arxiv.org/abs/1803.01417)
# - Goodfellow et al. 2014, GANs: [arXiv 1406.2661](https://arxiv.org/abs/1406.2661)
# - Arjovsky et al. 2017, WGAN: [arXiv 1701.07875](https://arxiv.org/abs/1701.07875)
# - Gulrajani et al. 2017, WGAN-GP: [arXiv 1704.00028](https://arxiv.org/abs/1704.00028)
# - Ledig et al. 2016, SRGAN: [arXiv 1609.04802](https://arxiv.org/abs/1609.04802)
# - Ba et al. 2016, LayerNorm: [arXiv 1607.06450](https://arxiv.org/abs/1607.06450)
# - Blau and Michaeli 2017, why sharpness costs PSNR: [arXiv 1711.06077](https://arxiv.org/abs/1711.06077)
#
# Next: `04_evaluate` compares it with everything else on heads that nobody has trained on.
