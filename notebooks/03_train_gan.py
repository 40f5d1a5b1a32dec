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
# **Goals.** A true WGAN-GP with the paper's schedule; see that G is trained, and when.
# **Inputs.** `runs/<profile>/prepared/`, `runs/<profile>/pretrain/generator.safetensors`.
# **Outputs.** `runs/<profile>/gan/`: both networks, checkpoint, history.
# **Time.** Half a minute on the smoke profile, some minutes on `demo`.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
patch_size = 16  # edge of the training cubes, in voxels; a multiple of 16
batch_size = 2  # cubes per step (2 in the paper)
patches = "random"  # "random" cubes of the foreground, or the original project's "grid"
flips = True  # flip random cubes along each axis
usage = 1.0  # grid only: share of the cubes used in an epoch
leave_out = [0]  # grid only: numbers of cubes never used
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
        "usage": usage,
        "leave_out": leave_out,
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
}
live = figures.LiveCurve(panels) if viewer.has_front_end() else None
history = stages.train(plan, devices, live)

# %%
figure = figures.curves(history, panels)
figures.save(figure, results / "figures" / "gan_curves.png")

# %% [markdown]
# **What is to be seen** (training patches). The Wasserstein estimate $D(\mathrm{HR}) - D(\mathrm{SR})$ is
# what D can tell the two apart by, once the penalty is small, which says that D's slope is near 1. Tens of
# steps of another pair of patches each do not get that far: read both as noise around a start. L1 and the
# weight change have values only where G was trained: before the warm-up ends G does not move at all.

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
# Whether there is texture to gain in minutes of training is the question of `04_evaluate`.

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
# Both losses are the paper's, the schedule is its schedule (with the counters of this profile), and G moved.
# Next: `04_evaluate` compares it with everything else on heads that nobody has trained on.
