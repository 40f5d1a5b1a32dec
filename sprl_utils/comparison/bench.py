"""How fast: the original project's procedure against this study's, each in a process of its own.

The original procedure is written here from its description (its README and reading its notebooks), in fp32
with contiguous tensors and the default allocator, as it ran. Both sides get the same files. Nothing else in
the study imports this module.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage import metrics as skimage_metrics
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import sprl_utils.comparison.networks  # noqa: F401  registers the comparators
from sprl_utils import losses, metrics
from sprl_utils.evaluation import AIR_MARGIN
from sprl_utils.extras import streaming  # noqa: F401  the engine of the paper's generator
from sprl_utils.inference import super_resolve
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import Subject
from sprl_utils.masks import foreground_mask
from sprl_utils.networks import (
    Discriminator,
    Generator,
    channels_last,
    count_parameters,
    make_generator,
    multiply_adds,
)
from sprl_utils.original.grid import grid_corners
from sprl_utils.patches import Prepared, RandomPatches, batch
from sprl_utils.prepare import Recipe, prepare_subject
from sprl_utils.provenance import tune_process
from sprl_utils.training import fabric_dtype, make_fabric, without_wrapper

SIDES = ("original", "ours")
#: The original's cubes and the margin cut off each.
CUBE, MARGIN = 64, 3
#: HCP's field of view in mm (256 x 320 x 320 of 0.7 mm), to which the 1 mm head is cut before resampling.
FIELD_OF_VIEW = (179, 224, 224)


# ---- what both sides get -------------------------------------------------------------------------------


def head_of_size(head: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A 1 mm head, cut to HCP's field of view and resampled (cubic) to ``shape``; float32, about 0..1."""
    box = tuple(
        slice(max(0, (n - mm) // 2), max(0, (n - mm) // 2) + mm)
        for n, mm in zip(head.shape, FIELD_OF_VIEW, strict=True)
    )
    cut = head[box]
    zoomed = ndimage.zoom(cut, [s / n for s, n in zip(shape, cut.shape, strict=True)], order=3)
    return np.clip(zoomed, 0, None).astype(np.float32)


def seeded_generator() -> Generator:
    """The paper's generator, started as the identity with a little of every map in its reconstruction.

    Speed does not depend on the weights; these make an output that differs from the input by texture.
    """
    torch.manual_seed(0)
    generator = Generator(init="identity")
    with torch.no_grad():
        generator.recon.weight += 1e-4 * torch.randn(generator.recon.weight.shape)
    return generator.eval()


def write_inputs(folder: Path, hr: np.ndarray, keep: Sequence[float | None]) -> None:
    """HR, LR, and where the head is in it (with `evaluation.AIR_MARGIN` around), as files for both sides."""
    folder.mkdir(parents=True, exist_ok=True)
    lr = truncate_kspace(hr, keep)
    foreground = foreground_mask(lr)
    head = ndimage.binary_dilation(foreground, iterations=AIR_MARGIN)
    for name, array in {"hr": hr, "lr": lr, "foreground": foreground, "head": head}.items():
        np.save(folder / f"{name}.npy", array)
    nib.save(nib.Nifti1Image(np.round(1000 * hr).astype(np.int16), np.eye(4)), folder / "hr.nii.gz")


def write_subjects(folder: Path, inputs: Path, count: int) -> None:
    """``count`` prepared subjects from `write_inputs`' files, with as much in them as training needs."""
    foreground = np.load(inputs / "foreground.npy")
    centres = (np.argwhere(foreground[::4, ::4, ::4]) * 4).astype(np.int32)
    for i in range(count):
        subject = folder / f"subject{i:04d}"
        subject.mkdir(parents=True, exist_ok=True)
        for name in ("hr", "lr"):
            shutil.copyfile(inputs / f"{name}.npy", subject / f"{name}.npy")
        np.save(subject / "centres.npy", centres)
        meta = {"id": subject.name, "shape": list(foreground.shape)}
        (subject / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


# ---- the original procedure ------------------------------------------------------------------------------


def plain_forward(generator: Generator, x: Tensor) -> Tensor:
    """The generator as the paper draws it: everything so far is concatenated before each 1x1x1 conv."""
    outputs = [generator.conv0(x)]
    block_input = outputs[0]
    for i in range(generator.blocks):
        maps = block_input
        for unit in getattr(generator, f"block{i}").children():
            maps = torch.cat([maps, unit.conv(nn.functional.elu(unit.norm(maps)))], dim=1)
        outputs.append(maps)
        if i < generator.blocks - 1:
            block_input = getattr(generator, f"comp{i}")(torch.cat(outputs, dim=1))
    return generator.recon(torch.cat(outputs, dim=1))


def original_cubes(shape: Sequence[int]) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Zero padding an axis, and the first voxels of the cubes in the padded volume (180 for 256x320x320)."""
    stride = CUBE - 2 * MARGIN
    counts = [-(-n // stride) for n in shape]
    pads = [-(-(stride * k + 2 * MARGIN - n) // 2) for k, n in zip(counts, shape, strict=True)]
    return pads, list(np.ndindex(*counts))


@torch.no_grad()
def original_super_resolve(
    volume: np.ndarray, generator: Generator, cubes: int = 0
) -> tuple[np.ndarray, float]:
    """64-cubes every 58 voxels, 3 voxels cut off each side, merged.

    Args:
        cubes: run only so many of the cubes, evenly spread; 0: all.

    Returns:
        The merged volume (zero where no cube ran), and the share of the cubes that ran.
    """
    pads, places = original_cubes(volume.shape)
    stride = CUBE - 2 * MARGIN
    padded = np.pad(volume, [(p, p + 1) for p in pads])
    merged = np.zeros_like(padded)
    chosen = places[:: max(1, len(places) // cubes)][:cubes] if cubes else places
    for place in chosen:
        low = [i * stride for i in place]
        x = torch.from_numpy(padded[tuple(slice(a, a + CUBE) for a in low)].copy())[None, None]
        y = plain_forward(generator, x)[0, 0].numpy()
        inner = tuple(slice(a + MARGIN, a + CUBE - MARGIN) for a in low)
        merged[inner] = y[(slice(MARGIN, -MARGIN),) * 3]
    box = tuple(slice(p, p + n) for p, n in zip(pads, volume.shape, strict=True))
    return merged[box], len(chosen) / len(places)


def original_lr_image(volume: np.ndarray, keep: Sequence[float | None]) -> np.ndarray:
    """The MATLAB recipe's arithmetic: centred 3D FFT in double precision, zeros, inverse, magnitude."""
    k = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    for axis, share in enumerate(keep):
        if share is not None:
            n = volume.shape[axis]
            cut = (n - round(n * share)) // 2
            for outer in (slice(0, cut), slice(n - cut, n)):
                k[(slice(None),) * axis + (outer,)] = 0
    return np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k)))).astype(np.float32)


# ---- one side of one task: what is timed ---------------------------------------------------------------


def _inference(
    side: str, folder: str, memory_gib: float, skip_air: bool = False, cubes: int = 0
) -> Callable[[], dict]:
    lr, generator = np.load(f"{folder}/lr.npy"), seeded_generator()
    foreground = np.load(f"{folder}/head.npy") if skip_air else None
    if side == "original":

        def run() -> dict:
            sr, share = original_super_resolve(lr, generator, cubes)
            return {"array": sr if share == 1 else None, "share": share}
    else:
        fabric = make_fabric()
        generator, dtype = channels_last(generator).to(fabric.device), fabric_dtype(fabric)

        def run() -> dict:
            sr = super_resolve(lr, generator, memory_gib=memory_gib, foreground=foreground, dtype=dtype)
            return {"array": sr}

    return run


def _networks(side: str, patch_size: int) -> tuple:
    """Generator, its optimiser, discriminator, its optimiser, and a batch of two LR and HR cubes."""
    torch.manual_seed(0)
    generator = Generator(init="identity")
    discriminator = Discriminator(patch_size, negative_slope=1.0 if side == "original" else 0.2)
    hr = torch.rand(2, 1, *[patch_size] * 3)
    lr = nn.functional.avg_pool3d(hr, 3, stride=1, padding=1)
    if side == "ours":
        generator, discriminator = channels_last(generator), channels_last(discriminator)
    g_optimizer = torch.optim.Adam(generator.parameters(), lr=1e-4)
    d_optimizer = torch.optim.Adam(discriminator.parameters(), lr=5e-6)
    return generator, g_optimizer, discriminator, d_optimizer, lr, hr


def _pretrain_step(side: str, patch_size: int, steps: int = 1) -> Callable[[], dict]:
    generator, optimizer, _, _, lr, hr = _networks(side, patch_size)
    forward, backward = partial(plain_forward, generator), torch.Tensor.backward
    if side == "ours":
        fabric = make_fabric()
        forward, optimizer = fabric.setup(generator, optimizer)
        backward, lr, hr = fabric.backward, *fabric.to_device((lr, hr))

    def run() -> dict:
        trace = []
        for _ in range(steps):
            loss = losses.l1_loss(forward(lr), hr)
            optimizer.zero_grad()
            backward(loss)
            optimizer.step()
            trace.append(loss.item())
        return {"losses": trace}

    return run


def _gan_step(side: str, patch_size: int, updated: str) -> Callable[[], dict]:
    generator, g_optimizer, discriminator, d_optimizer, lr, hr = _networks(side, patch_size)
    forward, judge, backward = partial(plain_forward, generator), discriminator, torch.Tensor.backward
    if side == "ours":
        fabric = make_fabric()
        forward, g_optimizer = fabric.setup(generator, g_optimizer)
        judge, d_optimizer = fabric.setup(discriminator, d_optimizer)
        backward, lr, hr = fabric.backward, *fabric.to_device((lr, hr))
    generator.eval()

    def d_step() -> dict:
        with torch.no_grad():
            sr = forward(lr)
        if side == "original":  # no penalty; weights are clipped instead
            loss = judge(sr).mean() - judge(hr).mean()
        else:
            share = torch.rand(2).to(hr.device)
            plain = without_wrapper(discriminator, fabric)
            loss, _ = losses.discriminator_loss(judge, hr, sr, share, penalised=plain)
        d_optimizer.zero_grad()
        backward(loss)
        d_optimizer.step()
        if side == "original":
            with torch.no_grad():
                for p in discriminator.parameters():
                    p.clamp_(-0.01, 0.01)
        return {}

    def g_step() -> dict:
        discriminator.requires_grad_(False)
        loss, _ = losses.generator_loss(judge, forward(lr), hr)
        g_optimizer.zero_grad()
        backward(loss)
        g_optimizer.step()
        return {}

    return d_step if updated == "D" else g_step


def _feeding(side: str, folder: str, patches: int, edge: int) -> Callable[[], dict]:
    """Pairs of LR and HR cubes; for the original one subject's whole volumes, cut into all their cubes."""
    subjects = sorted(Path(folder).glob("subject*"))
    started, step = time.perf_counter(), [0]
    if side == "original":

        def run() -> dict:
            subject = subjects[step[0] % len(subjects)]
            volumes = [np.load(subject / f"{name}.npy") for name in ("lr", "hr")]
            cubes = [
                [v[tuple(slice(a, a + edge) for a in low)].copy() for v in volumes]
                for low in grid_corners(volumes[0].shape, edge)
            ]
            step[0] += 1
            return {"patches": len(cubes)}
    else:
        source = RandomPatches([Prepared(subject) for subject in subjects], edge, seed=0)
        batch(source, 0, 1)
        first = time.perf_counter() - started

        def run() -> dict:
            for _ in range(patches // 2):
                step[0] += 1
                batch(source, step[0], 2)
            return {"patches": patches // 2 * 2, "first_patch_s": first}

    return run


def _lr(side: str, folder: str, keep: Sequence[float | None]) -> Callable[[], dict]:
    hr = np.load(f"{folder}/hr.npy")
    make = original_lr_image if side == "original" else truncate_kspace
    return lambda: {"array": make(hr, keep)}


def _subject(side: str, folder: str) -> Callable[[], dict]:
    """A subject from its compressed file to its prepared folder; the original left that to MATLAB."""
    if side == "original":
        raise ValueError("benchmark subject: expected side ours, found original")
    subject = Subject("bench", "local", f"{folder}/hr.nii.gz", split="train")

    def run() -> dict:
        with tempfile.TemporaryDirectory(dir=folder) as out, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a small crop has no brain within a scalp
            prepare_subject(subject, [Path(subject.member)], Path(out), Recipe(keep=0.5))
        return {}

    return run


def _metrics(side: str, folder: str) -> Callable[[], dict]:
    hr, lr = np.load(f"{folder}/hr.npy"), np.load(f"{folder}/lr.npy")

    def original() -> dict:
        return {
            "psnr": float(skimage_metrics.peak_signal_noise_ratio(hr, lr, data_range=1)),
            "ssim": float(skimage_metrics.structural_similarity(hr, lr, data_range=1)),
            "nrmse": float(skimage_metrics.normalized_root_mse(hr, lr)),
        }

    def ours() -> dict:
        (row,) = metrics.evaluate(lr, hr, {"whole": None})
        return {name: row[name] for name in metrics.METRICS}

    return original if side == "original" else ours


def _network(side: str, model: str, edge: int) -> Callable[[], dict]:
    """One generator on one cube, in inference, both sides alike."""
    fabric = make_fabric()
    generator = channels_last(make_generator(model)).to(fabric.device).eval()
    x = torch.rand(1, 1, edge, edge, edge, device=fabric.device)

    @torch.no_grad()
    def run() -> dict:
        with fabric.autocast():
            generator(x)
        if x.is_cuda:
            torch.cuda.synchronize()
        return {"parameters": count_parameters(generator), "multiply_adds": multiply_adds(generator, edge)}

    return run


def _limit(side: str, size: int) -> Callable[[], dict]:
    """The machine's rate for a large matrix product, in GFLOP/s: what no network can pass."""
    dtype = torch.float32 if side == "original" else fabric_dtype(make_fabric())
    a = torch.rand(size, size).to(dtype)

    def run() -> dict:
        started = time.perf_counter()
        a @ a
        return {"gflops": 2e-9 * size**3 / (time.perf_counter() - started), "dtype": str(dtype)}

    return run


class _Operations(TorchDispatchMode):
    """Counts operations. (torch's FlopCounterMode also asks which module they are of, which it cannot within
    the gradient penalty's `autograd.grad`.)"""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in (torch.ops.aten.mkldnn_convolution.default, torch.ops.aten.conv3d.default):
            x, weight = args[:2]
            self.count += 2 * weight.numel() * out.numel() // weight.shape[0]
        elif formula := flop_registry.get(func._overloadpacket):
            self.count += formula(*args, **kwargs, out_val=out)
        return out


def _profile(side: str, profiled: str, **settings) -> Callable[[], dict]:
    """Operations of another task: how many in all (GFLOP, two a multiply-add), and seconds of each kind."""
    work = TASKS[profiled](side, **settings)

    def run() -> dict:
        with _Operations() as operations:
            work()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            work()
        seconds = {e.key: 1e-6 * e.self_cpu_time_total for e in profiler.key_averages()}
        return {"gflop": 1e-9 * operations.count, "operations": seconds}

    return run


TASKS = {
    "inference": _inference,
    "profile": _profile,
    "pretraining step": _pretrain_step,
    "D step": partial(_gan_step, updated="D"),
    "G step": partial(_gan_step, updated="G"),
    "feeding": _feeding,
    "LR": _lr,
    "subject": _subject,
    "metrics": _metrics,
    "network": _network,
    "matrix product": _limit,
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
        ``task``, ``side``, ``seconds`` of each repeat, ``peak_gib`` of the process, and what the task says of
        its last repeat.

    Raises:
        Exception: whatever the task raised.
        BrokenProcessPool: the process was killed, for want of memory perhaps.
    """
    # Forked from a server that has imported this module and done nothing else: each process starts alike,
    # without the seconds that imports take. What a side sets for its process ends with it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context) as pool:
        found = pool.submit(_run, task, side, repeats, warmup, out, settings).result()
    return {"task": task, "side": side, **found}


def ratios(measured: Sequence[dict]) -> pd.DataFrame:
    """One row a task and size: median seconds and peak memory of both sides, and how much faster ours is.

    Times of a part of the work (``share``) count for the whole, and of several patches for one.
    """
    rows = []
    for m in measured:
        per = m.get("share", 1.0) * m.get("patches", 1)
        rows.append(
            {
                "task": m["task"],
                "size": m.get("size", ""),
                "side": m["side"],
                "seconds": float(np.median(m["seconds"])) / per,
                "peak_gib": m["peak_gib"],
                "runs": len(m["seconds"]),
            }
        )
    table = pd.DataFrame(rows).pivot(
        index=["task", "size"], columns="side", values=["seconds", "peak_gib", "runs"]
    )
    table.columns = [f"{side}_{value}" for value, side in table.columns]
    table.insert(0, "times_faster", table["original_seconds"] / table["ours_seconds"])
    return table.reset_index()


def long_table(measured: Sequence[dict]) -> pd.DataFrame:
    """One row a timed run."""
    columns = ("task", "size", "side", "share", "patches", "peak_gib")
    return pd.DataFrame(
        [
            {c: m[c] for c in columns if c in m} | {"run": i, "seconds": seconds}
            for m in measured
            for i, seconds in enumerate(m["seconds"])
        ]
    )


def agreement(folder: Path, exact: bool) -> dict[str, str | float]:
    """PSNR in dB against HR of both sides' outputs and, if asked for, of one fp32 pass over the whole volume;
    PSNR between outputs. A side that ran only a part of its cubes has left none."""
    hr, lr = np.load(folder / "hr.npy"), np.load(folder / "lr.npy")
    outputs = {p.stem: np.load(p) for p in (folder / f"{s}.npy" for s in (*SIDES, "skipping")) if p.exists()}
    row: dict[str, str | float] = {"size": folder.name, "LR to HR": metrics.psnr(lr, hr)}
    if exact:
        with torch.no_grad():
            outputs["exact"] = plain_forward(seeded_generator(), torch.from_numpy(lr)[None, None])[
                0, 0
            ].numpy()
        row["ours to exact"] = metrics.psnr(outputs["ours"], outputs["exact"])
    row |= {f"{name} to HR": metrics.psnr(image, hr) for name, image in outputs.items()}
    if "original" in outputs:
        row["ours to original"] = metrics.psnr(outputs["ours"], outputs["original"])
    return row


def ceilings(measured: Sequence[dict], profiled: Sequence[dict], gflops: float) -> pd.DataFrame:
    """What the machine allows: a task's operations at the rate of a large matrix product.

    Args:
        measured: results of both sides' tasks, with their task and size.
        profiled: results of the task ``"profile"`` for our side, with the task and size they are of.
        gflops: the rate.

    Returns:
        One row a profiled task: ``gflop`` of operations, ``floor_s`` (their seconds at that rate),
        ``share_of_limit`` that ours reaches, and ``at_most``: times faster than the original that the rate
        allows.
    """
    table = ratios(measured).set_index(["task", "size"])
    rows = []
    for found in profiled:
        timed, floor = table.loc[found["task"], found["size"]], found["gflop"] / gflops
        rows.append(
            {
                "task": found["task"],
                "size": found["size"],
                "gflop": found["gflop"],
                "floor_s": floor,
                "ours_s": timed["ours_seconds"],
                "share_of_limit": floor / timed["ours_seconds"],
                "times_faster": timed["times_faster"],
                "at_most": timed["original_seconds"] / floor,
            }
        )
    return pd.DataFrame(rows)


def operations(profiled: Sequence[dict], count: int = 8) -> pd.DataFrame:
    """Share of the time that each kind of operation takes, the ``count`` largest in any profiled task."""
    table = pd.DataFrame({found["task"]: pd.Series(found["operations"]) for found in profiled}).fillna(0)
    table = table / table.sum()
    return table.loc[table.max(axis=1).nlargest(count).index].rename_axis("operation")


def _peak_gib() -> float:
    """The most memory this process has held. (Linux's ``ru_maxrss`` begins with the parent's.)"""
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
        if i >= warmup:
            seconds.append(time.perf_counter() - started)
    array = result.pop("array", None)
    if out and array is not None:
        np.save(out, array)
    return {"seconds": seconds, "peak_gib": _peak_gib(), **result}
