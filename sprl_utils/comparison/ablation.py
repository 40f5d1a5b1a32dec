"""One choice or one defect at a time: same heads, same patches, same number of steps, same seeds."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn

import sprl_utils.comparison.networks  # noqa: F401  registers the comparators
from sprl_utils import losses, metrics
from sprl_utils.inference import super_resolve
from sprl_utils.kspace import crop_kspace, interpolate, truncate_kspace
from sprl_utils.networks import (
    channels_last,
    count_parameters,
    load_generator,
    make_generator,
    multiply_adds,
)
from sprl_utils.original.procedure import original_super_resolve
from sprl_utils.patches import Prepared, RandomPatches
from sprl_utils.training import (
    Gan,
    GanSettings,
    PretrainSettings,
    descend,
    describe_fabric,
    fabric_dtype,
    make_discriminator,
    make_fabric,
    pretrain,
    train_gan,
)

LRS = ("zero-filled", "linear", "own maximum")
REFERENCE = "reference"


@dataclass(frozen=True)
class Variant:
    """What differs from the reference.

    Args:
        lr: how LR is made: ``"zero-filled"``; ``"linear"`` interpolation of the coarse image; or zero-filled
            and divided by its ``"own maximum"`` (and HR by its own), the original project's gain mismatch.
        keep: share of k-space kept on each degraded axis; None: as prepared.
        pretrain, gan: settings that differ; without any, the reference's generator is used as it is.
        stitching: ``"exact"``, or the original project's cubes of 64 with a margin of 3.
        synthetic: train on synthetic heads too, where there are some.
        precision: of training, as in `sprl_utils.training.make_fabric`; None: the run's.
        people: train on the first so many people (leakage groups); 0: on all.
    """

    lr: str = "zero-filled"
    keep: float | None = None
    pretrain: dict = field(default_factory=dict)
    gan: dict | None = None
    stitching: str = "exact"
    synthetic: bool = True
    precision: str | None = None
    people: int = 0

    def __post_init__(self) -> None:
        if self.lr not in LRS:
            raise ValueError(f"ablation: lr must be one of {', '.join(map(repr, LRS))}, found {self.lr!r}")

    @property
    def keeps_lr(self) -> bool:
        """Whether LR is that of the prepared heads."""
        return self.lr == "zero-filled" and self.keep is None

    def __str__(self) -> str:
        """What differs from the reference."""
        plain = vars(Variant())
        return ", ".join(f"{k}: {v}" for k, v in vars(self).items() if v != plain[k]) or "nothing"


#: What the original project did otherwise, and choices of ours, by the name they have in tables.
VARIANTS = {
    REFERENCE: Variant(),
    "LR of another gain": Variant(lr="own maximum"),
    "LR by linear interpolation": Variant(lr="linear"),
    "2x2": Variant(keep=0.5),
    "5x5": Variant(keep=0.2),
    "start at noise": Variant(pretrain={"init": "kaiming"}),
    "start as the identity": Variant(pretrain={"init": "identity"}),
    "BatchNorm frozen": Variant(pretrain={"norm_patches": 16}),
    "one learning rate": Variant(pretrain={"rate_reconstruction": 1.0, "rate_compressors": 1.0}),
    "no synthetic heads": Variant(synthetic=False),
    "trained in fp32": Variant(precision="32-true"),
    "cubes with a margin of 3": Variant(stitching="original"),
    "GAN": Variant(gan={}),
    "GAN, LeakyReLU of slope 1": Variant(gan={"negative_slope": 1.0}),
    "GAN, weights clipped": Variant(gan={"weight_clip": 0.01, "penalty_weight": 0.0}),
    "GAN, G never trained": Variant(gan={"d_per_g": 10**9}),
}
#: Other networks by the same recipe; SRResNet with a discriminator is SRGAN. EDSR starts as it has to.
COMPARATORS = {
    "EDSR": Variant(pretrain={"model": "EDSR", "init": "kaiming", "gradient_norm": 0.05}),
    "FSRCNN": Variant(pretrain={"model": "FSRCNN"}),
    "DCSRN": Variant(pretrain={"model": "DCSRN"}),
    "SRResNet": Variant(pretrain={"model": "SRResNet"}),
    "SRGAN": Variant(pretrain={"model": "SRResNet"}, gan={}),
}
#: Fewer people at an equal number of steps; the reference learns from all.
PEOPLE = {"1 person": Variant(people=1), "4 people": Variant(people=4), "12 people": Variant(people=12)}


def with_steps(
    variants: Mapping[str, Variant], steps: Mapping[str, int], gan_steps: Mapping[str, int]
) -> dict[str, Variant]:
    """Variants of which some train for numbers of steps of their own, such as equal time asks for."""
    made = dict(variants)
    for name, count in steps.items():
        made[name] = replace(made[name], pretrain=made[name].pretrain | {"steps": count})
    for name, count in gan_steps.items():
        made[name] = replace(made[name], gan=made[name].gan | {"steps": count})
    return made


def pace(
    variants: Mapping[str, Variant],
    pretraining: PretrainSettings,
    gan: GanSettings,
    fabric: Fabric,
    patch_size: int | Sequence[int],
) -> pd.DataFrame:
    """How long variants train on this machine: one row each with seconds per step, steps, and minutes.

    Of a variant with a GAN stage it is that stage alone, whose step is the mean over a cycle of D and G.
    """
    rows = []
    for name, variant in variants.items():
        settings = replace(pretraining, **variant.pretrain)
        stage = None if variant.gan is None else replace(gan, **variant.gan)
        seconds, steps = _seconds_per_step(settings, stage, fabric, patch_size), (stage or settings).steps
        rows.append((name, seconds, steps, seconds * steps / 60))
    return pd.DataFrame(rows, columns=["variant", "seconds_per_step", "steps", "minutes"])


def _seconds_per_step(
    settings: PretrainSettings,
    stage: GanSettings | None,
    fabric: Fabric,
    patch_size: int | Sequence[int],
) -> float:
    """Median over cycles; what the patches show takes no time, so they are random."""
    shape = (settings.batch_size, 1, *np.broadcast_to(patch_size, 3).tolist())
    lr, hr = (fabric.to_device(torch.rand(shape)) for _ in range(2))
    generator = channels_last(make_generator(settings.model, settings.init))
    if stage:
        both = Gan(generator, make_discriminator(stage), stage, fabric)
        cycle = [both.update_discriminator] * stage.d_per_g + [both.update_generator]
    else:
        model, optimizer = fabric.setup(generator, torch.optim.Adam(generator.parameters()))
        cycle = [lambda lr, hr: descend(losses.l1_loss(model(lr), hr), optimizer, fabric)]
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        for step in cycle:
            step(lr, hr)
        seconds.append((time.perf_counter() - start) / len(cycle))
    return float(np.median(seconds[1:]))


def check(
    variants: dict[str, Variant], heads: dict[str, Sequence[Prepared]], model: str, memory_gib: float = 4.0
) -> None:
    """Refuse before any training what would fail after it.

    Args:
        model: that of variants which name none.

    Raises:
        ValueError: no reference, a head of unknown k-space where a variant cuts it anew, or a network whose
            tiles of the test heads do not fit the memory.
    """
    if REFERENCE not in variants:
        raise ValueError(f"ablations: expected {REFERENCE!r} among them, found {', '.join(variants)}")
    for name, variant in variants.items():
        generator = make_generator(variant.pretrain.get("model", model))
        for head in (h for found in heads.values() for h in found):
            if not variant.keeps_lr and head.meta["keep"] is None:
                raise ValueError(
                    f"ablation {name}: {head.meta['id']}: expected LR cut from HR, found LR of its own"
                )
        for head in heads["test"]:
            nothing = np.zeros(head.shape, bool)  # with no voxel wanted an engine plans and computes nothing
            super_resolve(nothing, generator, memory_gib=memory_gib, foreground=nothing)


def run(
    variant: Variant,
    heads: dict[str, Sequence[Prepared]],
    out: Path,
    pretraining: PretrainSettings,
    gan: GanSettings,
    fabric: Fabric,
    patch_size: int | Sequence[int],
    memory_gib: float = 4.0,
) -> pd.DataFrame:
    """Train and score one variant with one seed (that of the settings); resumable in ``out``.

    Args:
        heads: prepared heads by split: train, validation, test.
        out: folder of all runs; those that share a pretraining share its folder.

    Returns:
        One row per test head: PSNR, SSIM and NRMSE of SR, and ``input_psnr`` of its LR, all against HR; both
        PSNR in the brain; the network's ``parameters`` and its ``multiply_adds`` for the head.
    """
    same_data = Path(out) / "data" / f"{variant.lr} {variant.keep or 'as prepared'}"
    heads = {split: [with_lr(h, same_data, variant) for h in found] for split, found in heads.items()}
    dtype = fabric_dtype(fabric)  # all variants are scored in one precision
    if variant.precision is not None:
        fabric = make_fabric(fabric.device.type, variant.precision)
    weights = _train(variant, heads, Path(out), pretraining, gan, fabric, patch_size)
    generator = channels_last(load_generator(weights)).to(fabric.device)
    rows = [_score(head, generator, variant.stitching, memory_gib, dtype) for head in heads["test"]]
    table = pd.DataFrame(rows)
    table.insert(1, "seed", pretraining.seed)
    return table


def _train(
    variant: Variant,
    heads: dict[str, Sequence[Prepared]],
    out: Path,
    pretraining: PretrainSettings,
    gan: GanSettings,
    fabric: Fabric,
    patch_size: int | Sequence[int],
) -> Path:
    """Weights of the variant's generator; runs of the same settings are made once."""
    train_heads = [h for h in heads["train"] if variant.synthetic or h.meta["kind"] != "synthetic"]
    if variant.people:
        groups = list(dict.fromkeys(h.meta["group"] for h in train_heads))[: variant.people]
        train_heads = [h for h in train_heads if h.meta["group"] in groups]
    settings = replace(pretraining, **variant.pretrain)
    data = f"{variant.lr} {variant.keep or 'as prepared'}, {'all' if variant.synthetic else 'real'} heads"
    data += f" of {variant.people}" if variant.people else ""
    changed = _listed(variant.pretrain) or "plain"
    precision = describe_fabric(fabric)["precision"]
    folder = out / "runs" / f"{data}, {changed}, {precision}, seed {settings.seed}"
    train = RandomPatches(train_heads, patch_size, settings.seed)
    validation = RandomPatches(heads["validation"], patch_size, settings.seed + 1, flips=False)
    pretrain(train, validation, 1, folder / "pretrain", settings, fabric)
    weights = folder / "pretrain" / "generator.safetensors"
    if variant.gan is None:
        return weights
    folder = folder / (_listed(variant.gan) or "gan")
    patches = RandomPatches(train_heads, patch_size, settings.seed + 2)
    train_gan(weights, patches, [], folder, replace(gan, **variant.gan), fabric)
    return folder / "generator.safetensors"


def _listed(settings: dict) -> str:
    return ", ".join(f"{k}={v}" for k, v in settings.items())


def _score(
    head: Prepared, generator: nn.Module, stitching: str, memory_gib: float, dtype: torch.dtype
) -> dict:
    lr, hr, brain = np.asarray(head.lr), np.asarray(head.hr), np.asarray(head.brain)
    if stitching == "original":
        sr, _ = original_super_resolve(lr.transpose(head.order), generator.eval())
        sr = sr.transpose(np.argsort(head.order))
    else:
        sr = super_resolve(lr, generator, memory_gib=memory_gib, dtype=dtype, order=head.order)
    return {
        "subject": head.meta["id"],
        **{name: getattr(metrics, name)(sr, hr) for name in metrics.METRICS},
        "input_psnr": metrics.psnr(lr, hr),
        "brain_psnr": metrics.psnr(sr, hr, brain),
        "brain_input_psnr": metrics.psnr(lr, hr, brain),
        "parameters": count_parameters(generator),
        "multiply_adds": multiply_adds(generator, 1) * hr.size,
    }


def with_lr(head: Prepared, out: Path, variant: Variant) -> Prepared:
    """The head with another LR in ``out/<id>``, all else shared with the prepared folder by links."""
    if variant.keeps_lr:
        return head
    folder = out / head.meta["id"]
    keep = [variant.keep if k is not None and variant.keep else k for k in head.meta["keep"]]
    meta = head.meta | {"keep": keep, "lr_variant": variant.lr}
    if not (folder / "meta.json").is_file() or Prepared(folder).meta != meta:
        folder.mkdir(parents=True, exist_ok=True)
        hr = np.asarray(head.hr)
        if variant.lr == "linear":
            lr = interpolate(crop_kspace(hr, keep), hr.shape, 1)
        else:
            lr = truncate_kspace(hr, keep)
        if variant.lr == "own maximum":
            lr *= hr.max() / lr.max()
        np.save(folder / "lr.npy", lr)
        for name in ("hr", "brain", "foreground", "centres"):
            (folder / f"{name}.npy").unlink(missing_ok=True)
            os.symlink((head.folder / f"{name}.npy").resolve(), folder / f"{name}.npy")
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return Prepared(folder)


def effects(scores: pd.DataFrame) -> pd.DataFrame:
    """What each variant changes against the reference, in dB and SSIM: mean, and range over seeds.

    Args:
        scores: rows of `run` with a column ``variant``, the reference among them.

    Returns:
        One row per variant: ``psnr`` of SR, ``gain`` over its own LR, and ``psnr_change``, ``ssim_change``
        against the reference (means over test heads, then over seeds), with the least and greatest change
        of PSNR over seeds, and the number of ``seeds``.
    """
    scores = scores.assign(gain=scores["psnr"] - scores["input_psnr"])
    by_seed = scores.groupby(["variant", "seed"], sort=False)[["psnr", "ssim", "gain"]].mean()
    change = by_seed - by_seed.loc[REFERENCE].reindex(by_seed.index, level="seed")
    grouped = change.groupby("variant", sort=False)
    table = by_seed.groupby("variant", sort=False)[["psnr", "gain"]].mean()
    table["psnr_change"], table["ssim_change"] = grouped["psnr"].mean(), grouped["ssim"].mean()
    table["psnr_change_least"], table["psnr_change_most"] = grouped["psnr"].min(), grouped["psnr"].max()
    table["seeds"] = grouped.size()
    table["multiply_adds"] = scores.groupby("variant", sort=False)["multiply_adds"].mean()
    return table
