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
# # Ablations: what does each choice cost or bring?
#
# An appendix: the original project's defects and this study's own choices, one at a time,
# everything else equal.
#
# **Goals.** The effect of each on the test heads, after an equal and small number of steps, with its spread
# over seeds.
# **Inputs.** `runs/<profile>/prepared/` of `01_prepare_data`.
# **Outputs.** `results/<profile>/`: `ablations.csv`, `ablation_effects.csv`, `ablation_environment.json`,
# `figures/ablations.png`.
# **Time.** A quarter of a minute on the smoke profile; on `ablations` 10 to 30 minutes per seed with two
# cores.

# %% tags=["parameters"]
profile = "smoke"  # name of the folders under runs/ and results/
ablations = ["reference", "LR of another gain", "GAN", "GAN, G never trained"]  # empty: all but networks
ablation_model = "mDCSRN"  # the network that learns; "EDSR" for the learning curve over people
ablation_init = "edges"  # how it starts; EDSR starts with "kaiming"
ablation_gradient_norm = 0.0  # longer gradients of pretraining are shortened to it; 0: none
ablation_seeds = [0]  # each variant is trained once with each
ablation_steps = 4  # updates of the generator in pretraining
ablation_gan_steps = 4  # updates of either network in the GAN stage
ablation_warmup = 1  # first steps of that, of D alone
ablation_steps_of = {}  # steps of variants by name, where they are to take equal time instead
ablation_gan_steps_of = {}  # the same of the GAN stage
pretrain_learning_rate = 0.001  # of Adam (1e-4 in the paper)
gan_learning_rate = 0.0001  # of Adam (5e-6 in the paper)
discriminator_width = 8  # maps of D's first conv (64 in the paper)
memory_gib = 4.0  # for the network's maps in whole volumes
patch_size = 16  # edge of the training cubes, in voxels
ablation_edges = []  # edges of training boxes on D, H, W, in place of cubes
batch_size = 2  # cubes per step (2 in the paper)
device = "auto"  # "auto", "cpu" or "cuda"
precision = "auto"  # "auto", "32-true" or "bf16-mixed"

# %%
# %matplotlib inline
from dataclasses import replace

import pandas as pd

from sprl_utils import figures
from sprl_utils.comparison import ablation, figures as pictures
from sprl_utils.prepare import load_prepared
from sprl_utils.runs import start_run
from sprl_utils.training import GanSettings, PretrainSettings, describe_fabric, make_fabric

run = start_run(profile, "ablation_environment.json", seed=0)
runs, results = run.runs, run.results

# %% [markdown]
# ## The reference, and what differs from it
#
# LR zero-filled on HR's intensity scale; the paper's generator, started from edges (`init="edges"`), L1,
# lower rates for the layers that read hundreds of maps; the whole volume at once. Each variant changes what
# is listed here and nothing else. *The original project* took LR's own maximum as its scale, 64-cubes with a
# margin of 3, LeakyReLU of slope 1, clipped weights, and never trained G in the GAN stage.

# %%
heads = {split: load_prepared(runs / "prepared", split) for split in ("train", "validation", "test")}
known = ablation.VARIANTS | ablation.COMPARATORS | ablation.PEOPLE
chosen = {name: known[name] for name in ablations or ablation.VARIANTS}
chosen = ablation.with_steps(chosen, ablation_steps_of, ablation_gan_steps_of)
pd.Series({name: str(variant) for name, variant in chosen.items()}, name="what differs").to_frame()

# %% [markdown]
# Training is in bfloat16 where the hardware multiplies it: there "trained in fp32" tells what that costs.
# Elsewhere it is the reference once more, for emulated bfloat16 takes hundreds of times as long. All variants
# are scored in the precision of this run.
#
# ## Runs
#
# A variant is pretrained once per seed. GAN variants, and that of the stitching, start from the reference's
# generator. Killed, this cell goes on where it was.

# %%
fabric = make_fabric(device, precision)
pretraining = PretrainSettings(
    steps=ablation_steps,
    batch_size=batch_size,
    learning_rate=pretrain_learning_rate,
    rate_reconstruction=0.05,
    rate_compressors=0.3,
    rate_schedule="cosine",
    rate_warmup=max(1, ablation_steps // 20),
    average=0.98,
    model=ablation_model,
    init=ablation_init,
    gradient_norm=ablation_gradient_norm,
    every=max(1, ablation_steps // 4),
)
gan = GanSettings(
    steps=ablation_gan_steps,
    batch_size=batch_size,
    learning_rate=gan_learning_rate,
    warmup=ablation_warmup,
    d_per_g=2,
    patch_size=patch_size,
    width=discriminator_width,
    every=max(1, ablation_gan_steps // 2),
)
ablation.check(chosen, heads, pretraining.model, memory_gib)
edges = ablation_edges or patch_size

# %% [markdown]
# Where networks are to be compared by equal time, a profile gives each its number of steps. What a step
# takes on this machine, and all of them (those of the GAN stage come on top of the pretraining of its
# generator):

# %%
if ablation_steps_of:
    pace = ablation.pace(chosen, pretraining, gan, fabric, edges)
    pace.to_csv(results / "pace.csv", index=False)
pace.round(2) if ablation_steps_of else "an equal number of steps"

# %%
rows = []
for seed in ablation_seeds:
    for name, variant in chosen.items():
        plans = replace(pretraining, seed=seed), replace(gan, seed=seed)
        scores = ablation.run(variant, heads, runs / "ablations", *plans, fabric, edges, memory_gib)
        rows.append(scores.assign(variant=name))
        print(f"seed {seed}: {name}")
scores = pd.concat(rows, ignore_index=True)

# %% [markdown]
# ## Effects
#
# Test heads, whole prepared volume (`crop` in `01_prepare_data`). `gain` is PSNR over the variant's own LR,
# `psnr_change` that of SR against the reference's SR. A change smaller than its range over seeds, or than
# what two seeds of the reference differ by, says nothing. 2x2 and 5x5 start from another LR: compare `gain`.
# Other networks get the same number of steps, or where a profile says so the same time; `multiply_adds` says
# what a head costs.

# %%
effects = ablation.effects(scores)
effects.round(4)

# %%
figure = pictures.ablations(effects)
figures.save(figure, results / "figures" / "ablations.png")

# %% [markdown]
# **What is to be seen** (test heads). On the left, bars to the left of 0 are worse than the reference; they
# end at the mean over seeds, and thin lines reach from the least to the greatest; 2x2 and 5x5 start from
# another LR and cannot be compared there. On the right, what training added to each variant's own LR.
# Scales are linear within 0.01 dB and logarithmic beyond: read the numbers, not the lengths.
#
# ## What one more person brings
#
# Where the variants differ by how many people trained (profile `people`), this is the learning curve, in the
# brain of each test head:

# %%
everybody = len({h.meta["group"] for h in heads["train"]})
people = scores["variant"].map(lambda name: chosen[name].people or everybody)
if people.nunique() > 1:
    figure = pictures.people(scores.assign(people=people))
    figures.save(figure, results / "figures" / "people.png")

# %%
results.mkdir(parents=True, exist_ok=True)
scores.to_csv(results / "ablations.csv", index=False)
effects.to_csv(results / "ablation_effects.csv")
used = {
    **describe_fabric(fabric),
    **vars(pretraining),
    "patch_size": edges,
    "seeds": ablation_seeds,
    "gan_steps": ablation_gan_steps,
    "gan_learning_rate": gan_learning_rate,
    "ablation_warmup": ablation_warmup,
    "discriminator_width": discriminator_width,
}
run.finish(used, outputs=[results / "ablations.csv"])
assert scores[["psnr", "ssim", "nrmse"]].notna().all().all()
if {"reference", "GAN, G never trained"} <= set(chosen):
    untrained = scores[scores["variant"].isin(["reference", "GAN, G never trained"])]
    assert untrained.groupby(["subject", "seed"])["psnr"].nunique().eq(1).all()

# %% [markdown]
# ## Recap
#
# A GAN stage that never updates G gives the pretrained generator's numbers, to the last digit: any gain that
# is reported for it must come from somewhere else. The other rows hold for this budget: after so few steps a
# choice that helps training start weighs more than it would after the paper's half a million.
