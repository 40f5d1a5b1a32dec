"""The two training stages: L1 pretraining of the generator, then WGAN-GP; schedule, checkpoint, resume.

Both stages count steps from 0 and are functions of (settings, step): learning rate, patches, who is trained.
A checkpoint holds everything else (weights, optimiser state, random state, history), so a killed run that is
started again goes on as if nothing had happened: bit for bit on a CPU in fp32.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import BaseFileLock, FileLock, Timeout
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from sprl_utils import losses, metrics
from sprl_utils.files import sha256, write_beside
from sprl_utils.inference import super_resolve
from sprl_utils.networks import (
    Discriminator,
    Generator,
    channels_last,
    cpu_multiplies_bf16,
    load_generator,
    make_generator,
    save_weights,
)
from sprl_utils.patches import Patches, Prepared, batch

Report = Callable[[pd.DataFrame], None]
#: Locks of this process: one that nobody holds on to is released.
_LOCKS: dict[Path, BaseFileLock] = {}
#: Facts of a prepared subject that no voxel depends on.
LABELS = ("id", "split", "group", "kind")
#: Names in the fingerprint of what training reads.
TRAIN, START = "training patches", "start weights"


@dataclass(frozen=True)
class PretrainSettings:
    """Pretraining with L1 and Adam (paper: rate 1e-4, batch 2, constant).

    Args:
        model: one of `sprl_utils.networks.MODELS`.
        rate_reconstruction, rate_compressors: factors on the learning rate of the last 1x1x1 conv and of the
            compressors, which read hundreds of maps that nothing normalises.
        rate_schedule: ``"constant"``, or ``"cosine"``: up over ``rate_warmup`` steps, down to 0 at the end.
        average: decay of the running average of the weights that is validated and saved; 0: the weights
            themselves.
        every: steps between checkpoints, each with a line of history and a look at the validation patches.
        norm_patches: BatchNorm takes its statistics from so many patches before the first step, and keeps
            them. 0: they are each batch's own, as in the paper.
    """

    steps: int
    batch_size: int = 2
    learning_rate: float = 1e-4
    rate_reconstruction: float = 1.0
    rate_compressors: float = 1.0
    rate_schedule: str = "constant"
    rate_warmup: int = 0
    average: float = 0.0
    model: str = "mDCSRN"
    init: str = "kaiming"
    seed: int = 0
    every: int = 1000
    norm_patches: int = 0

    def __post_init__(self) -> None:
        if self.rate_schedule not in ("constant", "cosine"):
            raise ValueError(
                f"training: rate_schedule must be 'constant' or 'cosine', found {self.rate_schedule!r}"
            )


@dataclass(frozen=True)
class GanSettings:
    """WGAN-GP training (paper: Adam 5e-6; D alone for 10k steps, then 7 D : 1 G, and 200 D every 500).

    A step is one update of one network. Adam's betas are the default ones, as in pretraining: WGAN-GP's own
    (0, 0.9) are not in the paper. ``weight_clip`` keeps each weight of D within so much of 0 (WGAN; 0.01 in
    the original project, which had no penalty); 0: off.
    """

    steps: int
    batch_size: int = 2
    learning_rate: float = 5e-6
    warmup: int = 10_000
    d_per_g: int = 7
    extra_every: int = 500
    extra: int = 200
    adversarial_weight: float = losses.ADVERSARIAL_WEIGHT
    penalty_weight: float = losses.PENALTY_WEIGHT
    patch_size: int = 64
    head: str = "gap"
    negative_slope: float = 0.2
    width: int = 64
    seed: int = 0
    every: int = 1000
    validate_every: int = 10_000
    weight_clip: float = 0.0


def gan_schedule(
    step: int, warmup: int = 10_000, d_per_g: int = 7, extra_every: int = 500, extra: int = 200
) -> str:
    """Which network step ``step`` (from 0) of the GAN stage updates: ``"D"`` or ``"G"``.

    The first ``warmup`` steps train D. After that, cycles of ``d_per_g`` D steps and one G step; after every
    ``extra_every`` such steps follow ``extra`` more of D, and the cycle begins anew.
    """
    if step < warmup:
        return "D"
    position = (step - warmup) % (extra_every + extra)
    return "G" if position < extra_every and position % (d_per_g + 1) == d_per_g else "D"


def learning_rate(step: int, settings: PretrainSettings) -> float:
    """Factor on the base learning rate at ``step``."""
    if settings.rate_schedule == "constant":
        return 1.0
    rising = min(1.0, (step + 1) / max(1, settings.rate_warmup))
    return rising * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def make_fabric(device: str = "auto", precision: str = "auto") -> Fabric:
    """Lightning Fabric: where and in what precision to train, in one process or in all that torchrun started.

    ``precision="auto"`` takes bfloat16 where the hardware multiplies it (CUDA, CPUs with AVX512-BF16 or AMX),
    else fp32: a CPU that has to emulate it is hundreds of times slower.
    """
    accelerator = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if precision == "auto":
        precision = "bf16-mixed" if accelerator == "cuda" or cpu_multiplies_bf16() else "32-true"
    devices = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's
    nodes = int(os.environ.get("WORLD_SIZE", 1)) // devices
    fabric = Fabric(accelerator=accelerator, devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    return fabric


def describe_fabric(fabric: Fabric) -> dict[str, str | int]:
    """Where a run was trained and in what precision, for its environment.json."""
    return {
        "device": str(fabric.device.type),
        "processes": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
    }


def fabric_dtype(fabric: Fabric) -> torch.dtype:
    """What the dense units of `sprl_utils.inference.super_resolve` should compute in, in this precision."""
    return torch.bfloat16 if fabric.strategy.precision.precision.startswith("bf16") else torch.float32


def without_wrapper(module: nn.Module, fabric: Fabric) -> Callable[[Tensor], Tensor]:
    """Call a module in the run's precision, past the wrapper that `Fabric.setup` returned.

    In bfloat16 the wrapper refuses any gradient that is not taken by `Fabric.backward`, and the gradient
    penalty takes one within its loss. Gradients of several processes are averaged all the same, as long as
    the loss holds a call through the wrapper, too.
    """

    def call(x: Tensor) -> Tensor:
        with fabric.autocast():
            return module(x).float()

    return call


def pretrain(
    train: Patches,
    validation: Patches,
    validation_count: int,
    out: Path,
    settings: PretrainSettings,
    fabric: Fabric,
    report: Report | None = None,
    start: Path | None = None,
) -> pd.DataFrame:
    """Pretrain a generator with L1; ``out`` gets ``generator.safetensors``, ``history.csv``, ``examples/``.

    Args:
        train: patches that training draws from.
        validation: patches of the validation heads, of which numbers 0 ... ``validation_count - 1`` are
            looked at.
        report: called with the history at each checkpoint (a live curve).
        start: weights to go on from (fine-tuning) in place of ``settings.init``; the history then begins with
            their scores, at step 0.

    Returns:
        The history: step, train_l1 (mean since the row before), and l1, psnr, ssim on the validation patches.

    Several processes see ``batch_size`` patches each. On CUDA they share BatchNorm's statistics; on CPUs each
    takes those of its own patches, unless ``norm_patches`` keeps them fixed.

    Raises:
        ValueError: ``start`` holds another model than the settings name.
    """
    generator = channels_last(_start_of(settings, start))
    average = copy.deepcopy(generator).requires_grad_(False)
    if fabric.world_size > 1 and fabric.device.type == "cuda" and not settings.norm_patches:
        generator = nn.SyncBatchNorm.convert_sync_batchnorm(generator)
    optimizer = torch.optim.Adam(_rate_groups(generator, settings), lr=settings.learning_rate)
    base_rates = [group["lr"] for group in optimizer.param_groups]
    model, optimizer = fabric.setup(generator, optimizer)
    average = fabric.to_device(average)
    best = average if settings.average else generator

    def validate(step: int) -> dict[str, float]:
        return validate_patches(best, validation, validation_count, fabric, run.out, step)

    measured_on = {"validation_patches": validation_count, "validation heads": _digest(validation)}
    run = Run(Path(out), fabric, settings, train, start, measured_on, ("l1", "psnr", "ssim"), report)
    run.resume({"generator": generator, "average": average, "optimizer": optimizer}, validate)
    if run.first == 0:
        if settings.norm_patches:
            lr, _ = batch(train, 2**30, settings.norm_patches)
            set_batchnorm(generator, list(fabric.to_device(lr)[:, 0]))
        average.load_state_dict(generator.state_dict())
        if start:
            run.record(-1, **validate(-1))

    for step in run.steps(settings.steps, "pretraining"):
        for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
            group["lr"] = rate * learning_rate(step, settings)
        lr, hr = _batch(train, step, settings.batch_size, fabric)
        model.train(not settings.norm_patches)
        loss = losses.l1_loss(model(lr), hr)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        update_average(average, generator, settings.average, step)
        run.note(step, train_l1=loss.detach())
        if run.is_due(step, settings.every, settings.steps):
            run.record(step, **validate(step))
            run.save(step)
    run.finish(best, f"pretraining, {settings.steps} steps")
    return run.table()


def train_gan(
    start: Path,
    train: Patches,
    validation: Sequence[Prepared],
    out: Path,
    settings: GanSettings,
    fabric: Fabric,
    validation_crop: Sequence[int] | None = None,
    report: Report | None = None,
) -> pd.DataFrame:
    """Train the generator ``start`` further with WGAN-GP; ``out`` gets both networks and the history.

    Args:
        start: weights of the pretrained generator.
        validation: heads on which merged volumes are validated every ``validate_every`` steps, and at the
            end.
        validation_crop: edges of a central box that is validated instead of the whole head.

    Returns:
        The history: step, updated ("D" or "G"), wasserstein and penalty (D steps), l1 and adversarial (G
        steps), weight_change (mean absolute distance of G's weights from the start), and psnr, ssim, nrmse of
        merged volumes.
    """
    generator = channels_last(load_generator(start))
    torch.manual_seed(settings.seed)
    discriminator = channels_last(
        Discriminator(settings.patch_size, settings.head, settings.negative_slope, settings.width)
    )
    origin = [p.detach().clone() for p in generator.parameters()]
    g_model, g_optimizer = fabric.setup(
        generator, torch.optim.Adam(generator.parameters(), settings.learning_rate)
    )
    d_model, d_optimizer = fabric.setup(
        discriminator, torch.optim.Adam(discriminator.parameters(), settings.learning_rate)
    )

    # BatchNorm keeps the statistics of pretraining: G's weights change in G steps alone, and D judges the
    # generator that is evaluated, not one that differs from batch to batch.
    g_model.eval()

    def validate(_: int) -> dict[str, float]:
        return validate_volumes(generator, validation, validation_crop)

    measured_on = {"validation_crop": list(validation_crop or []), "validation heads": _digest(validation)}
    run = Run(Path(out), fabric, settings, train, start, measured_on, metrics.METRICS, report)
    run.resume(
        {
            "generator": generator,
            "discriminator": discriminator,
            "g_optimizer": g_optimizer,
            "d_optimizer": d_optimizer,
        },
        validate,
    )
    schedule = (settings.warmup, settings.d_per_g, settings.extra_every, settings.extra)

    for step in run.steps(settings.steps, "GAN training"):
        lr, hr = _batch(train, step, settings.batch_size, fabric)
        updated = gan_schedule(step, *schedule)
        if updated == "D":
            with torch.no_grad():
                sr = g_model(lr)
            share = _shares(len(hr), fabric).to(hr.device)
            plain = without_wrapper(discriminator, fabric)
            loss, parts = losses.discriminator_loss(d_model, hr, sr, share, settings.penalty_weight, plain)
            optimizer = d_optimizer
        else:
            discriminator.requires_grad_(False)
            with _without_sync(d_model, fabric):  # D gets no gradient here: nothing to wait for
                loss, parts = losses.generator_loss(d_model, g_model(lr), hr, settings.adversarial_weight)
            optimizer = g_optimizer
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        discriminator.requires_grad_(True)
        if updated == "D" and settings.weight_clip:
            _clip(discriminator, settings.weight_clip)
        run.note(step, **{f"{updated}_loss": loss.detach()}, **parts)
        if run.is_due(step, settings.every, settings.steps):
            change = _mean_change(generator, origin)
            due = run.is_due(step, settings.validate_every, settings.steps)
            scores = validate(step) if due else {}
            run.record(step, weight_change=change, g_steps=_g_steps(step, schedule), **scores)
            run.save(step)
    run.finish(generator, f"GAN training, {settings.steps} steps")
    if fabric.is_global_zero:
        save_weights(discriminator, run.out / "discriminator.safetensors")
    return run.table()


class Run:
    """A training run's folder: checkpoint, history, and the loop that goes on where the last one stopped.

    Args:
        train: patches that training draws from.
        start: file of the weights that training begins with; None: random ones.
        measured_on: the validation settings, on which the history's columns ``scores`` depend.
    """

    def __init__(
        self,
        out: Path,
        fabric: Fabric,
        settings: PretrainSettings | GanSettings,
        train: Patches,
        start: Path | None,
        measured_on: dict,
        scores: Sequence[str],
        report: Report | None,
    ):
        self.out, self.fabric, self.report = out, fabric, report
        self.settings, self.train, self.measured_on, self.scores = settings, train, measured_on, scores
        precision = fabric.strategy.precision.precision
        self.fingerprint = asdict(settings) | {"processes": fabric.world_size, "precision": precision}
        self.fingerprint |= {TRAIN: _digest(train), START: _digest(sha256(start)) if start else None}
        # What a checkpoint that is older than a setting was made with.
        self.defaults = asdict(type(settings)(steps=0)) | {"processes": 1, "precision": precision}
        self.defaults[START] = None
        self.checkpoint = out / "checkpoint.pt"
        self.first, self.history, self.parts = 0, [], {}
        self._sums: dict[str, list[Tensor]] = {}
        out.mkdir(parents=True, exist_ok=True)
        if fabric.is_global_zero:
            _lock(out)

    def resume(self, parts: dict, validate: Callable[[int], dict[str, float]]) -> None:
        """Restore all ``parts`` (modules, optimisers) from the checkpoint, if there is one of this run.

        Args:
            validate: gives the scores of the restored weights after a step; it is called where those of the
                checkpoint were measured with other validation settings.
        """
        self.parts = parts
        with self.fabric.rank_zero_first():  # it may move the folder aside
            measured_on = self._read()
        if self.first and measured_on != self.measured_on:
            self._score_anew(validate, measured_on)

    def _read(self) -> dict:
        """Restore the checkpoint, and return the validation settings that its scores were measured with."""
        if not self.checkpoint.exists():
            return {}
        state = read_checkpoint(self.checkpoint)
        differs = self._differences(state)
        if differs:
            aside = _free_name(self.out.with_name(self.out.name + ".before"))
            os.replace(self.out, aside)
            self.out.mkdir()
            print(
                f"{self.out.name}: found a run with other settings ({', '.join(differs)}); "
                f"moved it to {aside.name} and starting anew"
            )
            return {}
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random_state"])
        self.first, self.history = state["step"] + 1, state["history"]
        self._sums = state["sums"]
        return state.get("measured_on", {})

    def _differences(self, state: dict) -> list[str]:
        """What a checkpoint was made with that changes the result and is not so in this run."""
        found = self.defaults | _with_names(state["fingerprint"], self.settings, self.train)
        ignored = {"every", "validate_every"}  # how often a run is looked at
        if getattr(self.settings, "rate_schedule", "constant") == "constant":
            ignored.add("steps")  # no step depends on how many there are
        names = [k for k in self.fingerprint | found if k not in ignored]
        differs = [k for k in names if found.get(k) != self.fingerprint.get(k)]
        done, asked = state["step"] + 1, self.settings.steps
        return differs or ([f"{done} steps done, {asked} asked for"] if done > asked else [])

    def _score_anew(self, validate: Callable[[int], dict[str, float]], found: dict) -> None:
        """Score the restored weights, and drop the scores of earlier rows, which were measured elsewhere."""
        if self.fabric.is_global_zero:
            changed = ", ".join(k for k, v in self.measured_on.items() if found.get(k) != v)
            warnings.warn(
                f"{self.out.name}: found scores measured with another choice of {changed}; training is kept, "
                "its weights are scored anew, and earlier rows of the history lose their scores",
                stacklevel=4,
            )
            if (examples := self.out / "examples").exists():  # pictures of other patches
                os.replace(examples, _free_name(self.out / "examples.before"))
        kept = [{k: v for k, v in row.items() if k not in self.scores} for row in self.history]
        self.history = [*kept[:-1], kept[-1] | validate(self.first - 1)]
        self._show()
        self.save(self.first - 1)

    def steps(self, total: int, title: str):
        """The steps still to do, with a progress bar that counts them all."""
        return tqdm(
            range(self.first, total),
            desc=title,
            total=total,
            initial=self.first,
            mininterval=2,
            # None: a bar in a terminal alone; executed notebooks and logs would keep each of its lines
            disable=not self.fabric.is_global_zero or self.first >= total or (False if self.report else None),
            dynamic_ncols=False,
            ncols=90,
        )

    @staticmethod
    def is_due(step: int, every: int, total: int) -> bool:
        """After every ``every`` steps, and after the last."""
        return (step + 1) % every == 0 or step + 1 == total

    def note(self, step: int, **values: Tensor) -> None:
        """Keep a step's losses for the mean in the next row; a loss that is not finite ends the run.

        With several processes, of the mean over them.
        """
        if self.fabric.world_size > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        for name, value in values.items():
            if not bool(torch.isfinite(value)):
                raise FloatingPointError(
                    f"{self.out.name}: step {step}: expected a finite {name}, found {value}; "
                    f"the last checkpoint is {self.checkpoint}"
                )
            self._sums.setdefault(name, []).append(value.float().cpu())

    def record(self, step: int, **values) -> None:
        """Add a row to the history: means of what was noted since the last one, and ``values``."""
        means = {name: float(torch.stack(noted).mean()) for name, noted in self._sums.items()}
        self.history.append({"step": step + 1, **means, **values})
        self._sums = {}
        self._show()

    def _show(self) -> None:
        """Write the history, and hand it to who watches."""
        if self.fabric.is_global_zero:
            write_beside(self.out / "history.csv", self.table().to_csv(index=False))
            if self.report:
                self.report(self.table())

    def save(self, step: int) -> None:
        """Write the checkpoint beside the last one, then rename it into place."""
        if not self.fabric.is_global_zero:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {
            "step": step,
            "random_state": torch.get_rng_state(),
            "history": self.history,
            "sums": self._sums,
            "fingerprint": self.fingerprint,
            "measured_on": self.measured_on,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_beside(self.checkpoint, buffer.getbuffer())

    def finish(self, generator: nn.Module, origin: str) -> None:
        """Write the weights that the next stage reads."""
        if (
            self.fabric.is_global_zero
        ):  # one entry: safetensors writes several in any order, so hashes would differ
            save_weights(generator, self.out / "generator.safetensors", {"origin": origin})

    def table(self) -> pd.DataFrame:
        """The history as a table, one row a checkpoint."""
        return pd.DataFrame(self.history)


def _lock(out: Path) -> None:
    """Keep other processes out of a run's folder for as long as this one lives; the system ends it.

    A file system without locks is no reason not to train: there is a warning.

    Raises:
        RuntimeError: another process trains there.
        PermissionError: the folder, or the lock in it, belongs to somebody else.
    """
    path = out.resolve().with_name(f".{out.name}.lock")
    if path in _LOCKS:  # the same notebook, its cell run once more
        return
    # No soft lock: on a cluster it would outlive a killed process, and nobody could tell.
    _LOCKS[path] = FileLock(path, timeout=0, thread_local=False, fallback_to_soft=False)
    try:
        _LOCKS[path].acquire()
    except Timeout:
        del _LOCKS[path]
        raise RuntimeError(f"run {out}: expected nobody training there, found another process") from None
    except OSError as error:
        if isinstance(error, PermissionError):
            del _LOCKS[path]
            raise
        warnings.warn(
            f"run {out}: expected a file system with locks, found one without ({error.strerror}); "
            "training goes on, and nothing keeps a second process out of this run",
            stacklevel=3,
        )


def read_checkpoint(path: Path) -> dict:
    """Read a training checkpoint; nothing in it is executed.

    Raises:
        ValueError: cut off, damaged, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["step"], state["fingerprint"], state["history"]
    except Exception as error:
        raise ValueError(
            f"checkpoint {path}: expected a training checkpoint, found one that cannot be read "
            f"({type(error).__name__}); delete it to start anew"
        ) from error
    return state


def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Running average of weights and BatchNorm statistics, decaying by ``min(decay, (s + 1) / (s + 10))``."""
    decay = min(decay, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


@torch.no_grad()
def set_batchnorm(generator: Generator, images: Sequence[Tensor]) -> None:
    """Give BatchNorm the mean statistics of ``images``, each ``(D, H, W)``, and leave it in eval mode."""
    norms = [m for m in generator.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momentum = [m.momentum for m in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    generator.train()
    for image in images:
        generator(image[None, None])
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    generator.eval()


@torch.no_grad()
def validate_patches(
    generator: nn.Module, patches: Patches, count: int, fabric: Fabric, out: Path, step: int
) -> dict[str, float]:
    """Mean L1, PSNR and SSIM of the fixed validation patches.

    The one with most contrast is kept as an example: LR | SR | HR.
    """
    was_training, scores, examples = generator.training, [], []
    generator.eval()
    for i in range(count):
        lr, hr = (t.to(fabric.device) for t in batch(patches, i, 1))
        with fabric.autocast():
            sr = generator(lr)
        low, restored, high = (t[0, 0].float().cpu().numpy() for t in (lr, sr, hr))
        scores.append(
            {
                "l1": float(np.abs(restored - high).mean()),
                "psnr": metrics.psnr(restored, high),
                "ssim": metrics.ssim(restored, high),
            }
        )
        examples.append(np.stack([low, restored, high]))
    if fabric.is_global_zero:
        (out / "examples").mkdir(exist_ok=True)
        example = max(examples, key=lambda images: images[2].std())
        np.save(out / "examples" / f"step_{step + 1:07d}.npy", example)
    generator.train(was_training)
    return pd.DataFrame(scores).mean().to_dict()


def zero_filled_scores(patches: Patches, count: int) -> dict[str, float]:
    """What `validate_patches` gives for the LR image itself: the mark to beat."""
    scores = []
    for i in range(count):
        lr, hr = patches.patch(i)
        scores.append(
            {"l1": float(np.abs(lr - hr).mean()), "psnr": metrics.psnr(lr, hr), "ssim": metrics.ssim(lr, hr)}
        )
    return pd.DataFrame(scores).mean().to_dict()


def validate_volumes(
    generator: nn.Module, subjects: Sequence[Prepared], crop: Sequence[int] | None
) -> dict[str, float]:
    """Mean PSNR, SSIM and NRMSE of merged volumes, or of a central box of each."""
    scores = []
    for subject in subjects:
        box = central_box(subject.hr.shape, crop)
        hr = np.asarray(subject.hr[box])
        sr = super_resolve(np.asarray(subject.lr[box]), generator)
        scores.append(
            {"psnr": metrics.psnr(sr, hr), "ssim": metrics.ssim(sr, hr), "nrmse": metrics.nrmse(sr, hr)}
        )
    return pd.DataFrame(scores).mean().to_dict()


def central_box(shape: Sequence[int], crop: Sequence[int] | None) -> tuple[slice, ...]:
    """A box of at most ``crop`` voxels in the middle of ``shape``."""
    sizes = [min(n, c) for n, c in zip(shape, crop or shape, strict=True)]
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, sizes, strict=True))


def _batch(patches: Patches, step: int, batch_size: int, fabric: Fabric) -> tuple[Tensor, Tensor]:
    """This process's LR and HR of a step, on its device."""
    pair = batch(patches, step, batch_size, fabric.global_rank, fabric.world_size)
    return fabric.to_device(pair)


def _start_of(settings: PretrainSettings, start: Path | None) -> nn.Module:
    """The generator that training begins with; random numbers are drawn after it, from the run's seed."""
    generator = load_generator(start) if start else None
    torch.manual_seed(settings.seed)
    fresh = make_generator(settings.model, settings.init)
    if not isinstance(generator or fresh, type(fresh)):
        raise ValueError(f"weights {start}: expected {settings.model}, found {type(generator).__name__}")
    return generator or fresh


def _shares(count: int, fabric: Fabric) -> Tensor:
    """This process's part of the random numbers that one process would draw for all patches of the step."""
    return torch.rand(fabric.world_size, count)[fabric.global_rank]


def _without_sync(model: nn.Module, fabric: Fabric) -> contextlib.AbstractContextManager:
    """Several processes: do not wait for gradients of ``model``, which a step that gives none never ends."""
    return fabric.no_backward_sync(model) if fabric.world_size > 1 else contextlib.nullcontext()


def _rate_groups(generator: Generator, settings: PretrainSettings) -> list[dict]:
    """Parameters grouped by learning rate: reconstruction, compressors, all the rest."""
    groups: dict[str, list[Tensor]] = {"recon": [], "comp": [], "rest": []}
    for name, parameter in generator.named_parameters():
        groups[next((g for g in ("recon", "comp") if name.startswith(g)), "rest")].append(parameter)
    factors = {"recon": settings.rate_reconstruction, "comp": settings.rate_compressors, "rest": 1.0}
    return [{"params": groups[g], "lr": settings.learning_rate * factors[g]} for g in groups]


def _g_steps(step: int, schedule: Sequence[int]) -> int:
    """How many of the steps 0 ... ``step`` updated G."""
    warmup, d_per_g, extra_every, extra = schedule
    cycles, rest = divmod(max(0, step + 1 - warmup), extra_every + extra)
    return cycles * (extra_every // (d_per_g + 1)) + min(rest, extra_every) // (d_per_g + 1)


@torch.no_grad()
def _clip(network: nn.Module, bound: float) -> None:
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)


def _mean_change(generator: nn.Module, origin: Sequence[Tensor]) -> float:
    with torch.no_grad():
        moved = sum(
            float((p.cpu() - o).abs().sum()) for p, o in zip(generator.parameters(), origin, strict=True)
        )
    return moved / sum(o.numel() for o in origin)


def _digest(source: Patches | Sequence[Prepared] | str, without: Sequence[str] = LABELS) -> str:
    """What patches, or heads, are made of, as one hash; ``without`` these facts of a head."""

    def heads(found: Sequence[Prepared]) -> list[dict]:
        return [{k: v for k, v in head.meta.items() if k not in without} for head in found]

    if hasattr(source, "patch_size"):
        what = {"kind": type(source).__name__, "patch_size": source.patch_size, "seed": source.seed}
        what["subjects"] = heads(source.subjects)
        what |= {
            k: list(v) if isinstance(v, tuple) else v
            for k in ("flips", "usage", "leave_out")
            if (v := getattr(source, k, None)) is not None
        }
        source = json.dumps(what, sort_keys=True)
    elif not isinstance(source, str):
        source = json.dumps(heads(source), sort_keys=True)
    return hashlib.sha256(source.encode()).hexdigest()


def _with_names(found: dict, settings: PretrainSettings | GanSettings, train: Patches) -> dict:
    """A checkpoint's fingerprint; older ones number what they read, and hash a head's labels with it."""
    names = [TRAIN, "validation", START] if isinstance(settings, PretrainSettings) else [TRAIN, START]
    numbers = {f"data {i}": name for i, name in enumerate(names, 1)}
    named = {numbers.get(k, k): v for k, v in found.items() if numbers.get(k) != "validation"}
    return named | ({TRAIN: _digest(train)} if named[TRAIN] == _digest(train, without=()) else {})


def _free_name(path: Path) -> Path:
    """``path`` with the first number that is not taken."""
    return next(p for i in range(1, 10_000) if not (p := path.with_name(f"{path.name}-{i}")).exists())
