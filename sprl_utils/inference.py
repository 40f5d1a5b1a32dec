"""Super-resolve a whole volume of any shape in bounded memory, by one of several engines.

``torch`` runs the network over exact tiles on any device. ``openvino`` gives the same result on a CPU in less
time.
"""

import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from torch import nn

from sprl_utils.tiles import box_for, grow, halo_and_step, plan_tiles, shrink, within

Progress = Callable[[Sequence], Iterable]
#: ``engine(volume, generator, wanted, memory_bytes, dtype, progress)`` returns a volume of the same shape,
#: right where the bool volume ``wanted`` is True and anything elsewhere. ``dtype`` is a permission: an engine
#: may always compute in float32. It wraps its loop in ``progress``, and raises ValueError where
#: ``memory_bytes`` do not suffice, also if no voxel is wanted.
Engine = Callable[[np.ndarray, nn.Module, np.ndarray, float, torch.dtype, Progress], np.ndarray]
#: Memory per voxel of a tile in bytes, for networks that do not say otherwise: the paper's generator's
#: (measured in fp32, with the allocator of `sprl_utils.provenance.tune_process`, which keeps freed blocks).
BYTES_PER_VOXEL = 8500
#: What the process grows by beyond that, in GiB: blocks of many sizes do not fit into each other's places.
OVERHEAD_GIB = 0.5


@torch.inference_mode()
def super_resolve(
    volume: np.ndarray,
    generator: nn.Module,
    engine: str | Engine = "auto",
    memory_gib: float = 4.0,
    foreground: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress = iter,
    order: Sequence[int] = (0, 1, 2),
) -> np.ndarray:
    """Run a generator over a volume.

    Args:
        volume: ``(x, y, z)`` of any shape, on the scale that the generator was trained with.
        generator: maps ``(1, 1, D, H, W)`` to the same shape; runs where its parameters are.
        engine: a name in `ENGINES` or an `Engine`; see `choose_engine`.
        memory_gib: bound on the memory for features, more than `OVERHEAD_GIB`; volumes come on top.
        foreground: bool ``(x, y, z)``; all other voxels are copied from the input, and the network runs only
            where that is needed.
        dtype: what engines may compute in.
        progress: wraps the steps of the engine, e.g. ``tqdm``.
        order: the volume's axes as the generator takes them, e.g. `sprl_utils.patches.Prepared.order`.

    Returns:
        float32 volume of the same shape, its axes as they were.

    Raises:
        ValueError: not three axes, not finite, a foreground of another shape, an engine that is unknown or
            cannot run this generator, or too little memory.
    """
    volume = np.asarray(volume, np.float32)
    wanted = np.ones(volume.shape, bool) if foreground is None else foreground
    _check(volume, wanted, memory_gib)
    run = engine if callable(engine) else ENGINES[choose_engine(engine, generator)]
    run = pkgutil.resolve_name(run) if isinstance(run, str) else run
    volume, wanted = volume.transpose(order), wanted.transpose(order)
    box, memory_bytes = box_for(wanted, *halo_and_step(generator)), (memory_gib - OVERHEAD_GIB) * 2**30
    was_training = generator.training
    generator.eval()
    try:
        restored = run(volume[box].copy(), generator, wanted[box], memory_bytes, dtype, progress)
    finally:
        generator.train(was_training)
    result = volume.copy()
    result[box] = np.where(wanted[box], restored, volume[box])
    return np.ascontiguousarray(result.transpose(np.argsort(order)))


def self_ensemble(
    volume: np.ndarray,
    generator: nn.Module,
    axes: Sequence[int],
    foreground: np.ndarray | None = None,
    **options: Any,
) -> np.ndarray:
    """The mean of `super_resolve` over a volume mirrored along ``axes``: EDSR+ of Lim et al. 2017.

    Each mirrored result is mirrored back first. Errors that differ between them cancel in part. It takes
    ``2 ** len(axes)`` times as long.

    Args:
        volume, foreground, options: of `super_resolve`.
        axes: of the volume, those along which it lost resolution; without any it is `super_resolve`.

    Returns:
        float32 volume of the same shape.
    """
    total = np.zeros(np.shape(volume), np.float32)
    for flipped in mirrors(axes):
        wanted = None if foreground is None else np.flip(foreground, flipped)
        restored = super_resolve(np.flip(volume, flipped), generator, foreground=wanted, **options)
        total += np.flip(restored, flipped)
    return total / len(mirrors(axes))


def mirrors(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The axes to flip for each mirror image along ``axes``; the first is the image itself."""
    return [flipped for n in range(len(axes) + 1) for flipped in combinations(axes, n)]


# ---- engine torch ------------------------------------------------------------------------------------------


def tiles(
    volume: np.ndarray,
    generator: nn.Module,
    wanted: np.ndarray,
    memory_bytes: float,
    dtype: torch.dtype = torch.float32,
    progress: Progress = iter,
) -> np.ndarray:
    """Exact tiles on any device: in float32 on a CPU, on a GPU in ``dtype`` by autocast."""
    halo, step = halo_and_step(generator)
    voxels = int(memory_bytes / bytes_per_voxel(generator))
    device = device_of(generator)
    restored = volume.copy()
    for inner in progress(shrink(plan_tiles(volume.shape, halo, voxels, step), wanted)):
        outer = grow(inner, halo, volume.shape, step)
        x = torch.from_numpy(volume[outer].copy()).to(device)[None, None]  # (1, 1, D, H, W)
        with torch.autocast(device.type, dtype, enabled=device.type == "cuda" and dtype != torch.float32):
            y = generator(x.contiguous(memory_format=torch.channels_last_3d))
        restored[inner] = y[0, 0][within(inner, outer)].float().cpu().numpy()
    return restored


def bytes_per_voxel(generator: nn.Module) -> float:
    """Memory that torch takes per voxel of a tile."""
    return getattr(generator, "bytes_per_voxel", BYTES_PER_VOXEL)


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


#: Engines by name: a function, or where it is, because that room is above this one and needs a package.
ENGINES: dict[str, Engine | str] = {"torch": tiles, "openvino": "sprl_utils.extras.engine:openvino"}


def openvino_is_installed() -> bool:
    """Whether the engine ``openvino`` can run."""
    return importlib.util.find_spec("openvino") is not None


def choose_engine(engine: str, generator: nn.Module) -> str:
    """The name of the engine that runs; ``"auto"`` is openvino on a CPU where that is installed, else torch.

    Raises:
        ValueError: no such engine, or one whose package is not installed.
    """
    if engine == "auto":
        return "openvino" if openvino_is_installed() and device_of(generator).type == "cpu" else "torch"
    if engine not in ENGINES:
        raise ValueError(
            f"super-resolve: engine must be 'auto' or one of {sorted(ENGINES)}, found {engine!r}"
        )
    if engine == "openvino" and not openvino_is_installed():
        raise ValueError("engine openvino: expected the package openvino, found none; ask for torch")
    return engine


def _check(volume: np.ndarray, wanted: np.ndarray, memory_gib: float) -> None:
    if volume.ndim != 3:
        raise ValueError(f"super-resolve: expected a volume of three axes, found shape {volume.shape}")
    if not np.isfinite(volume).all():
        raise ValueError("super-resolve: expected finite voxels, found NaN or Inf")
    if wanted.shape != volume.shape:
        raise ValueError(f"super-resolve: foreground: expected shape {volume.shape}, found {wanted.shape}")
    if memory_gib <= OVERHEAD_GIB:
        raise ValueError(f"super-resolve: memory: expected more than {OVERHEAD_GIB} GiB, found {memory_gib}")
