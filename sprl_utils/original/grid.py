"""The original project's patches: each volume cut into a grid of cubes."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sprl_utils.patches import Prepared, check_fit, cut_pair


@dataclass
class GridPatches:
    """Each volume cut into a grid of cubes. An epoch takes each cube once, in an order drawn anew."""

    subjects: Sequence[Prepared]
    patch_size: int
    seed: int
    _epochs: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_fit(self.subjects, self.patch_size)
        self.cubes = [
            (head, low) for head in self.subjects for low in grid_corners(head.shape, self.patch_size)
        ]

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``, counted through all epochs."""
        epoch, i = divmod(index, len(self.cubes))
        if epoch not in self._epochs:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.cubes))
            self._epochs = {epoch: order}
        subject, low = self.cubes[self._epochs[epoch][i]]
        return cut_pair(subject, low, self.patch_size)


def grid_corners(shape: Sequence[int], size: int) -> list[tuple[int, int, int]]:
    """First voxels of the whole cubes that fit side by side into ``shape`` (4x5x5 of 64 in 256x320x320)."""
    return list(itertools.product(*(range(0, n - size + 1, size) for n in shape)))
