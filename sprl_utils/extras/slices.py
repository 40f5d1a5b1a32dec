"""Thick slices: how they measure, what of an image they leave unknown, and patches for training.

A slice of a 2D scan is the mean over its thickness, and not a cut of k-space: what is fast within a slice is
weakened or appears as something slower (aliasing).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sprl_utils.kspace import resample
from sprl_utils.patches import RandomPatches

#: Voxels of HR per slice in training.
THINNEST, THICKEST = 2.0, 5.0
#: Voxels around a patch that its slices are made from, too: the mirror that `resample` sets at the ends of
#: an image lies outside of the patch.
MARGIN = 16


def averaged(volume: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Means over larger voxels: a volume on a coarser grid of the same field of view.

    Args:
        volume: float32 ``(x, y, z)``.
        shape: matrix of the coarser grid; it need not divide the volume's.
    """
    return _along_axes(volume, shape, _means)


def spread(coarse: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The smallest volume of ``shape`` whose means are ``coarse``: the pseudo-inverse of `averaged`."""
    return _along_axes(coarse, shape, lambda m, n: np.linalg.pinv(_means(n, m)))


def _along_axes(
    volume: np.ndarray, shape: Sequence[int], matrix: Callable[[int, int], np.ndarray]
) -> np.ndarray:
    """``matrix(n, m)`` times each axis that changes, from ``n`` to ``m`` voxels."""
    for axis, (n, m) in enumerate(zip(volume.shape, shape, strict=True)):
        if n != m:
            product = np.tensordot(matrix(n, m).astype(np.float32), volume, (1, axis))
            volume = np.moveaxis(product, 0, axis)
    return volume


def _means(n: int, m: int) -> np.ndarray:
    """``(m, n)``: the share that each of ``n`` fine voxels has in the mean of each of ``m`` coarse ones."""
    edges, fine = np.linspace(0, n, m + 1)[:, None], np.arange(n)
    overlap = np.minimum(edges[1:], fine + 1) - np.maximum(edges[:-1], fine)
    return np.clip(overlap, 0, None) * (m / n)


@dataclass
class SlicePatches(RandomPatches):
    """Random cubes whose LR comes from slices of random thickness, on H or W.

    LR is made for each cube from HR around it, in the way in which `sprl_utils.scans.apply` brings slices to
    a finer grid. Any array axis may become D, H or W.

    Raises:
        ValueError: edges that differ, or ``swap``, which has no meaning here.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(np.ravel(self.patch_size))) > 1 or self.swap:
            raise ValueError(f"patches: slices need cubes and no swap, found {self.patch_size}, {self.swap}")

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``."""
        rng, subject = self._draw(index)
        low, size = self._place(rng, subject)
        first, stop = np.maximum(low - MARGIN, 0), np.minimum(low + size + MARGIN, subject.shape)
        turn = rng.permutation(3)
        hr = np.asarray(subject.hr[tuple(map(slice, first, stop))]).transpose(turn)
        slices = list(hr.shape)
        thickness = np.exp(rng.uniform(np.log(THINNEST), np.log(THICKEST)))
        axis = 1 + rng.integers(2)
        slices[axis] = round(hr.shape[axis] / thickness)
        lr = np.abs(resample(averaged(hr, slices), hr.shape))
        inner = tuple(map(slice, (low - first)[turn], (low - first + size)[turn]))
        flip = tuple(np.flatnonzero(rng.integers(2, size=3))) if self.flips else ()
        factor = np.float32(np.exp(rng.uniform(-self.gain, self.gain)))
        return tuple(np.ascontiguousarray(np.flip(image[inner], flip) * factor) for image in (lr, hr))
