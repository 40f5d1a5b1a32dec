"""Super-resolve a whole volume of any shape in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import nn

from sprl_utils.extras.streaming import PlaneStream
from sprl_utils.networks import Generator
from sprl_utils.patches import Tile, plan_tiles, shrink, stitch
from sprl_utils.provenance import release_memory

#: Halo for networks that do not say how far they see: the default generator's receptive radius.
DEFAULT_HALO = 17
#: What the process grows by, in bytes a voxel of a tile, for networks that do not say otherwise: the default
#: generator's (measured in fp32, with the allocator of `sprl_utils.provenance.tune_process`, which keeps
#: freed blocks).
BYTES_PER_VOXEL = 6500
#: Planes that go through the network together, the most first, and what the process then grows by in bytes a
#: voxel of a plane (measured likewise).
SLABS = ((8, 40_000), (4, 30_000))
#: What the process grows by beyond that, in GiB: blocks of many sizes do not fit into each other's places.
OVERHEAD_GIB = 0.5


@torch.inference_mode()
def super_resolve(
    volume: np.ndarray,
    generator: nn.Module,
    halo: int | None = None,
    memory_gib: float = 4.0,
    foreground: np.ndarray | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Callable[[Sequence], Iterable] = iter,
) -> np.ndarray:
    """Run a generator over a volume.

    The paper's generator reads the volume as a stream of planes (`sprl_utils.extras.streaming`): the result
    is that of one pass over the whole volume, and no voxel is computed twice. Where the planes are too
    large for the memory allowed, they are cut into columns that overlap by what the network sees.

    Other networks, or any with ``halo`` given, read tiles with a halo that is thrown away. A halo of the
    receptive radius (17 for the paper's generator) leaves no seams; the original project used 3.

    Args:
        volume: float32 ``(x, y, z)`` of any shape, on the scale the generator was trained with.
        generator: maps ``(1, 1, D, H, W)`` to the same shape; runs where its parameters are.
        halo: voxels read beyond each tile; None: as the network needs.
        memory_gib: bound on the memory for features, more than `OVERHEAD_GIB`; volumes come on top.
        foreground: bool ``(x, y, z)``; where given, all other voxels are copied from the input, and the
            network runs only where that is needed.
        dtype: of the dense units in the stream: float32, or bfloat16 where the hardware multiplies it.
        progress: wraps the tiles, or each column's slabs of planes, e.g. ``tqdm``.

    Returns:
        float32 volume of the same shape.

    Raises:
        ValueError: not three axes, not finite, a foreground of another shape, or too little memory.
    """
    volume = np.asarray(volume)
    if volume.ndim != 3:
        raise ValueError(f"super-resolve: expected a volume of three axes, found shape {volume.shape}")
    if not np.isfinite(volume).all():
        raise ValueError("super-resolve: expected finite voxels, found NaN or Inf")
    if foreground is not None and foreground.shape != volume.shape:
        raise ValueError(
            f"super-resolve: foreground: expected shape {volume.shape}, found {foreground.shape}"
        )
    wanted = np.ones(volume.shape, bool) if foreground is None else foreground
    volume = volume.astype(np.float32, copy=False)
    streamed = _is_streamed(generator, halo)
    tiles = plan(volume.shape, generator, halo, memory_gib)
    halo, allowed = _halo(generator, halo), _allowed(memory_gib)
    tiles = [small for tile in tiles if (small := shrink(tile, wanted, halo))]

    def run(box: np.ndarray, tile: Tile) -> np.ndarray:
        if streamed:
            return _run_stream(box, tile, generator, wanted, allowed, dtype, progress)
        return _run_tile(box, tile, generator)

    was_training = generator.training
    generator.eval()
    try:
        merged = stitch(volume, tiles if streamed else progress(tiles), run)
    finally:
        generator.train(was_training)
    np.copyto(merged, volume, where=~wanted)
    return merged


def plan(
    shape: Sequence[int], generator: nn.Module, halo: int | None = None, memory_gib: float = 4.0
) -> list[Tile]:
    """What `super_resolve` reads together of a volume of ``shape``: columns of planes, or tiles.

    Raises:
        ValueError: too little memory for this network and its halo.
    """
    if _is_streamed(generator, halo):
        return _columns(shape, _halo(generator, halo), int(_allowed(memory_gib) / SLABS[-1][1]))
    size = getattr(generator, "bytes_per_voxel", BYTES_PER_VOXEL)
    return plan_tiles(shape, _halo(generator, halo), int(_allowed(memory_gib) / size))


def _is_streamed(generator: nn.Module, halo: int | None) -> bool:
    return halo is None and isinstance(generator, Generator)


def _halo(generator: nn.Module, halo: int | None) -> int:
    return getattr(generator, "receptive_radius", DEFAULT_HALO) if halo is None else halo


def _allowed(memory_gib: float) -> float:
    if memory_gib <= OVERHEAD_GIB:
        raise ValueError(f"super-resolve: memory: expected more than {OVERHEAD_GIB} GiB, found {memory_gib}")
    return (memory_gib - OVERHEAD_GIB) * 2**30


def _columns(shape: Sequence[int], halo: int, max_voxels: int) -> list[Tile]:
    """Tiles that go through the whole volume along x and read at most ``max_voxels`` voxels a plane."""
    whole = slice(0, shape[0])
    tiles = plan_tiles((1, *shape[1:]), halo, max_voxels)
    return [Tile((whole, *tile.outer[1:]), (whole, *tile.inner[1:])) for tile in tiles]


def _run_stream(
    box: np.ndarray,
    tile: Tile,
    generator: Generator,
    wanted: np.ndarray,
    allowed: float,
    dtype: torch.dtype,
    progress: Callable[[Sequence], Iterable],
) -> np.ndarray:
    """The inner box of one column; ``box`` holds the voxels of its outer one."""
    mask = np.zeros(box.shape, bool)
    mask[tile.crop] = wanted[tile.inner]
    plane = box.shape[1] * box.shape[2]
    planes = next((n for n, size in SLABS if size * plane <= allowed), SLABS[-1][0])
    x = torch.from_numpy(np.require(box, requirements="W")).to(_device(generator))  # a map is read-only
    stream = PlaneStream(generator, x, mask, planes, dtype)
    restored = np.empty(box.shape, np.float32)
    for step in progress(stream.steps):
        first, done = stream.push(step)
        restored[first : first + len(done)] = done.cpu().numpy()
    del stream
    release_memory()
    return restored[tile.crop]


def _run_tile(box: np.ndarray, tile: Tile, generator: nn.Module) -> np.ndarray:
    """The inner box of one tile; ``box`` holds the voxels of its outer one."""
    x = torch.from_numpy(np.ascontiguousarray(box))[None, None].to(_device(generator))  # (1, 1, D, H, W)
    return generator(x)[0, 0][tile.crop].float().cpu().numpy()


def _device(module: nn.Module) -> torch.device:
    return next((p.device for p in module.parameters()), torch.device("cpu"))
