"""How close SR is to HR: PSNR, 3D SSIM and NRMSE of one subject, and their mean and SD over subjects."""

from __future__ import annotations

import numpy as np
import pandas as pd
from skimage.metrics import structural_similarity

#: Volumes are divided by their intensity scale, so 1 is the bright end of tissue.
DATA_RANGE = 1.0
METRICS = ("psnr", "ssim", "nrmse")


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB for ``DATA_RANGE``, over all voxels or those of ``mask``."""
    error = np.mean(np.square(_difference(image, reference, mask)))
    return float("inf") if error == 0 else float(10 * np.log10(DATA_RANGE**2 / error))


def nrmse(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Root-mean-square error over the reference's root mean square (scikit-image's "euclidean")."""
    error = np.mean(np.square(_difference(image, reference, mask)))
    inside = reference if mask is None else reference[mask]
    return float(np.sqrt(error / np.mean(np.square(inside, dtype=np.float64))))


def ssim_map(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Local 3D SSIM (Wang et al. 2004; scikit-image's 7x7x7 uniform window), one value a voxel."""
    _check(image, reference)
    return structural_similarity(image, reference, data_range=DATA_RANGE, full=True)[1]


def ssim(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean 3D SSIM: scikit-image's over the whole volume, or over the windows centred in ``mask``.

    As scikit-image does, windows that reach beyond the volume are left out.
    """
    return _mean_ssim(ssim_map(image, reference), mask)


def _mean_ssim(local: np.ndarray, mask: np.ndarray | None) -> float:
    inside = (slice(3, -3),) * 3
    values = local[inside] if mask is None else local[inside][mask[inside]]
    return float(values.mean(dtype=np.float64))


def evaluate(image: np.ndarray, reference: np.ndarray, masks: dict[str, np.ndarray | None]) -> list[dict]:
    """All metrics of one volume, one row for each region.

    Args:
        image, reference: float32 ``(x, y, z)`` on the reference's intensity scale.
        masks: region name -> bool mask, or None for the whole volume.
    """
    local = ssim_map(image, reference)
    return [
        {
            "region": region,
            "psnr": psnr(image, reference, mask),
            "ssim": _mean_ssim(local, mask),
            "nrmse": nrmse(image, reference, mask),
        }
        for region, mask in masks.items()
    ]


def summarise(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Mean and SD over subjects (``ddof=1``; empty for a single one) of each metric, and their number."""
    grouped = table.groupby(by, sort=False)
    parts = [grouped.size().rename("subjects")]
    for name in METRICS:
        parts += [grouped[name].mean().rename(f"{name}_mean"), grouped[name].std().rename(f"{name}_sd")]
    return pd.concat(parts, axis=1).reset_index()


def _check(image: np.ndarray, reference: np.ndarray) -> None:
    if image.shape != reference.shape:
        raise ValueError(
            f"metrics: expected two volumes of one shape, found {image.shape} and {reference.shape}"
        )


def _difference(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    _check(image, reference)
    difference = np.subtract(image, reference, dtype=np.float64)
    return difference if mask is None else difference[mask]
