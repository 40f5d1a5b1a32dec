"""Super-resolve a whole volume of any shape, tile by tile, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from sprl_utils.networks import NOTHING_CUT, Generator
from sprl_utils.patches import Tile, plan_tiles, shrink, stitch

#: Halo for networks that do not say how far they see: the default generator's receptive radius.
DEFAULT_HALO = 17
#: What the process grows by for the default generator, in bytes a voxel of a tile (measured in fp32, with the
#: allocator of `sprl_utils.provenance.tune_process`, which keeps freed blocks).
BYTES_PER_VOXEL = 6500


@torch.inference_mode()
def super_resolve(
    volume: np.ndarray,
    generator: nn.Module,
    halo: int | None = None,
    memory_gib: float = 4.0,
    foreground: np.ndarray | None = None,
    progress: Callable[[list[Tile]], Iterable[Tile]] = iter,
) -> np.ndarray:
    """Run a generator over a volume.

    The volume is cut into tiles that are read with a halo, and the halo is thrown away. With a halo of the
    generator's receptive radius (17 for the default) the result is that of one pass over the whole volume: no
    seams.

    Args:
        volume: float32 ``(x, y, z)`` of any shape, on the scale the generator was trained with.
        generator: maps ``(1, 1, D, H, W)`` to the same shape; runs where its parameters are.
        halo: voxels read beyond each tile; None takes the receptive radius. The original project used 3.
        memory_gib: bound on the memory for features; decides the size of the tiles.
        foreground: bool ``(x, y, z)``; where given, boxes that hold only air are copied from the input.
        progress: wraps the list of tiles, e.g. ``tqdm``.

    Returns:
        float32 volume of the same shape.

    Raises:
        ValueError: not three axes, not finite, a foreground of another shape, or too little memory for one
            tile.
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
    reach = getattr(generator, "receptive_radius", DEFAULT_HALO)
    halo = reach if halo is None else halo
    tiles = plan_tiles(volume.shape, halo, int(memory_gib * 2**30 / BYTES_PER_VOXEL))
    if foreground is not None:
        tiles = [small for tile in tiles if (small := shrink(tile, foreground, halo))]
    # dropping the halo on the way gives the same voxels only if the halo covers all that the network sees
    on_the_way = isinstance(generator, Generator) and halo == reach
    was_training = generator.training
    generator.eval()
    try:
        return stitch(
            volume, progress(tiles), lambda box, tile: _run_tile(box, tile, generator, halo, on_the_way)
        )
    finally:
        generator.train(was_training)


def _run_tile(box: np.ndarray, tile: Tile, generator: nn.Module, halo: int, on_the_way: bool) -> np.ndarray:
    """The inner box of one tile; ``box`` holds the voxels of its outer one."""
    device = next((p.device for p in generator.parameters()), torch.device("cpu"))
    x = torch.from_numpy(np.array(box, dtype=np.float32))[None, None].to(device)  # (1, 1, D, H, W)
    cut = NOTHING_CUT
    if on_the_way:
        cut = tuple(
            (int(c.start == halo), int(n - c.stop == halo)) for c, n in zip(tile.crop, box.shape, strict=True)
        )
        y = generator.forward_tile(x, cut)
    else:
        y = generator(x)
    crop = tuple(
        slice(c.start - low * halo, c.stop - low * halo) for c, (low, _) in zip(tile.crop, cut, strict=True)
    )
    return y[0, 0][crop].float().cpu().numpy()
