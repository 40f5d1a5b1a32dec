"""How fast: the original project's procedure against this study's, each in a process of its own.

Both sides get the same files, weights and threads, and run on the GPU where there is one. The original's side
computes in fp32 with contiguous tensors and the default allocator, as it ran; ours uses what the study uses.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from torch import Tensor, nn

import sprl_utils.comparison.networks  # noqa: F401  registers the comparators
from sprl_utils import losses, metrics
from sprl_utils.inference import super_resolve
from sprl_utils.kspace import truncate_kspace
from sprl_utils.masks import head_with_margin
from sprl_utils.networks import (
    Discriminator,
    Generator,
    channels_last,
    count_parameters,
    load_generator,
    make_generator,
    multiply_adds,
)
from sprl_utils.original.procedure import original_lr_image, original_super_resolve, plain_forward
from sprl_utils.provenance import tune_process
from sprl_utils.training import Gan, GanSettings, central_box, descend, fabric_dtype, make_fabric

SIDES = ("original", "ours")
#: HCP's field of view in mm (256 x 320 x 320 of 0.7 mm), to which the 1 mm head is cut before resampling.
FIELD_OF_VIEW = (179, 224, 224)


# ---- what both sides get -------------------------------------------------------------------------------


def head_of_size(head: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A 1 mm head, cut to HCP's field of view and resampled (cubic) to ``shape``; float32, about 0..1."""
    cut = head[central_box(head.shape, FIELD_OF_VIEW)]
    zoomed = ndimage.zoom(cut, [s / n for s, n in zip(shape, cut.shape, strict=True)], order=3)
    return np.clip(zoomed, 0, None).astype(np.float32)


def write_inputs(folder: Path, hr: np.ndarray, keep: Sequence[float | None]) -> None:
    """HR, LR, and where the head is (`masks.head_with_margin`), as files for both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    lr = truncate_kspace(hr, keep)
    for name, array in {"hr": hr, "lr": lr, "head": head_with_margin(lr)}.items():
        np.save(folder / f"{name}.npy", array)


def bench_generator(weights: str = "") -> nn.Module:
    """The paper's generator with trained ``weights``, a file; without any, near the identity.

    Speed does not depend on the weights, but how far two procedures lie apart does: near the identity hardly
    any detail passes through the network.
    """
    if weights:
        return load_generator(Path(weights)).eval()
    torch.manual_seed(0)
    generator = Generator(init="identity")
    with torch.no_grad():
        generator.recon.weight += 1e-4 * torch.randn(generator.recon.weight.shape)
    return generator.eval()


# ---- one side of one task: what is timed ---------------------------------------------------------------


def _inference(
    side: str, folder: str, memory_gib: float, skip_air: bool = False, cubes: int = 0, weights: str = ""
) -> Callable[[], dict]:
    fabric = make_fabric()
    lr, generator = np.load(f"{folder}/lr.npy"), bench_generator(weights).to(fabric.device)

    def original() -> dict:
        sr, share = original_super_resolve(lr, generator, cubes)
        return {"array": sr if share == 1 else None, "share": share}

    if side == "original":
        return original
    facts = {"memory_gib": memory_gib, "dtype": fabric_dtype(fabric)}
    facts["foreground"] = np.load(f"{folder}/head.npy") if skip_air else None
    generator = channels_last(generator)
    return lambda: {"array": super_resolve(lr, generator, **facts)}


def _lr(side: str, folder: str, keep: Sequence[float | None]) -> Callable[[], dict]:
    hr = np.load(f"{folder}/hr.npy")
    make = original_lr_image if side == "original" else truncate_kspace
    return lambda: {"array": make(hr, keep)}


def _stage(side: str, patch_size: int) -> tuple[Gan, Tensor, Tensor]:
    """Both networks with their optimisers, and LR and HR of two cubes, as one side trains them.

    The original clips D's weights; ours has the gradient penalty, which costs a second backward pass.
    """
    settings = GanSettings(steps=1, learning_rate=1e-4, patch_size=patch_size)
    if side == "original":
        settings = replace(settings, negative_slope=1.0, weight_clip=0.01, penalty_weight=0.0)
    torch.manual_seed(0)
    generator = Generator(init="identity")
    discriminator = Discriminator(patch_size, negative_slope=settings.negative_slope)
    hr = torch.rand(2, 1, *[patch_size] * 3)
    lr = nn.functional.avg_pool3d(hr, 3, stride=1, padding=1)
    if side == "ours":
        generator, discriminator = channels_last(generator), channels_last(discriminator)
    fabric = make_fabric(precision="32-true" if side == "original" else "auto")
    gan = Gan(generator, discriminator, settings, fabric)
    if side == "original":
        gan.g = partial(plain_forward, generator)
    return gan, fabric.to_device(lr), fabric.to_device(hr)


def _pretrain_step(side: str, patch_size: int, steps: int = 1) -> Callable[[], dict]:
    gan, lr, hr = _stage(side, patch_size)
    gan.generator.train()

    def run() -> dict:
        trace = []
        for _ in range(steps):
            loss = losses.l1_loss(gan.g(lr), hr)
            descend(loss, gan.g_optimizer, gan.fabric)
            trace.append(loss.item())
        return {"losses": trace}

    return run


def _gan_step(update: Callable, side: str, patch_size: int) -> Callable[[], dict]:
    gan, lr, hr = _stage(side, patch_size)

    def run() -> dict:
        update(gan, lr, hr)
        return {}

    return run


def _network(side: str, model: str, edge: int) -> Callable[[], dict]:
    """One generator on one cube, in inference, both sides alike."""
    fabric = make_fabric()
    generator = channels_last(make_generator(model)).to(fabric.device).eval()
    x = torch.rand(1, 1, edge, edge, edge, device=fabric.device)

    @torch.no_grad()
    def run() -> dict:
        with fabric.autocast():
            generator(x)
        return {"parameters": count_parameters(generator), "multiply_adds": multiply_adds(generator, edge)}

    return run


TASKS = {
    "inference": _inference,
    "LR": _lr,
    "pretraining step": _pretrain_step,
    "D step": partial(_gan_step, Gan.update_discriminator),
    "G step": partial(_gan_step, Gan.update_generator),
    "network": _network,
}


# ---- measuring -------------------------------------------------------------------------------------------


def measure(
    task: str, side: str, repeats: int = 3, warmup: int = 1, out: Path | None = None, **settings
) -> dict:
    """Run one side of one task in a process of its own.

    Args:
        out: where to keep the array that the task makes (``.npy``).
        settings: of the task.

    Returns:
        ``task``, ``side``, ``seconds`` of each repeat, ``peak_gib`` of the process, and the last result.

    Raises:
        Exception: whatever the task raised.
        BrokenProcessPool: the process was killed, perhaps for want of memory.
    """
    # Forked from a server that has imported this module and done nothing else: each process starts alike,
    # without the seconds that imports take. What a side sets for its process ends with it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        found = pool.submit(_run, task, side, repeats, warmup, out, settings).result()
    return {"task": task, "side": side, **found}


def ratios(measured: Sequence[dict]) -> pd.DataFrame:
    """One row per task and size: median seconds and peak memory of both sides, and how much faster ours is.

    Times of a part of the work (``share``) count for the whole.
    """
    table = pd.DataFrame(
        {
            "task": m["task"],
            "size": m["size"],
            "side": m["side"],
            "seconds": np.median(m["seconds"]) / m.get("share", 1.0),
            "peak_gib": m["peak_gib"],
            "runs": len(m["seconds"]),
        }
        for m in measured
    )
    table = table.pivot(index=["task", "size"], columns="side", values=["seconds", "peak_gib", "runs"])
    table.columns = [f"{side}_{value}" for value, side in table.columns]
    table.insert(0, "times_faster", table["original_seconds"] / table["ours_seconds"])
    return table.reset_index()


def long_table(measured: Sequence[dict]) -> pd.DataFrame:
    """One row per timed run."""
    columns = ["task", "size", "side", "share", "peak_gib", "run", "seconds"]
    runs = (m | {"run": i, "seconds": s} for m in measured for i, s in enumerate(m["seconds"]))
    return pd.DataFrame(runs).reindex(columns=columns)


def agreement(folder: Path, exact: bool, weights: str = "") -> dict[str, str | float]:
    """PSNR in dB of each side's output against HR and against the other's.

    Args:
        folder: of `write_inputs` and the outputs. A side that ran a part of its cubes has left none.
        exact: also compare with one fp32 pass of the network over the whole volume.
        weights: those that made the outputs.
    """
    hr, lr = np.load(folder / "hr.npy"), np.load(folder / "lr.npy")
    outputs = {p.stem: np.load(p) for p in (folder / f"{s}.npy" for s in (*SIDES, "skipping")) if p.exists()}
    row: dict[str, str | float] = {"size": folder.name, "LR to HR": metrics.psnr(lr, hr)}
    if exact:
        with torch.no_grad():
            x = torch.from_numpy(lr)[None, None]
            outputs["exact"] = plain_forward(bench_generator(weights), x)[0, 0].numpy()
        row["ours to exact"] = metrics.psnr(outputs["ours"], outputs["exact"])
    row |= {f"{name} to HR": metrics.psnr(image, hr) for name, image in outputs.items()}
    if "original" in outputs:
        row["ours to original"] = metrics.psnr(outputs["ours"], outputs["original"])
    return row


def _peak_gib() -> float:
    """The most memory this process has held, on the GPU where there is one.

    (Linux's ``ru_maxrss`` begins with the parent's.)
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 2**20
    except (OSError, StopIteration):
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _run(task: str, side: str, repeats: int, warmup: int, out: Path | None, settings: dict) -> dict:
    """One side of one task, in this process."""
    if side == "ours":
        tune_process()
    run = TASKS[task](side, **settings)
    seconds, result = [], {}
    for i in range(warmup + repeats):
        started = time.perf_counter()
        result = run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if i >= warmup:
            seconds.append(time.perf_counter() - started)
    array = result.pop("array", None)
    if out and array is not None:
        np.save(out, array)
    return {"seconds": seconds, "peak_gib": _peak_gib(), **result}
