"""How close SR is to HR: scikit-image's PSNR, 3D SSIM and NRMSE."""

from collections.abc import Iterator, Mapping

import numpy as np
from skimage.metrics import normalized_root_mse, peak_signal_noise_ratio, structural_similarity

#: Volumes are divided by their intensity scale, on which 1 is twice the median of the brain. Brains end near
#: it; what is brighter (fat, vessels, up to 2) does not raise the peak, or PSNR would depend on the scalp.
DATA_RANGE = 1.0
METRICS = ("psnr", "ssim", "nrmse")
#: Edge of SSIM's uniform window in voxels (scikit-image's default).
WINDOW = 7


def psnr(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB for `DATA_RANGE`, over all voxels or those of ``mask``."""
    image, reference = _inside(image, reference, mask)
    with np.errstate(divide="ignore"):  # of two equal images it is infinite
        return float(peak_signal_noise_ratio(reference, image, data_range=DATA_RANGE))


def nrmse(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Root-mean-square error over the reference's root mean square, over all voxels or those of ``mask``."""
    image, reference = _inside(image, reference, mask)
    return float(normalized_root_mse(reference, image))


def ssim(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None = None) -> float:
    """Mean 3D SSIM (Wang et al. 2004) over all windows of 7x7x7 voxels, or those whose centre is in ``mask``.

    Windows that reach beyond the volume are left out.
    """
    return float(_local_ssim(image, reference)[... if mask is None else _centres(mask)].mean(dtype=float))


def evaluate(
    image: np.ndarray, reference: np.ndarray, masks: Mapping[str, np.ndarray | None]
) -> list[dict[str, str | float]]:
    """All metrics of one volume, one row per region.

    Args:
        image, reference: float32 ``(x, y, z)`` on one intensity scale, at least 7 voxels per axis.
        masks: region name -> bool mask, or None for the whole volume.

    Raises:
        ValueError: two shapes, or a volume smaller than SSIM's window.
    """
    local = _local_ssim(image, reference)
    return [
        {
            "region": region,
            "psnr": psnr(image, reference, mask),
            "ssim": float(local[... if mask is None else _centres(mask)].mean(dtype=float)),
            "nrmse": nrmse(image, reference, mask),
        }
        for region, mask in masks.items()
    ]


def _inside(image: np.ndarray, reference: np.ndarray, mask: np.ndarray | None) -> Iterator[np.ndarray]:
    """Both volumes in double precision, or their voxels in ``mask``."""
    _check(image, reference)
    return (np.asarray(volume[... if mask is None else mask], float) for volume in (image, reference))


def _check(image: np.ndarray, reference: np.ndarray) -> None:
    if image.shape != reference.shape:
        raise ValueError(
            f"metrics: expected two volumes of one shape, found {image.shape} and {reference.shape}"
        )


def _centres(volume: np.ndarray) -> np.ndarray:
    """The voxels around which a whole window fits."""
    reach = WINDOW // 2
    return volume[(slice(reach, -reach),) * volume.ndim]


def _local_ssim(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """SSIM of each window that lies within the volume."""
    _check(image, reference)
    if min(image.shape) < WINDOW:
        raise ValueError(f"metrics: SSIM needs {WINDOW} voxels per axis, found shape {image.shape}")
    image, reference = (np.asarray(volume, np.float32) for volume in (image, reference))
    return _centres(
        structural_similarity(image, reference, data_range=DATA_RANGE, win_size=WINDOW, full=True)[1]
    )
