"""Training patches that are coarse in any way, for weights that serve scans of any kind.

Scans are coarse on one, two or three axes, by different factors, because k-space was cut or because voxels
are thick. Here LR is made anew for each patch, from a box of HR that is larger than the patch by a margin.
The box, mirrored at its ends, takes the place of the head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sprl_utils.kspace import resample
from sprl_utils.patches import RandomPatches, check_fit

#: Voxels around a patch that belong to the box, too, so that its mirrored ends lie outside of the patch.
MARGIN = 16


def averaged(volume: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    """Means over blocks of ``factors`` voxels, as a thick slice measures, of a multiple of them."""
    for axis, f in enumerate(factors):
        volume = volume.reshape(*volume.shape[:axis], -1, f, *volume.shape[axis + 1 :]).mean(axis + 1)
    return volume


def degrade(hr: np.ndarray, factors: Sequence[float], thick: bool) -> np.ndarray:
    """LR on HR's grid, as `sprl_utils.scans.apply` gives it to a network.

    Args:
        hr: ``(x, y, z)``, not below 0; where voxels are thick, of a multiple of the factors.
        factors: voxels per measured sample on each axis; whole numbers where voxels are thick.
        thick: voxels are averaged; else the end of the spectrum is cut.
    """
    if thick:
        coarse = averaged(hr, [round(f) for f in factors])
    else:
        coarse = resample(hr, [max(1, round(n / f)) for n, f in zip(hr.shape, factors, strict=True)])
    return np.abs(resample(coarse, hr.shape))


@dataclass
class AnyPatches(RandomPatches):
    """Cubes whose LR has a random kind of coarseness: which axes, by how much, cut or thick.

    Args:
        largest: factor per axis; the smallest is 1.5 where k-space is cut and 2 where voxels are thick.
    """

    largest: float = 5.0

    def __post_init__(self) -> None:
        check_fit(self.subjects, np.broadcast_to(self.patch_size, 3) + round(self.largest))

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``."""
        rng, subject = self._draw(index)
        low, size = self._place(rng, subject)
        thick, factors = bool(rng.integers(2)), self._factors(rng)
        factors = np.round(factors) if thick else factors
        first, stop = np.maximum(low - MARGIN, 0), np.minimum(low + size + MARGIN, subject.shape)
        if thick:
            stop -= (stop - first) % factors.astype(int)
        hr = np.asarray(subject.hr[tuple(map(slice, first, stop))])
        start = np.minimum(low - first, hr.shape - size)
        flip = tuple(np.flatnonzero(rng.integers(2, size=3))) if self.flips else ()
        turn, factor = rng.permutation(3), np.float32(np.exp(rng.uniform(-self.gain, self.gain)))
        images = (a[tuple(map(slice, start, start + size))] for a in (degrade(hr, factors, thick), hr))
        return tuple(np.ascontiguousarray(np.flip(a, flip).transpose(turn) * factor) for a in images)

    def _factors(self, rng: np.random.Generator) -> np.ndarray:
        """One per axis: 1 on those that stay fine, and on half of the draws the same on all others."""
        coarse = rng.permutation(3) < rng.integers(1, 4)
        drawn = np.exp(rng.uniform(np.log(1.5), np.log(self.largest), 3))
        return np.where(coarse, drawn[0] if rng.integers(2) else drawn, 1.0)
