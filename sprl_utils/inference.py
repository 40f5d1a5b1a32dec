"""Super-resolve a whole volume of any shape in bounded memory.

A network is run over overlapping tiles. A tile's inner box is kept and its halo, the voxels read beyond the
box, is thrown away. With a halo as wide as the network sees, the merged result is that of one pass over the
whole volume. Faster ways to the same result are engines, which register themselves in `ENGINES`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from scipy import ndimage
from torch import nn

Box = tuple[slice, ...]
Progress = Callable[[Sequence], Iterable]
#: ``engine(volume, generator, wanted, memory_bytes, dtype, progress)`` returns a volume of the same shape,
#: right where the bool volume ``wanted`` is True and anything elsewhere. ``dtype`` is a permission: an engine
#: may always compute in float32. It wraps its loop in ``progress``, and raises ValueError where
#: ``memory_bytes`` do not suffice, also if no voxel is wanted.
Engine = Callable[[np.ndarray, nn.Module, np.ndarray, float, torch.dtype, Progress], np.ndarray]
#: Halo for networks that do not say how far they see: the paper's generator's receptive radius.
DEFAULT_HALO = 17
#: Memory per voxel of a tile in bytes, for networks that do not say otherwise: the paper's generator's
#: (measured in fp32, with the allocator of `sprl_utils.provenance.tune_process`, which keeps freed blocks).
BYTES_PER_VOXEL = 8500
#: What the process grows by beyond that, in GiB: blocks of many sizes do not fit into each other's places.
OVERHEAD_GIB = 0.5


@torch.inference_mode()
def super_resolve(
    volume: np.ndarray,
    generator: nn.Module,
    engine: str | Engine | None = None,
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
        engine: a name in `ENGINES` or an `Engine`; None is `default_engine`.
        memory_gib: bound on the memory for features, more than `OVERHEAD_GIB`; volumes come on top.
        foreground: bool ``(x, y, z)``; all other voxels are copied from the input, and the network runs only
            where that is needed.
        dtype: what engines may compute in; the tiles are always float32.
        progress: wraps the tiles, e.g. ``tqdm``.
        order: the volume's axes as the generator takes them, e.g. `sprl_utils.patches.Prepared.order`.

    Returns:
        float32 volume of the same shape, its axes as they were.

    Raises:
        ValueError: not three axes, not finite, a foreground of another shape, an unknown engine, or too
            little memory.
    """
    volume = np.asarray(volume, np.float32)
    wanted = np.ones(volume.shape, bool) if foreground is None else foreground
    _check(volume, wanted, memory_gib)
    run = default_engine(generator) if engine is None else engine if callable(engine) else _named(engine)
    was_training = generator.training
    generator.eval()
    try:
        memory = (memory_gib - OVERHEAD_GIB) * 2**30
        turned = run(volume.transpose(order), generator, wanted.transpose(order), memory, dtype, progress)
        restored = turned.transpose(np.argsort(order))
    finally:
        generator.train(was_training)
    return np.where(wanted, restored, volume)


def tiles(
    volume: np.ndarray,
    generator: nn.Module,
    wanted: np.ndarray,
    memory_bytes: float,
    dtype: torch.dtype = torch.float32,
    progress: Progress = iter,
    halo: int | None = None,
) -> np.ndarray:
    """The plain engine: exact tiles in float32.

    Args:
        halo: voxels read beyond each tile; None is the network's receptive radius (17 for the paper's
            generator), which leaves no seams. The original project used 3.
    """
    halo = getattr(generator, "receptive_radius", DEFAULT_HALO) if halo is None else halo
    voxels = int(memory_bytes / getattr(generator, "bytes_per_voxel", BYTES_PER_VOXEL))
    device = device_of(generator)
    restored = volume.copy()
    for inner in progress(shrink(plan_tiles(volume.shape, halo, voxels), wanted)):
        outer = grow(inner, halo, volume.shape)
        x = torch.from_numpy(volume[outer].copy()).to(device)  # (D, H, W)
        restored[inner] = generator(x[None, None])[0, 0][within(inner, outer)].float().cpu().numpy()
    return restored


def plan_tiles(shape: Sequence[int], halo: int, max_voxels: int) -> list[Box]:
    """Inner boxes of the tiles that read the fewest voxels in all while none reads more than ``max_voxels``.

    Along an axis of ``n`` voxels in ``count`` tiles each reads ``2 * halo + (n - 2 * halo) / count``, rounded
    up. The first and the last have a halo on one side only and keep as much more: beyond the volume's faces
    there is nothing to read.

    Raises:
        ValueError: not even tiles that keep one voxel fit into ``max_voxels``.
    """

    def read(counts: Sequence[int]) -> int:
        return math.prod(2 * halo + -(-(n - 2 * halo) // c) for n, c in zip(shape, counts, strict=True))

    possible = itertools.product(*(range(1, max(1, min(n - 2 * halo, 32)) + 1) for n in shape))
    fitting = [counts for counts in possible if read(counts) <= max_voxels]
    if not fitting:
        raise ValueError(
            f"tiles: a volume of {tuple(shape)} with a halo of {halo} needs tiles of more than "
            f"the {max_voxels} voxels allowed; allow more memory"
        )
    best = min(fitting, key=lambda counts: math.prod(counts) * read(counts))
    axes = []
    for n, count in zip(shape, best, strict=True):
        cuts = [halo + (n - 2 * halo) * i // count for i in range(1, count)]
        axes.append([slice(a, b) for a, b in itertools.pairwise([0, *cuts, n])])
    return list(itertools.product(*axes))


def shrink(boxes: Sequence[Box], wanted: np.ndarray) -> list[Box]:
    """Each box reduced to the bounding box of what is ``wanted`` in it; boxes without any are left out."""
    shrunk = []
    for box in boxes:
        for found in ndimage.find_objects(wanted[box].astype(np.uint8)):
            corners = zip(box, found, strict=True)
            shrunk.append(tuple(slice(b.start + f.start, b.start + f.stop) for b, f in corners))
    return shrunk


def grow(box: Box, halo: int, shape: Sequence[int]) -> Box:
    """A box with ``halo`` voxels more on each side, as far as the volume of ``shape`` reaches."""
    return tuple(
        slice(max(b.start - halo, 0), min(b.stop + halo, n)) for b, n in zip(box, shape, strict=True)
    )


def within(inner: Box, outer: Box) -> Box:
    """Where ``inner`` lies in an array of the voxels of ``outer``."""
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))


def device_of(module: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


#: Engines by name, and the name of the one for a class of networks where it is not ``"tiles"``.
ENGINES: dict[str, Engine] = {"tiles": tiles}
PREFERRED: dict[type[nn.Module], str] = {}


def default_engine(generator: nn.Module) -> Engine:
    """The engine registered for the generator's class, else `tiles`."""
    return ENGINES[PREFERRED.get(type(generator), "tiles")]


def _named(engine: str) -> Engine:
    if engine not in ENGINES:
        raise ValueError(f"super-resolve: engine must be one of {sorted(ENGINES)}, found {engine!r}")
    return ENGINES[engine]


def _check(volume: np.ndarray, wanted: np.ndarray, memory_gib: float) -> None:
    if volume.ndim != 3:
        raise ValueError(f"super-resolve: expected a volume of three axes, found shape {volume.shape}")
    if not np.isfinite(volume).all():
        raise ValueError("super-resolve: expected finite voxels, found NaN or Inf")
    if wanted.shape != volume.shape:
        raise ValueError(f"super-resolve: foreground: expected shape {volume.shape}, found {wanted.shape}")
    if memory_gib <= OVERHEAD_GIB:
        raise ValueError(f"super-resolve: memory: expected more than {OVERHEAD_GIB} GiB, found {memory_gib}")
