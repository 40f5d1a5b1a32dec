"""A trained generator on a scan of one's own: any matrix and orientation, in the scan's own units."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage
from torch import nn

from sprl_utils.evaluation import AIR_MARGIN
from sprl_utils.inference import super_resolve
from sprl_utils.kspace import Keep, find_cut, restore_measured, zero_fill
from sprl_utils.volumes import Volume, foreground_mask, intensity_scale


@dataclass(frozen=True)
class Plan:
    """What is going to be done with one scan, known before any network is loaded."""

    shape: tuple[int, int, int]
    measured: tuple[int, int, int]
    axes: tuple[int, ...]
    weights: str
    warnings: tuple[str, ...] = ()

    @property
    def factors(self) -> tuple[float, ...]:
        """By which the result's matrix exceeds what was measured, per axis."""
        return tuple(n / m for n, m in zip(self.shape, self.measured, strict=True))


def make_plan(
    scan: Volume,
    voxel_size: Sequence[float] | None = None,
    upsample: Sequence[float] | None = None,
    axes: Sequence[int] | None = None,
) -> Plan:
    """What is going to be done with one scan.

    Raises:
        ValueError: nothing that was measured coarsely is found in it.
    """
    factors = upsample or (factors_for(scan, voxel_size) if voxel_size else (1, 1, 1))
    shape = tuple(round(n * f) for n, f in zip(scan.data.shape, factors, strict=True))
    measured = scan.data.shape if shape != scan.data.shape else find_cut(scan.data)
    coarse = tuple(axes or (a for a in range(3) if measured[a] < shape[a]))
    if measured == shape:
        raise ValueError("k-space: expected a cut (or --voxel-size, --upsample), found it full")
    largest = max(n / m for n, m in zip(shape, measured, strict=True))
    return Plan(shape, tuple(measured), coarse, "mDCSRN_2x2" if largest < 3 else "mDCSRN_4x4")


def sharpen(
    scan: Volume,
    plan: Plan,
    generator: nn.Module,
    halo: int | None = None,
    memory_gib: float = 4.0,
    skip_air: bool = False,
    dtype: torch.dtype = torch.float32,
    uncertainty: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> tuple[Volume, Volume | None]:
    """The scan as planned, on the fine grid, and the SD over mirror images, or None."""
    factors = np.divide(plan.shape, scan.data.shape)
    fine = to_fine_grid(scan, factors) if max(factors) > 1 else scan
    results = _sharpen_data(
        fine, generator, plan.axes, halo, memory_gib, skip_air, dtype, uncertainty, plan.measured, progress
    )
    return tuple(None if data is None else replace(fine, data=data) for data in results)


def to_fine_grid(scan: Volume, factors: Sequence[float]) -> Volume:
    """The scan zero-filled in k-space to ``factors`` times its matrix, each voxel centre where it belongs.

    The first voxel's centre stays where it is; the last ones reach half a fine voxel less far than the coarse
    voxel's edge, because the samples begin at the first centre.

    Raises:
        ValueError: not three factors of at least 1.
    """
    if len(factors) != 3 or any(not 1 <= f <= 16 for f in factors):
        raise ValueError(f"upsample: expected three factors from 1 to 16, found {list(factors)}")
    shape = [round(n * f) for n, f in zip(scan.data.shape, factors, strict=True)]
    affine = scan.affine.astype(float)
    affine[:3, :3] *= np.divide(scan.data.shape, shape)  # a column an axis
    header = scan.header.copy()
    if isinstance(header, nib.Nifti1Header):
        places = {form: getattr(header, f"get_{form}")(coded=True) for form in ("sform", "qform")}
        header.set_data_shape(shape)
        header.set_zooms(nib.affines.voxel_sizes(affine))
        for form, (place, code) in places.items():
            if code:  # each keeps its code, and where it was
                place[:3, :3] *= np.divide(scan.data.shape, shape)
                getattr(header, f"set_{form}")(place, code)
    return replace(scan, data=zero_fill(scan.data, shape), affine=affine, header=header)


def factors_for(scan: Volume, voxel_size: Sequence[float]) -> tuple[float, ...]:
    """Factors that bring the scan to voxels of about ``voxel_size`` mm, in whole voxels; none is below 1."""
    factors = (max(1.0, own / wanted) for own, wanted in zip(scan.voxel_size, voxel_size, strict=True))
    sizes = zip(scan.data.shape, factors, strict=True)
    return tuple(round(n * f) / n for n, f in sizes)  # rounding in a header's affine enlarges nothing


def _sharpen_data(
    scan: Volume,
    generator: nn.Module,
    axes: Sequence[int] = (1, 2),
    halo: int | None = None,
    memory_gib: float = 4.0,
    skip_air: bool = False,
    dtype: torch.dtype = torch.float32,
    uncertainty: bool = False,
    keep: Keep | None = None,
    progress: Callable[[Sequence], Iterable] = iter,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Super-resolve a scan that lies on the fine grid.

    Args:
        axes: the one or two array axes along which it was measured coarsely; the generators here have learned
            to restore the last two axes of what they are given, so the volume is turned that way first.
        skip_air: copy the air around the head, with its ringing: faster.
        uncertainty: run all eight mirror images too, and return how far their results spread.
        keep: samples of k-space that were measured, one entry an axis of the scan; the result gets them back
            (`sprl_utils.kspace.restore_measured`). None: not known.
        halo, memory_gib, dtype, progress: see `sprl_utils.inference.super_resolve`.

    Returns:
        The sharper volume ``(x, y, z)`` in the scan's own units, and the SD over mirror images, or None.

    Raises:
        ValueError: other than one or two different axes.
    """
    if not 1 <= len(set(axes)) == len(axes) <= 2 or not set(axes) <= {0, 1, 2}:
        raise ValueError(f"axes: expected one or two different ones of 0, 1, 2, found {list(axes)}")
    order = [a for a in range(3) if a not in axes] + sorted(axes)
    back = np.argsort(order)
    scale = np.float32(intensity_scale(scan.data))
    image = np.ascontiguousarray(scan.data.transpose(order)) / scale
    head = None
    if skip_air:
        voxel_size = [scan.voxel_size[a] for a in order]
        head = ndimage.binary_dilation(foreground_mask(image, voxel_size), iterations=AIR_MARGIN)

    def run(flipped: tuple[int, ...]) -> np.ndarray:
        x, mask = (None if a is None else np.flip(a, flipped).copy() for a in (image, head))
        sr = np.flip(super_resolve(x, generator, halo, memory_gib, mask, dtype, progress), flipped)
        return sr if keep is None else restore_measured(sr, image, [keep[a] for a in order])

    sharper = run(())
    spread = None
    if uncertainty:
        mean, squares = sharper.astype(float), np.zeros(sharper.shape)
        flips = [f for n in (1, 2, 3) for f in itertools.combinations(range(3), n)]
        for count, flipped in enumerate(flips, start=2):  # Welford's mean and sum of squares
            step = run(flipped) - mean
            mean += step / count
            squares += step**2 * (count - 1) / count
        spread = (np.sqrt(squares / (len(flips) + 1)) * scale).astype(np.float32).transpose(back)
    return (sharper * scale).transpose(back), spread
