"""The original project's patches: each volume cut into a grid of cubes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sprl_utils.patches import Prepared, check_fit, cut_pair


@dataclass
class GridPatches:
    """Each volume cut into a grid of cubes, a share of which is used in each epoch.

    Args:
        usage: share of the cubes that an epoch uses, drawn anew for each.
        leave_out: numbers of cubes never used, counted with the last axis fastest. (The original reads such a
            list, ``idx_mine``, and does nothing with it.)
    """

    subjects: Sequence[Prepared]
    patch_size: int
    seed: int
    usage: float = 1.0
    leave_out: Sequence[int] = ()
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_fit(self.subjects, self.patch_size)
        if not 0 < self.usage <= 1:
            raise ValueError(f"grid patches: usage must be a share in (0, 1], found {self.usage}")
        left_out = set(self.leave_out)
        self.cubes = [
            (subject, low)
            for subject in self.subjects
            for i, low in enumerate(grid_corners(subject.shape, self.patch_size))
            if i not in left_out
        ]
        if not self.cubes:
            raise ValueError(f"grid patches: leave_out leaves no cube of size {self.patch_size}")
        self.per_epoch = max(1, round(len(self.cubes) * self.usage))

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``, counted through all epochs."""
        epoch, i = divmod(index, self.per_epoch)
        if epoch not in self._epochs:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cubes))
            self._epochs = {epoch: order}
        subject, low = self.cubes[self._epochs[epoch][i]]
        return cut_pair(subject, low, self.patch_size)


def grid_corners(shape: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    """First voxels of the whole cubes that fit side by side into ``shape`` (4x5x5 of 64 in 256x320x320)."""
    return list(itertools.product(*(range(0, n - size + 1, size) for n in shape)))
