"""Draw training patches from prepared volumes.

Patches are cubes ``(x, y, z)`` in the volume's own axis order; as tensors they become
``(N, C, D, H, W)`` with D, H, W = x, y, z.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Prepared:
    """One prepared subject: its arrays stay on disk and are read where they are touched.

    Each access opens the file anew, which takes a tenth of a millisecond: a map that stays open would keep
    what was read of it in the process, and over a thousand subjects that adds up.
    """

    folder: Path

    @cached_property
    def meta(self) -> dict:
        """What `sprl_utils.prepare` wrote down: id, split, scale, keep, ..."""
        return json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of all volumes of the subject."""
        return tuple(self.meta["shape"])

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    @property
    def hr(self) -> np.ndarray:
        """High resolution, float32 ``(x, y, z)``, divided by the subject's intensity scale."""
        return self._array("hr")

    @property
    def lr(self) -> np.ndarray:
        """Low resolution on the HR grid, float32 ``(x, y, z)``, on HR's scale."""
        return self._array("lr")

    @property
    def foreground(self) -> np.ndarray:
        """Head against air, bool ``(x, y, z)``."""
        return self._array("foreground")

    @property
    def brain(self) -> np.ndarray:
        """Brain mask, bool ``(x, y, z)``."""
        return self._array("brain")

    @property
    def centres(self) -> np.ndarray:
        """Voxels ``(n, 3)`` of the foreground, on a grid of four, around which patches are drawn."""
        return self._array("centres")


class Patches(Protocol):
    """Training patches by number: `RandomPatches`, or another way to draw them."""

    subjects: Sequence[Prepared]
    patch_size: int
    seed: int

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``: ``(x, y, z)``, float32."""
        ...


@dataclass
class RandomPatches:
    """Cubes around random foreground voxels of random subjects, flipped at random along each axis.

    Patch ``i`` is a function of the seed and ``i`` alone, so a resumed run, or several processes that share
    the numbers out among them, see exactly the patches of an uninterrupted one.
    """

    subjects: Sequence[Prepared]
    patch_size: int
    seed: int
    flips: bool = True

    def __post_init__(self) -> None:
        check_fit(self.subjects, self.patch_size)

    def _draw(self, index: int) -> tuple[np.random.Generator, Prepared]:
        """Random numbers of patch number ``index``, of which the first has chosen its subject."""
        rng = np.random.default_rng([self.seed, index])
        return rng, self.subjects[rng.integers(len(self.subjects))]

    def subject(self, index: int) -> Prepared:
        """The subject that patch number ``index`` is cut from."""
        return self._draw(index)[1]

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``."""
        rng, subject = self._draw(index)
        centres = subject.centres
        centre = centres[rng.integers(len(centres))]
        low = np.clip(centre - self.patch_size // 2, 0, np.array(subject.shape) - self.patch_size)
        flip = tuple(np.flatnonzero(rng.integers(2, size=3))) if self.flips else ()
        return cut_pair(subject, low, self.patch_size, flip)


def check_fit(subjects: Sequence[Prepared], patch_size: int) -> None:
    """Refuse volumes that are smaller than a patch.

    Raises:
        ValueError: one is, or there is none.
    """
    if not subjects:
        raise ValueError("patches: expected at least one prepared subject, found none")
    for subject in subjects:
        if min(subject.shape) < patch_size:
            raise ValueError(
                f"{subject.meta['id']}: {subject.folder}: expected a volume of at least {patch_size} "
                f"voxels per axis to draw patches from, found {subject.shape}"
            )


def cut_pair(
    subject: Prepared, low: Sequence[int], size: int, flip: tuple = ()
) -> tuple[np.ndarray, np.ndarray]:
    """LR and HR of the cube that begins at voxel ``low``, flipped along the axes ``flip``."""
    box = tuple(slice(int(a), int(a) + size) for a in low)
    lr, hr = np.flip(subject.lr[box], flip), np.flip(subject.hr[box], flip)
    return np.ascontiguousarray(lr), np.ascontiguousarray(hr)


def batch(
    patches: Patches, step: int, batch_size: int, rank: int = 0, world: int = 1
) -> tuple[Tensor, Tensor]:
    """LR and HR tensors ``(N, 1, D, H, W)`` of training step ``step``.

    With several processes each takes its ``batch_size`` of the step's ``world * batch_size`` patches.
    """
    first = (step * world + rank) * batch_size
    lr, hr = zip(*(patches.patch(first + i) for i in range(batch_size)), strict=True)
    return torch.from_numpy(np.stack(lr))[:, None], torch.from_numpy(np.stack(hr))[:, None]
