"""Boxes in a volume: which tiles to read, with which halo, and which part of each to keep.

A network is run over overlapping tiles. A tile's inner box is kept and its halo, the voxels read beyond the
box, is thrown away. With a halo as wide as the network sees, the merged result is that of one pass over the
whole volume. A network that computes on a coarser grid is given tiles that begin on that grid.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage
from torch import nn

Box = tuple[slice, ...]
Triple = tuple[int, int, int]
#: Halo for networks that do not say how far they see: the paper's generator's receptive radius.
DEFAULT_HALO = 17


def halo_and_step(network: nn.Module) -> tuple[Triple, Triple]:
    """The halo that a network needs, and the grid that it computes on, in voxels per axis.

    Returns:
        The halo, rounded up to multiples of the step, and the step, which is the network's ``reduction``.
    """
    step = tuple(getattr(network, "reduction", (1, 1, 1)))
    halo = getattr(network, "receptive_radius", DEFAULT_HALO)
    return tuple(_up(h, s) for h, s in zip(_per_axis(halo, 3), step, strict=True)), step


def plan_tiles(
    shape: Sequence[int], halo: int | Sequence[int], max_voxels: int, step: int | Sequence[int] = 1
) -> list[Box]:
    """Inner boxes of the tiles that read the fewest voxels in all while none reads more than ``max_voxels``.

    Along an axis of ``n`` voxels in ``count`` tiles each reads ``2 * halo + (n - 2 * halo) / count``, rounded
    up. The first and the last have a halo on one side only and keep as much more: beyond the volume's faces
    there is nothing to read.

    Args:
        halo: voxels, multiples of ``step``.
        step: tiles begin at multiples of it, and end there or at the volume's end.

    Raises:
        ValueError: not even tiles that keep one step fit into ``max_voxels``.
    """
    axes = []  # per axis: voxels, and in steps how many there are, the halo, and what lies between two halos
    halos = _per_axis(halo, 3)
    for n, h, s in zip(shape, halos, _per_axis(step, 3), strict=True):
        axes.append((n, s, h // s, _up(n, s) // s - 2 * (h // s)))

    def read(counts: Sequence[int]) -> int:
        return math.prod(
            min(s * (2 * h + -(-between // c)), n) for (n, s, h, between), c in zip(axes, counts, strict=True)
        )

    possible = itertools.product(*(range(1, max(1, min(between, 32)) + 1) for *_, between in axes))
    fitting = [counts for counts in possible if read(counts) <= max_voxels]
    if not fitting:
        raise ValueError(
            f"tiles: a volume of {tuple(shape)} with a halo of {max(halos)} needs tiles of more than "
            f"the {max_voxels} voxels allowed; allow more memory"
        )
    best = min(fitting, key=lambda counts: math.prod(counts) * read(counts))
    cuts = [
        [0, *(s * (h + between * i // count) for i in range(1, count)), n]
        for (n, s, h, between), count in zip(axes, best, strict=True)
    ]
    return list(itertools.product(*([slice(a, b) for a, b in itertools.pairwise(cut)] for cut in cuts)))


def shrink(boxes: Sequence[Box], wanted: np.ndarray) -> list[Box]:
    """Each box reduced to the bounding box of what is ``wanted`` in it; boxes without any are left out."""
    shrunk = []
    for box in boxes:
        for found in ndimage.find_objects(wanted[box].astype(np.uint8)):
            corners = zip(box, found, strict=True)
            shrunk.append(tuple(slice(b.start + f.start, b.start + f.stop) for b, f in corners))
    return shrunk


def grow(box: Box, halo: int | Sequence[int], shape: Sequence[int], step: int | Sequence[int] = 1) -> Box:
    """A box with ``halo`` voxels more on each side and its edges on ``step``, cut to the volume."""
    edges = zip(box, _per_axis(halo, len(box)), shape, _per_axis(step, len(box)), strict=True)
    return tuple(slice(max(b.start // s * s - h, 0), min(_up(b.stop, s) + h, n)) for b, h, n, s in edges)


def box_for(wanted: np.ndarray, halo: int | Sequence[int], step: int | Sequence[int] = 1) -> Box:
    """The box that must be read for all of ``wanted``; the whole volume where nothing is wanted."""
    whole = tuple(slice(0, n) for n in wanted.shape)
    return next((grow(box, halo, wanted.shape, step) for box in shrink([whole], wanted)), whole)


def within(inner: Box, outer: Box) -> Box:
    """Where ``inner`` lies in an array of the voxels of ``outer``."""
    return tuple(slice(i.start - o.start, i.stop - o.start) for i, o in zip(inner, outer, strict=True))


def same_size(boxes: Sequence[Box], shape: Sequence[int], step: Sequence[int]) -> list[Box]:
    """Boxes enlarged to the size of the largest along each axis, and moved into the volume.

    So one graph serves all. Only where ``shape`` is no multiple of ``step`` may the last box be smaller.
    """
    sizes = [max((_up(b[i].stop, s) - b[i].start for b in boxes), default=0) for i, s in enumerate(step)]
    moved = []
    for box in boxes:
        edges = zip(box, sizes, shape, step, strict=True)
        starts = [(max(min(b.start, _up(n, s) - size), 0), size, n) for b, size, n, s in edges]
        moved.append(tuple(slice(start, min(start + size, n)) for start, size, n in starts))
    return moved


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


def _per_axis(value: int | Sequence[int], axes: int) -> list[int]:
    return np.broadcast_to(value, axes).tolist()
