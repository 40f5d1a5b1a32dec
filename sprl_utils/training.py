"""The two training stages: L1 pretraining of the generator, then WGAN-GP.

Both count steps from 0 and are functions of (settings, step): learning rate, patches, who is updated. With
`sprl_utils.checkpoints` a killed run that is started again ends as if nothing had happened: bit for bit on a
CPU in fp32.
"""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, update_bn

from sprl_utils import losses, metrics
from sprl_utils.checkpoints import Report, Run, Scores, digest
from sprl_utils.inference import super_resolve
from sprl_utils.networks import (
    Discriminator,
    Generator,
    channels_last,
    cpu_multiplies_bf16,
    load_generator,
    make_generator,
    model_of,
)
from sprl_utils.patches import Patches, Prepared, batch


def gan_schedule(
    step: int, warmup: int = 10_000, d_per_g: int = 7, extra_every: int = 500, extra: int = 200
) -> str:
    """Which network step ``step`` (from 0) of the GAN stage updates: ``"D"`` or ``"G"``.

    The first ``warmup`` steps train D. After that, cycles of ``d_per_g`` D steps and one G step; after every
    ``extra_every`` such steps follow ``extra`` more of D, and the cycle begins anew. The default numbers are
    the paper's.
    """
    if step < warmup:
        return "D"
    position = (step - warmup) % (extra_every + extra)
    return "G" if position < extra_every and position % (d_per_g + 1) == d_per_g else "D"


@dataclass(frozen=True)
class PretrainSettings:
    """Pretraining with L1 and Adam (paper: rate 1e-4, batch 2, constant).

    Args:
        model: one of `sprl_utils.networks.MODELS`.
        rate_reconstruction, rate_compressors: factors on the learning rate of the last 1x1x1 conv and of the
            compressors, which read hundreds of maps that nothing normalises.
        rate_schedule: ``"constant"``, or ``"cosine"``: up over ``rate_warmup`` steps, down to 0 at the end.
        restarts: steps, in rising order, at which one cosine ends and the next begins (warm restarts,
            Loshchilov and Hutter 2017). A finished run goes on to more steps if its own are among them.
        average: decay of the running average of the weights that is validated and saved; 0: the weights
            themselves.
        gradient_norm: a gradient that is longer is shortened to it (gradient clipping); 0: none is.
        every: steps between checkpoints, each with a row of the history and scores of the validation patches.
        norm_patches: BatchNorm takes its statistics from so many patches before the first step, and keeps
            them. 0: they are each batch's own, as in the paper.

    Raises:
        ValueError: another ``rate_schedule``; restarts that do not rise, or lie outside the run.
    """

    steps: int
    batch_size: int = 2
    learning_rate: float = 1e-4
    rate_reconstruction: float = 1.0
    rate_compressors: float = 1.0
    rate_schedule: str = "constant"
    rate_warmup: int = 0
    restarts: Sequence[int] = ()
    gradient_norm: float = 0.0
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
        if self.restarts and any(begin >= end for begin, end in self.cycles):
            raise ValueError(
                f"training: restarts must rise between 0 and {self.steps} steps, found {list(self.restarts)}"
            )

    @property
    def cycles(self) -> list[tuple[int, int]]:
        """First step of each cosine, and the step after its last."""
        return list(pairwise([0, *self.restarts, self.steps]))


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


# --- pretraining --------------------------------------------------------------------------------------------


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
        validation: patches of the validation heads, of which numbers 0 to ``validation_count - 1`` are
            scored.
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
    generator = channels_last(_first_generator(settings, start))
    average = fabric.to_device(averaged(generator, settings.average))
    if fabric.world_size > 1 and fabric.device.type == "cuda" and not settings.norm_patches:
        generator = nn.SyncBatchNorm.convert_sync_batchnorm(generator)
    adam = torch.optim.Adam(rate_groups(generator, settings), settings.learning_rate)
    model, optimizer = fabric.setup(generator, adam)

    validated_on = {"validation_patches": validation_count, "validation heads": digest(validation)}
    run = Run(out, fabric, settings, train, start, validated_on, ("l1", "psnr", "ssim"), report)

    def validate(step: int) -> Scores:
        return validate_patches(average.module, validation, validation_count, fabric, run.out, step)

    run.resume({"generator": generator, "average": average, "optimizer": optimizer}, validate)
    if run.first == 0:
        if settings.norm_patches:
            lr, _ = batch(train, 2**30, settings.norm_patches)
            update_bn(fabric.to_device(lr)[:, None], generator)
        average.update_parameters(generator)
        if start:
            run.record(-1, **validate(-1))
    model.train(not settings.norm_patches)

    for step in run.steps("pretraining"):
        for group in optimizer.param_groups:
            group["lr"] = group["base_rate"] * learning_rate(step, settings)
        lr, hr = _device_batch(train, step, settings.batch_size, fabric)
        loss = losses.l1_loss(model(lr), hr)
        descend(loss, optimizer, fabric, model, settings.gradient_norm)
        average.update_parameters(generator)
        run.note(step, train_l1=loss.detach())
        if run.is_due(step, settings.every):
            run.record(step, **validate(step))
            run.save(step)
    run.save_network(average.module, "generator", {"origin": f"pretraining, {settings.steps} steps"})
    return run.table()


def learning_rate(step: int, settings: PretrainSettings) -> float:
    """Factor on the base learning rate at ``step``."""
    if settings.rate_schedule == "constant":
        return 1.0
    begin, end = next((a, b) for a, b in settings.cycles if step < b or b == settings.steps)
    rising = min(1.0, (step - begin + 1) / max(1, settings.rate_warmup))
    return rising * 0.5 * (1 + math.cos(math.pi * (step - begin) / (end - begin)))


def averaged(generator: nn.Module, decay: float) -> AveragedModel:
    """A running average of weights and BatchNorm statistics.

    The first call of its ``update_parameters`` copies; the n-th after that decays by
    ``min(decay, n / (n + 9))``, so the first weights are soon forgotten. A decay of 0 gives the weights
    themselves.
    """

    @torch.no_grad()
    def update(means: list[Tensor], values: list[Tensor], count: Tensor) -> None:
        n = int(count)
        for mean, value in zip(means, values, strict=True):
            if mean.dtype.is_floating_point:
                mean.lerp_(value, 1 - min(decay, n / (n + 9)))
            else:  # BatchNorm's number of batches
                mean.copy_(value)

    return AveragedModel(generator, multi_avg_fn=update, use_buffers=True).requires_grad_(False)


def rate_groups(generator: Generator, settings: PretrainSettings) -> list[dict]:
    """Parameters grouped by learning rate: reconstruction, compressors, all the rest."""
    factors = {"recon": settings.rate_reconstruction, "comp": settings.rate_compressors, "rest": 1.0}
    groups: dict[str, list[Tensor]] = {name: [] for name in factors}
    for name, parameter in generator.named_parameters():
        groups[next((g for g in ("recon", "comp") if name.startswith(g)), "rest")].append(parameter)
    rates = {name: settings.learning_rate * factor for name, factor in factors.items()}
    return [{"params": groups[g], "lr": rates[g], "base_rate": rates[g]} for g in groups]


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    model: nn.Module | None = None,
    gradient_norm: float = 0.0,
) -> None:
    """One step down the gradient of ``loss``, clipped to ``gradient_norm`` unless that is 0."""
    optimizer.zero_grad()
    fabric.backward(loss)
    if gradient_norm:  # a gradient that is not finite shows in the loss, which `Run.note` refuses
        fabric.clip_gradients(model, optimizer, max_norm=gradient_norm, error_if_nonfinite=False)
    optimizer.step()


def _first_generator(settings: PretrainSettings, start: Path | None) -> nn.Module:
    """The generator that training begins with; random numbers are drawn after it, from the run's seed."""
    generator = load_generator(start) if start else None
    torch.manual_seed(settings.seed)
    fresh = make_generator(settings.model, settings.init)
    model_of(fresh.state_dict())  # refuses a network that would be read as another one
    if generator and _shapes(generator) != _shapes(fresh):
        raise ValueError(
            f"weights {start}: expected those of {settings.model}, found {type(generator).__name__} "
            "with other sizes"
        )
    return generator or fresh


def _shapes(network: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


# --- the GAN ------------------------------------------------------------------------------------------------


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
        The history: step; D_loss, wasserstein, penalty (means over D steps); G_loss, l1, adversarial (over G
        steps); weight_change (mean absolute distance of G's weights from the start); g_steps (so far); psnr,
        ssim, nrmse of merged volumes.
    """
    generator = channels_last(load_generator(start))
    torch.manual_seed(settings.seed)
    discriminator = make_discriminator(settings)
    origin = [p.detach().clone() for p in generator.parameters()]
    gan = Gan(generator, discriminator, settings, fabric)

    def validate(_: int) -> Scores:
        return validate_volumes(generator, validation, validation_crop)

    validated_on = {"validation_crop": list(validation_crop or []), "validation heads": digest(validation)}
    run = Run(out, fabric, settings, train, start, validated_on, metrics.METRICS, report)
    run.resume(gan.parts(), validate)
    schedule = (settings.warmup, settings.d_per_g, settings.extra_every, settings.extra)

    for step in run.steps("GAN training"):
        lr, hr = _device_batch(train, step, settings.batch_size, fabric)
        if gan_schedule(step, *schedule) == "D":
            found = gan.update_discriminator(lr, hr)
        else:
            found = gan.update_generator(lr, hr)
        run.note(step, **found)
        if run.is_due(step, settings.every) or run.is_due(step, settings.validate_every):
            g_steps = sum(gan_schedule(s, *schedule) == "G" for s in range(step + 1))
            scores = validate(step) if run.is_due(step, settings.validate_every) else {}
            run.record(step, weight_change=mean_change(generator, origin), g_steps=g_steps, **scores)
            run.save(step)
    run.save_network(generator, "generator", {"origin": f"GAN training, {settings.steps} steps"})
    run.save_network(discriminator, "discriminator")
    return run.table()


def make_discriminator(settings: GanSettings) -> nn.Module:
    """The discriminator of a GAN stage, with fresh weights."""
    shape = (settings.patch_size, settings.head, settings.negative_slope, settings.width)
    return channels_last(Discriminator(*shape))


class Gan:
    """Generator G and discriminator D, an Adam for each, and one step of either.

    Steps take LR and HR ``(N, 1, D, H, W)`` and return the loss and its parts.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, settings: GanSettings, fabric: Fabric):
        self.generator, self.discriminator = generator, discriminator
        self.settings, self.fabric = settings, fabric
        # As Fabric wraps them: in the run's precision, with gradients averaged over processes.
        self.g, self.g_optimizer = fabric.setup(generator, self._adam(generator))
        self.d, self.d_optimizer = fabric.setup(discriminator, self._adam(discriminator))
        # BatchNorm keeps the statistics of pretraining: G's weights change in G steps alone, and D judges
        # the generator that is evaluated, not one that differs from batch to batch.
        self.g.eval()

    def _adam(self, network: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam(network.parameters(), self.settings.learning_rate)

    def parts(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        names = ("generator", "discriminator", "g_optimizer", "d_optimizer")
        return {name: getattr(self, name) for name in names}

    def update_discriminator(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """One step of D."""
        with torch.no_grad():
            sr = self.g(lr)
        # Of the random numbers that one process would draw for all patches of the step, this one's.
        share = torch.rand(self.fabric.world_size, len(hr))[self.fabric.global_rank].to(hr.device)
        plain = without_wrapper(self.discriminator, self.fabric)
        loss, parts = losses.discriminator_loss(self.d, hr, sr, share, self.settings.penalty_weight, plain)
        descend(loss, self.d_optimizer, self.fabric)
        if bound := self.settings.weight_clip:
            with torch.no_grad():
                for parameter in self.discriminator.parameters():
                    parameter.clamp_(-bound, bound)
        return {"D_loss": loss.detach(), **parts}

    def update_generator(self, lr: Tensor, hr: Tensor) -> dict[str, Tensor]:
        """One step of G."""
        self.discriminator.requires_grad_(False)
        with self.fabric.no_backward_sync(self.d):  # D gets no gradient here, so no process may wait for one
            loss, parts = losses.generator_loss(self.d, self.g(lr), hr, self.settings.adversarial_weight)
        descend(loss, self.g_optimizer, self.fabric)
        self.discriminator.requires_grad_(True)
        return {"G_loss": loss.detach(), **parts}


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


def mean_change(generator: nn.Module, origin: Sequence[Tensor]) -> float:
    """Mean absolute distance of a generator's weights from ``origin``."""
    moved = sum(
        float((p.detach().cpu() - o).abs().sum()) for p, o in zip(generator.parameters(), origin, strict=True)
    )
    return moved / sum(o.numel() for o in origin)


# --- validation ---------------------------------------------------------------------------------------------


def patch_scores(image: np.ndarray, hr: np.ndarray) -> Scores:
    """L1, PSNR and SSIM of a patch against HR."""
    l1 = float(np.abs(image - hr).mean())
    return {"l1": l1, "psnr": metrics.psnr(image, hr), "ssim": metrics.ssim(image, hr)}


def zero_filled_scores(patches: Patches, count: int) -> Scores:
    """What `validate_patches` gives for the LR image itself: the mark to beat."""
    return pd.DataFrame([patch_scores(*patches.patch(i)) for i in range(count)]).mean().to_dict()


@torch.no_grad()
def validate_patches(
    generator: nn.Module, patches: Patches, count: int, fabric: Fabric, out: Path, step: int
) -> Scores:
    """Mean L1, PSNR and SSIM of the fixed validation patches.

    The one with most contrast is kept in ``out/examples/``: LR, SR and HR as ``(3, x, y, z)``.
    """
    generator.eval()
    scores, examples = [], []
    for i in range(count):
        lr, hr = (t.to(fabric.device) for t in batch(patches, i, 1))
        with fabric.autocast():
            sr = generator(lr)
        low, restored, high = (t[0, 0].float().cpu().numpy() for t in (lr, sr, hr))
        scores.append(patch_scores(restored, high))
        examples.append(np.stack([low, restored, high]))
    if fabric.is_global_zero:
        (out / "examples").mkdir(exist_ok=True)
        example = max(examples, key=lambda images: images[2].std())
        np.save(out / "examples" / f"step_{step + 1:07d}.npy", example)
    return pd.DataFrame(scores).mean().to_dict()


def validate_volumes(
    generator: nn.Module, subjects: Sequence[Prepared], crop: Sequence[int] | None, engine: str = "auto"
) -> Scores:
    """Mean PSNR, SSIM and NRMSE of merged volumes, or of a central box of each."""
    scores = []
    for subject in subjects:
        box = central_box(subject.hr.shape, crop)
        hr = np.asarray(subject.hr[box])
        sr = super_resolve(np.asarray(subject.lr[box]), generator, engine, order=subject.order)
        scores.append({name: getattr(metrics, name)(sr, hr) for name in metrics.METRICS})
    return pd.DataFrame(scores).mean().to_dict()


def central_box(shape: Sequence[int], crop: Sequence[int] | None) -> tuple[slice, ...]:
    """A box of at most ``crop`` voxels in the middle of ``shape``."""
    sizes = [min(n, c) for n, c in zip(shape, crop or shape, strict=True)]
    return tuple(slice((n - s) // 2, (n - s) // 2 + s) for n, s in zip(shape, sizes, strict=True))


# --- where it runs ------------------------------------------------------------------------------------------


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
    """Where a run was trained and in what precision, for its provenance record."""
    return {
        "device": str(fabric.device.type),
        "processes": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
    }


def fabric_dtype(fabric: Fabric) -> torch.dtype:
    """What the dense units of `sprl_utils.inference.super_resolve` should compute in, in this precision."""
    return torch.bfloat16 if fabric.strategy.precision.precision.startswith("bf16") else torch.float32


def _device_batch(patches: Patches, step: int, batch_size: int, fabric: Fabric) -> tuple[Tensor, Tensor]:
    """This process's LR and HR ``(N, 1, D, H, W)`` of a step, on its device."""
    return fabric.to_device(batch(patches, step, batch_size, fabric.global_rank, fabric.world_size))
