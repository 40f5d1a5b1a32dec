"""A trained generator on a scan of one's own: any matrix and orientation, in the scan's own units.

Two kinds of axes are coarse. On a *cut* axis the scan's grid is finer than what was measured, because the
scanner filled k-space with zeros; `sprl_utils.scans.cuts.find_cut` finds where. On a *thick* axis voxels are
larger than asked for, and k-space is filled with zeros here. One of the thick axes may be the *slice* axis of
a 2D scan, whose voxels are means over their thickness and no cut of k-space.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
from torch import nn

from sprl_utils.extras.slices import averaged, spread
from sprl_utils.inference import mirrors, super_resolve
from sprl_utils.kspace import data_consistency, kept_samples, resample
from sprl_utils.masks import head_with_margin, intensity_scale
from sprl_utils.scans.cuts import find_cut
from sprl_utils.tiles import halo_and_step
from sprl_utils.volumes import Volume

#: The largest factor per axis: up to here the result was compared with a cubic spline on real heads.
LARGEST_FACTOR = 5.0
#: A factor up to which the weights that learned from half of k-space are the better ones.
HALF = 3.0
#: Voxels per slice up to which the weights that learned from half of k-space are the better ones.
THIN = 2.25
#: How a scan was acquired, in the words of DICOM's and BIDS's MRAcquisitionType.
ACQUISITIONS = ("2D", "3D")
#: How thick slices are, against what the scan resolves on other axes and against the result's voxels, where
#: nobody says whether the scan is 2D or 3D; a little less than 3, for rounded sizes. To take thinner ones for
#: means where they are none costs more than the opposite.
SLICE_RATIO = 2.95
#: Voxels along an axis below which nothing can be said of its k-space, nor of head and air.
FEWEST = 4
#: What an axis may grow by rounding to whole voxels without being asked to, as a share of its length.
ROUNDING = 0.01


@dataclass(frozen=True)
class Plan:
    """What is going to be done with one scan; no network is needed to know it.

    Attributes:
        shape: matrix of the result.
        grid: matrix of the scan.
        measured: samples of k-space, or slices, that the scan holds, per axis.
        slice_axis: the thick array axis on which voxels are means over slices; None: there is none.
    """

    shape: tuple[int, int, int]
    grid: tuple[int, int, int]
    measured: tuple[int, int, int]
    slice_axis: int | None = None

    @property
    def factors(self) -> tuple[float, ...]:
        """Voxels of the result per measured sample, per axis."""
        return tuple(n / m for n, m in zip(self.shape, self.measured, strict=True))

    @property
    def axes(self) -> tuple[int, ...]:
        """Array axes that are coarse."""
        return tuple(a for a in range(3) if self.measured[a] < self.shape[a])

    @property
    def thick(self) -> tuple[int, ...]:
        """Array axes on which the result has more voxels than the scan."""
        return tuple(a for a in range(3) if self.grid[a] < self.shape[a])

    @property
    def weights(self) -> str:
        """Name of the shipped weights that fit."""
        if self.slice_axis is not None and self.factors[self.slice_axis] > THIN:
            return "EDSR_slices"
        return "EDSR_2x2" if max(self.factors) < HALF else "EDSR_4x4"

    @property
    def warnings(self) -> list[str]:
        """What the shipped weights were not trained for, as sentences."""
        learned, found = (1 if self.weights == "EDSR_slices" else 2), len(self.axes)
        if found == learned:
            return []
        return [
            f"the weights learned from scans that are coarse on {learned} of the axes, and this one is on "
            f"{found}; the network runs once per pair of axes, and the results are averaged."
        ]


def make_plan(
    scan: Volume,
    voxel_size: Sequence[float] | None = None,
    upsample: Sequence[float] | None = None,
    measured: Sequence[int] | None = None,
    acquisition: str | None = None,
) -> Plan:
    """Find what is coarse in a scan, and what the result looks like.

    Args:
        voxel_size: edges in mm that are asked for, per array axis. An axis that is finer stays as it is.
        upsample: factors on the matrix, in place of ``voxel_size``.
        measured: samples of k-space that the scan holds, per axis, where they are known; else they are found.
        acquisition: of `ACQUISITIONS`. In 2D the axis with the longest voxels is that of the slices. Where
            it is not known, voxels three times as long as on the other axes and as asked for count as slices.

    Raises:
        ValueError: numbers that make no sense, or nothing to restore.
    """
    grid = scan.data.shape
    if min(grid) < FEWEST:
        raise ValueError(
            f"expected at least {FEWEST} voxels along each axis, found {' x '.join(map(str, grid))}; "
            "stack the slices into one volume"
        )
    _check_numbers("voxel size", voxel_size, 0.01, 100, "three sizes in mm from 0.01 to 100")
    _check_numbers("upsample", upsample, 1, LARGEST_FACTOR, f"three factors from 1 to {LARGEST_FACTOR:g}")
    if measured is not None:
        if any(m > n for m, n in zip(measured, grid, strict=True)):
            most, asked = (" x ".join(map(str, samples)) for samples in (grid, measured))
            raise ValueError(f"measured samples: expected at most the scan's {most} samples, found {asked}")
        measured = kept_samples(grid, measured)
    if voxel_size is not None:
        upsample = [max(1.0, own / wanted) for own, wanted in zip(scan.voxel_size, voxel_size, strict=True)]
    factors = zip(grid, upsample or (1, 1, 1), strict=True)  # rounding errors in an affine enlarge nothing
    shape = tuple(n if f < 1 + ROUNDING else max(n, round(n * f)) for n, f in factors)
    plan = Plan(shape, grid, tuple(measured or find_cut(scan.data - scan.data.min())))
    if not plan.axes:
        raise ValueError(_nothing_to_restore(scan, voxel_size))
    if max(plan.factors) > LARGEST_FACTOR * (1 + ROUNDING):
        raise ValueError(
            f"expected at most {LARGEST_FACTOR:g} voxels of the result per measured sample, found "
            f"{max(plan.factors):.1f}; ask for larger voxels (--voxel-size)"
        )
    return replace(plan, slice_axis=_slice_axis(scan.voxel_size, plan, acquisition))


def _slice_axis(voxel_size: Sequence[float], plan: Plan, acquisition: str | None) -> int | None:
    edges = np.multiply(voxel_size, np.divide(plan.grid, plan.measured)).round(3)  # as the scan resolves
    *_, second, longest = np.argsort(edges, kind="stable").tolist()
    is_2d = acquisition == "2D"
    if acquisition not in ACQUISITIONS:
        is_2d = min(edges[longest] / edges[second], plan.factors[longest]) >= SLICE_RATIO
    was_cut = plan.measured[longest] < plan.grid[longest]  # what a scanner interpolated holds no means
    return longest if is_2d and longest in plan.thick and not was_cut else None


def _check_numbers(name: str, values: Sequence[float] | None, low: float, high: float, expected: str) -> None:
    if values is None:
        return
    if len(values) != 3 or not all(low <= v <= high for v in values):  # NaN lies in no range
        raise ValueError(f"{name}: expected {expected}, found {' '.join(f'{v:g}' for v in values)}")


def _nothing_to_restore(scan: Volume, voxel_size: Sequence[float] | None) -> str:
    own = " x ".join(f"{edge:.3g}" for edge in scan.voxel_size)
    finer = "a finer grid with --voxel-size or --upsample" if voxel_size is None else "smaller voxels"
    return (
        f"expected a scan coarser than asked for, found voxels of {own} mm and no end of k-space on any "
        f"axis; ask for {finer}, or, where the scanner filled k-space with zeros and later steps (rounding, "
        "filters, brain extraction) hid that, give the samples that it acquired with --measured"
    )


def on_grid(scan: Volume, shape: Sequence[int], data: np.ndarray) -> Volume:
    """``data`` on a grid of ``shape`` that covers the scan's field of view: header and affine are set right.

    Both places of a NIfTI header, sform and qform, keep their codes; a code of 0 stays 0.
    """
    if tuple(shape) == scan.data.shape:
        return replace(scan, data=data)
    ratio = np.divide(scan.data.shape, shape)
    header = scan.header.copy()
    places = {form: getattr(header, f"get_{form}")(coded=True) for form in ("sform", "qform")}
    header.set_data_shape(shape)
    header.set_zooms(nib.affines.voxel_sizes(scan.affine) * ratio)
    for field in ("slice_start", "slice_end", "slice_code", "slice_duration"):  # of slices that are gone
        header[field] = 0
    for form, (place, code) in places.items():
        if code:
            getattr(header, f"set_{form}")(_refined(place, ratio), code)
    return replace(scan, data=data, affine=_refined(scan.affine, ratio), header=header)


def _refined(affine: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """The affine of a grid whose voxels have ``ratio`` times the edges, in the same field of view."""
    to_scan = np.diag([*ratio, 1.0])
    to_scan[:3, 3] = (ratio - 1) / 2
    return affine @ to_scan


def sharpen(
    scan: Volume,
    plan: Plan,
    generator: nn.Module,
    engine: str = "auto",
    memory_gib: float = 4.0,
    skip_air: bool = False,
    dtype: torch.dtype = torch.float32,
    self_ensemble: bool = False,
    uncertainty: bool = False,
    progress: Callable[[Sequence], Iterable] = iter,
) -> tuple[Volume, Volume | None]:
    """Super-resolve a scan as planned by `make_plan`; no voxel leaves the range of the scan's own values.

    Args:
        generator: has learned to restore the last two axes of what it is given. See `_restored`.
        engine, memory_gib, dtype, progress: see `sprl_utils.inference.super_resolve`.
        skip_air: copy the air around the head, with its ringing: faster.
        self_ensemble: the result is the mean over eight mirror images (Lim et al. 2017).
        uncertainty: return how far the results of the mirror images spread.

    Returns:
        The result on its grid in the scan's own units, and the SD over mirror images or None.
    """
    floor = np.float32(min(0, scan.data.min()))  # CT, z-scored MR: air counts as 0, as in a magnitude image
    coarse = scan.data - floor
    scale = np.float32(intensity_scale(coarse, scan.voxel_size))
    coarse = coarse / scale
    fine = np.abs(resample(coarse, plan.shape))
    head = head_with_margin(fine, on_grid(scan, plan.shape, fine).voxel_size) if skip_air else None
    how = {"engine": engine, "memory_gib": memory_gib, "dtype": dtype, "progress": progress}
    network = functools.partial(super_resolve, generator=generator, **how)

    def run(flips: tuple[int, ...]) -> np.ndarray:
        x, mask = (None if a is None else np.flip(a, flips) for a in (fine, head))
        sr = np.flip(_restored(x, mask, plan, network), flips)
        return np.clip(_consistent(sr, coarse, plan), coarse.min(), coarse.max())

    sharper = run(())
    mean, sd = _mirrored(sharper, run) if self_ensemble or uncertainty else (sharper, None)
    result = on_grid(scan, plan.shape, (mean if self_ensemble else sharper) * scale + floor)
    if not uncertainty:
        return result, None
    header = result.header.copy()  # its display window would show an SD as black
    header["cal_min"] = header["cal_max"] = 0
    return result, replace(result, data=sd * scale, header=header)


def _restored(x: np.ndarray, mask: np.ndarray | None, plan: Plan, network: functools.partial) -> np.ndarray:
    """What the network makes of the zero-filled image ``x``, the mean of its runs.

    Thick axes get mirrored margins, because the image does not end with zeros there.
    """
    reach, _ = halo_and_step(network.keywords["generator"])
    images = []
    for order in _orders(plan):
        margins = [reach[order.index(axis)] if axis in plan.thick else 0 for axis in range(3)]
        wide, foreground = (
            None if a is None else np.pad(a, [(m, m) for m in margins], "symmetric") for a in (x, mask)
        )
        sr = network(wide, foreground=foreground, order=order)
        images.append(sr[tuple(slice(m, n - m) for m, n in zip(margins, sr.shape, strict=True))])
    return sum(images) / np.float32(len(images))


def _orders(plan: Plan) -> list[tuple[int, ...]]:
    """Orders of the axes in which the network runs, which restores the last two.

    It runs once per pair of axes that are coarse; where one axis alone is coarse, once with each of the other
    two.
    """
    coarse = set(plan.axes)
    pairs = [p for p in itertools.combinations(range(3), 2) if coarse <= set(p) or set(p) <= coarse]
    return [(*(a for a in range(3) if a not in pair), *pair) for pair in pairs]


def _consistent(sr: np.ndarray, coarse: np.ndarray, plan: Plan) -> np.ndarray:
    """Data consistency: SR with what was measured.

    That is the mean over a slice on the slice axis, the coarse image on other thick axes, and the kept
    k-space on cut ones. So the network only fills in what was not measured, but for what is clipped later.
    Cut axes may have become finer, too; their k-space is then compared on the fine grid.
    """
    cut = [m < n for m, n in zip(plan.measured, plan.grid, strict=True)]
    grid = [fine if c else own for c, fine, own in zip(cut, plan.shape, plan.grid, strict=True)]
    whole_slices = [plan.shape[a] if a == plan.slice_axis else n for a, n in enumerate(grid)]
    coarse, low = np.abs(resample(coarse, grid)), averaged(resample(sr, whole_slices), grid)
    keep = [m if c else None for c, m in zip(cut, plan.measured, strict=True)]
    restored = data_consistency(low, coarse, keep) if any(cut) else coarse
    return sr + resample(spread(restored - low, whole_slices), sr.shape)


def _mirrored(
    first: np.ndarray, run: Callable[[tuple[int, ...]], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and SD over the volume and its seven mirror images (Welford's mean and sum of squares)."""
    mean, squares = first.astype(float), np.zeros(first.shape)
    _, *flips = mirrors(range(3))
    for count, flipped in enumerate(flips, start=2):
        step = run(flipped) - mean
        mean += step / count
        squares += step**2 * (count - 1) / count
    return mean.astype(np.float32), np.sqrt(squares / (len(flips) + 1)).astype(np.float32)
