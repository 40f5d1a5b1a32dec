"""How close SR is to HR: PSNR, 3D SSIM and NRMSE of one subject, and their mean and SD over subjects.

All are computed plane by plane in one pass over both volumes, which takes little memory and stays in the
processor's cache; scikit-image, whose values they are, filters whole volumes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
from joblib import cpu_count

#: Volumes are divided by their intensity scale, so 1 is the bright end of tissue.
DATA_RANGE = 1.0
METRICS = ("psnr", "ssim", "nrmse")
#: Edge of SSIM's uniform window (scikit-image's default), and its half.
WINDOW, REACH = 7, 3
#: What is summed over voxels: their number, squared error, squared reference; local SSIM, and its number.
SUMS = ("voxels", "error", "power", "ssim", "windows")
C1, C2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB for ``DATA_RANGE``, over all voxels or those of ``mask``."""
    return _measure(image, reference, {"": mask}, with_ssim=False)[0]["psnr"]


def nrmse(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Root-mean-square error over the reference's root mean square (scikit-image's "euclidean")."""
    return _measure(image, reference, {"": mask}, with_ssim=False)[0]["nrmse"]


def ssim(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean 3D SSIM (Wang et al. 2004; scikit-image's 7x7x7 uniform window), over all windows or ``mask``.

    As in scikit-image, windows that reach beyond the volume are left out; ``mask`` is asked at their centres.
    """
    return _measure(image, reference, {"": mask})[0]["ssim"]


def evaluate(
    image: np.ndarray, reference: np.ndarray, masks: Mapping[str, np.ndarray | None]
) -> list[dict[str, str | float]]:
    """All metrics of one volume, one row for each region.

    Args:
        image, reference: float32 ``(x, y, z)`` on the reference's intensity scale, 7 voxels an axis or more.
        masks: region name -> bool mask, or None for the whole volume.

    Raises:
        ValueError: two shapes, or a volume smaller than SSIM's window.
    """
    return _measure(image, reference, masks)


def _measure(
    image: np.ndarray, reference: np.ndarray, masks: Mapping[str, np.ndarray | None], with_ssim: bool = True
) -> list[dict[str, str | float]]:
    if image.shape != reference.shape:
        raise ValueError(
            f"metrics: expected two volumes of one shape, found {image.shape} and {reference.shape}"
        )
    if with_ssim and min(image.shape) < WINDOW:
        raise ValueError(f"metrics: SSIM needs {WINDOW} voxels an axis, found shape {image.shape}")
    workers = cpu_count()  # of those that this process may use, as SLURM and containers set them
    edges = np.linspace(0, len(image), workers + 1).astype(int).tolist()
    with ThreadPoolExecutor(workers) as pool:
        parts = list(
            pool.map(
                lambda a, b: _sums(image, reference, masks, range(a, b), with_ssim), edges[:-1], edges[1:]
            )
        )
    rows = []
    for region in masks:
        total = {key: sum(part[region][key] for part in parts) for key in SUMS}
        mse = total["error"] / total["voxels"]
        rows.append(
            {
                "region": region,
                "psnr": float("inf") if mse == 0 else float(10 * np.log10(DATA_RANGE**2 / mse)),
                "ssim": float(total["ssim"] / total["windows"]) if with_ssim else float("nan"),
                "nrmse": float(np.sqrt(total["error"] / total["power"])),
            }
        )
    return rows


def _sums(
    image: np.ndarray,
    reference: np.ndarray,
    masks: Mapping[str, np.ndarray | None],
    planes: range,
    with_ssim: bool,
) -> dict[str, dict[str, float]]:
    """For each region the `SUMS` over ``planes``."""
    sums = {region: dict.fromkeys(SUMS, 0.0) for region in masks}
    for x in planes:
        high = reference[x].astype(np.float64)
        error = np.square(image[x] - high)
        power = np.square(high)
        for region, mask in masks.items():
            inside = ... if mask is None else mask[x]
            sums[region]["error"] += error[inside].sum()
            sums[region]["power"] += power[inside].sum()
            sums[region]["voxels"] += error[inside].size
    for x, local in _local_ssim(image, reference, planes) if with_ssim else ():
        for region, mask in masks.items():
            inside = ... if mask is None else mask[x, REACH:-REACH, REACH:-REACH]
            sums[region]["ssim"] += local[inside].sum(dtype=np.float64)
            sums[region]["windows"] += local[inside].size
    return sums


def _local_ssim(image: np.ndarray, reference: np.ndarray, planes: range) -> Iterator[tuple[int, np.ndarray]]:
    """SSIM of the windows centred in ``planes``: x, and ``(H - 6, W - 6)`` values.

    Window sums along y and z are made for each plane, and along x from the last seven of those.
    """
    first = max(planes.start, REACH) - REACH
    stop = min(planes.stop, len(image) - REACH) + REACH
    single: list[np.ndarray] = []  # plane sums p[i], and p[i] + p[i - 1]
    double: list[np.ndarray] = []
    for x in range(first, stop):
        a, b = np.asarray(image[x], np.float32), np.asarray(reference[x], np.float32)
        plane = _window_sum(_window_sum(np.stack([a, b, a * a, b * b, a * b]), 1), 2)
        single.append(plane)
        double.append(plane + single[-2] if len(single) > 1 else plane)
        if len(single) == WINDOW:
            total = double[-1] + double[-3]
            total += double[-5]
            total += single[-7]
            yield x - REACH, _ssim_of_sums(total)
            del single[0], double[0]


def _window_sum(a: np.ndarray, axis: int) -> np.ndarray:
    """Sums of seven neighbours along ``axis``: two, then four, then seven, with four additions."""
    a = np.moveaxis(a, axis, 0)
    two = a[1:] + a[:-1]
    total = two[2:-3] + two[:-5]  # four
    total += two[4:-1]
    total += a[6:]
    return np.moveaxis(total, 0, axis)


def _ssim_of_sums(total: np.ndarray) -> np.ndarray:
    """Local SSIM ``(H, W)`` from the window sums ``(5, H, W)`` of ``a``, ``b``, ``a^2``, ``b^2``, ``ab``."""
    n = WINDOW**3
    total *= np.float32(1 / n)
    a, b, aa, bb, ab = total
    mean_product, mean_squares = a * b, a * a + b * b
    unbiased = np.float32(n / (n - 1))
    covariance = (ab - mean_product) * unbiased
    variances = (aa + bb - mean_squares) * unbiased
    return ((2 * mean_product + C1) * (2 * covariance + C2)) / ((mean_squares + C1) * (variances + C2))


def summarise(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and SD over subjects (``ddof=1``; empty for a single one) of each metric, and their number."""
    grouped = table.groupby(by, sort=False)
    parts = [grouped.size().rename("subjects")]
    for name in METRICS:
        parts += [grouped[name].mean().rename(f"{name}_mean"), grouped[name].std().rename(f"{name}_sd")]
    return pd.concat(parts, axis=1).reset_index()
