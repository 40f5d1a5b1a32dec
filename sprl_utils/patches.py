"""Draw training patches from prepared volumes.

Patches are boxes of a volume whose axes are turned so that the coarse ones are the last (`Prepared.order`);
as tensors they become ``(N, C, D, H, W)``.
"""

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

    @property
    def order(self) -> tuple[int, ...]:
        """Array axes as networks see them: those whose k-space was cut come last."""
        return tuple(sorted(range(3), key=lambda axis: axis in self.cut_axes))

    @property
    def cut_axes(self) -> tuple[int, ...]:
        """Array axes whose k-space was cut; all of them where LR came with the subject and nobody knows."""
        keep = self.meta["keep"]
        return tuple(axis for axis in range(3) if keep is None or keep[axis] is not None)

    @property
    def turned_affine(self) -> np.ndarray:
        """Affine of a volume whose axes are in `order`, but for the origin of a patch of it."""
        return np.array(self.meta["affine"])[:, [*self.order, 3]]

    @property
    def is_cut_alike(self) -> bool:
        """Whether the last two axes of `order` kept the same share of k-space."""
        keep = self.meta["keep"]
        return keep is not None and keep[self.order[1]] == keep[self.order[2]]

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
    patch_size: int | Sequence[int]
    seed: int

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``: ``(D, H, W)``, float32."""
        ...


@dataclass
class RandomPatches:
    """Boxes around random foreground voxels of random subjects, flipped at random along each axis.

    A subject is drawn as often as its ``draw`` in the manifest says, relative to the others. Patch ``i`` is a
    function of the seed and ``i`` alone, so a resumed run, or several processes that share the numbers out
    among them, see exactly the patches of an uninterrupted one.

    Args:
        patch_size: edge of a cube, or edges on D, H, W.
        swap: exchange H and W of every second patch of a head that is cut alike on both.
        gain: multiply LR and HR by a random factor of up to ``exp(±gain)``.
    """

    subjects: Sequence[Prepared]
    patch_size: int | Sequence[int]
    seed: int
    flips: bool = True
    swap: bool = False
    gain: float = 0.0

    def __post_init__(self) -> None:
        check_fit(self.subjects, self.patch_size)
        _, height, width = np.broadcast_to(self.patch_size, 3)
        if self.swap and height != width:
            raise ValueError(f"patches: swap expects equal edges on H and W, found {height} and {width}")

    def _draw(self, index: int) -> tuple[np.random.Generator, Prepared]:
        """Random numbers of patch number ``index``, of which the first has chosen its subject."""
        rng = np.random.default_rng([self.seed, index])
        return rng, self.subjects[np.searchsorted(self._shares, rng.random(), side="right")]

    @cached_property
    def _shares(self) -> np.ndarray:
        """Cumulated shares of the draws that each subject has."""
        draws = np.cumsum([subject.meta.get("draw", 1.0) for subject in self.subjects])
        return draws / draws[-1]

    def _place(self, rng: np.random.Generator, subject: Prepared) -> tuple[np.ndarray, np.ndarray]:
        """First voxel of a patch around a random centre, and its edges, in the file's axis order."""
        centres, size = subject.centres, edges_in_file_order(self.patch_size, subject)
        centre = centres[rng.integers(len(centres))]
        return np.clip(centre - size // 2, 0, np.array(subject.shape) - size), size

    def subject(self, index: int) -> Prepared:
        """The subject that patch number ``index`` is cut from."""
        return self._draw(index)[1]

    def patch(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """LR and HR of patch number ``index``."""
        rng, subject = self._draw(index)
        low, size = self._place(rng, subject)
        flip = tuple(np.flatnonzero(rng.integers(2, size=3))) if self.flips else ()
        lr, hr = cut_pair(subject, low, size, flip)
        if self.swap and rng.integers(2) and subject.is_cut_alike:
            lr, hr = lr.swapaxes(1, 2), hr.swapaxes(1, 2)
        factor = np.float32(np.exp(rng.uniform(-self.gain, self.gain)))
        return np.ascontiguousarray(lr * factor), np.ascontiguousarray(hr * factor)


def edges_in_file_order(patch_size: int | Sequence[int], subject: Prepared) -> np.ndarray:
    """Edges of a patch along the array axes of the subject's volumes."""
    return np.broadcast_to(patch_size, 3)[np.argsort(subject.order)]


def check_fit(subjects: Sequence[Prepared], patch_size: int | Sequence[int]) -> None:
    """Refuse volumes that are smaller than a patch.

    Raises:
        ValueError: one is, or there is none.
    """
    if not subjects:
        raise ValueError("patches: expected at least one prepared subject, found none")
    for subject in subjects:
        size = edges_in_file_order(patch_size, subject)
        if (size > subject.shape).any():
            raise ValueError(
                f"{subject.meta['id']}: {subject.folder}: expected a volume of at least {size.tolist()} "
                f"voxels to draw patches from, found {list(subject.shape)}"
            )


def cut_pair(
    subject: Prepared, low: Sequence[int], size: int | Sequence[int], flip: tuple = ()
) -> tuple[np.ndarray, np.ndarray]:
    """LR and HR ``(D, H, W)`` of the box that begins at voxel ``low``, flipped along ``flip``.

    ``low``, ``size`` and ``flip`` are in the file's axis order.
    """
    box = tuple(slice(int(a), int(a + n)) for a, n in zip(low, np.broadcast_to(size, 3), strict=True))
    lr, hr = (np.flip(image[box], flip).transpose(subject.order) for image in (subject.lr, subject.hr))
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
