"""Make a low-resolution (LR) image from a high-resolution (HR) one by cutting k-space, and bring it back up.

Volumes are float32 ``(x, y, z)``. A scan of lower resolution measures fewer k-space samples: keeping the
centre of k-space is how the paper and this study make LR from HR.
"""

from collections.abc import Sequence

import numpy as np
from scipy import fft, ndimage

Keep = Sequence[int | float | None]


def truncate_kspace(volume: np.ndarray, keep: Keep) -> np.ndarray:
    """LR on the HR grid: keep the centre of k-space, fill the rest with zeros (the paper's degradation).

    In fftshift order the samples ``n // 2 - keep // 2 ... + keep`` of each axis stay. Intensities keep HR's
    scale. An axis that is kept whole needs no transform.

    Args:
        volume: ``(x, y, z)``, real or complex.
        keep: one entry per axis, as in `kept_samples`.

    Returns:
        Volume of the same shape. Of a magnitude image it is the magnitude, float32. Of a real image with
        values below 0, which is no magnitude image (CT, z-scored MR), it is the real part, float32. Of a
        complex image it is the complex image.

    Raises:
        ValueError: not three axes, or a bad ``keep``.
    """
    volume = np.asarray(volume, dtype=np.complex64 if np.iscomplexobj(volume) else np.float32)
    centre, axes = _centre(volume.shape, keep)
    kspace = fft.fftshift(fft.fftn(volume, axes=axes, workers=-1), axes)
    zero_filled = np.zeros_like(kspace)
    zero_filled[centre] = kspace[centre]
    image = fft.ifftn(fft.ifftshift(zero_filled, axes), axes=axes, workers=-1)
    return _as_its_source(image, volume)


def crop_kspace(volume: np.ndarray, keep: Keep) -> np.ndarray:
    """LR on its own coarse grid: the same k-space samples, not zero-filled, on HR's intensity scale.

    Sample ``j`` of an axis lies at HR index ``j * n / keep``: both grids share their first sample. Arguments,
    kind of image and errors are those of `truncate_kspace`.
    """
    volume = np.asarray(volume, dtype=np.complex64 if np.iscomplexobj(volume) else np.float32)
    centre, axes = _centre(volume.shape, keep)
    cropped = fft.fftshift(fft.fftn(volume, axes=axes, workers=-1), axes)[centre]
    image = fft.ifftn(fft.ifftshift(cropped, axes), axes=axes, workers=-1)
    return _as_its_source(image * (cropped.size / volume.size), volume)


def data_consistency(sr: np.ndarray, lr: np.ndarray, keep: Keep) -> np.ndarray:
    """SR with the k-space samples that were measured restored, as in MR reconstruction.

    A network should change only what was cut. With P the cut to the kept samples: a magnitude image has lost
    the sign of the ringing around bright edges, which P(SR) still knows. So LR takes its phase from there,
    z = LR exp(i arg P(SR)), and the result is SR + Re P(z - P(SR)). Where P(SR) is positive, as in tissue,
    that is SR + P(LR - SR).

    Args:
        sr, lr: real ``(x, y, z)`` on one grid and intensity scale.
        keep: what LR kept, one entry per axis, as in `kept_samples`.

    Returns:
        float32 volume of the same shape, not below 0.

    Raises:
        ValueError: different shapes, not three axes, or a bad ``keep``.
    """
    if sr.shape != lr.shape:
        raise ValueError(f"data consistency: expected SR and LR of one shape, found {sr.shape}, {lr.shape}")
    low = truncate_kspace(sr.astype(np.complex64), keep)
    signed = lr * np.exp(1j * np.angle(low))
    return np.maximum(sr + truncate_kspace(signed - low, keep).real, 0)


def interpolate(coarse: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    """Interpolate a `crop_kspace` image to the HR grid: nearest (order 0), linear (1) or cubic spline (3).

    Beyond the last sample the last value is taken: wrapping around would mix the neck into the crown.
    """
    image = coarse
    for axis, n in enumerate(shape):
        if image.shape[axis] == n:
            continue
        steps = [1.0] * image.ndim
        steps[axis] = image.shape[axis] / n
        size = (*image.shape[:axis], n, *image.shape[axis + 1 :])
        image = ndimage.affine_transform(image, steps, output_shape=size, order=order, mode="nearest")
    return image


def resample(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An image on another grid of the same field of view, its spectrum padded with zeros or cut at the end.

    On each axis that changes the image is extended by its mirror, so that nothing wraps around: a plain
    Fourier transform takes the neck for the neighbour of the crown. The transform of an image and its mirror
    is the cosine transform (DCT-II). Voxel ``i`` of ``n`` lies at index ``(i + 0.5) * m / n - 0.5`` of ``m``.

    Args:
        image: real ``(x, y, z)``, of any sign.
        shape: matrix of the other grid.

    Returns:
        float32 volume of ``shape``; it overshoots beside edges, also below 0.

    Raises:
        ValueError: not three axes, or none to resample to.
    """
    check_three_axes(image.shape)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"k-space: expected a matrix of three axes to resample to, found {tuple(shape)}")
    result = np.array(image, dtype=np.float32)
    for axis, n in enumerate(shape):
        if n != result.shape[axis]:
            spectrum = fft.dct(result, axis=axis, norm="forward", workers=-1)
            result = fft.idct(spectrum, n=n, axis=axis, norm="forward", workers=-1)
    return result


def kept_samples(shape: Sequence[int], keep: Keep) -> tuple[int, ...]:
    """Samples of k-space kept on each axis of ``shape``.

    Args:
        shape: matrix of the volume, three axes.
        keep: one entry per axis: None keeps all, an int that many samples, a float that share of them.

    Raises:
        ValueError: not three axes, not one entry per axis, or one that keeps nothing or more than there is.
    """
    check_three_axes(shape)
    if len(keep) != len(shape):
        raise ValueError(f"k-space: keep needs one entry for each of {len(shape)} axes, found {list(keep)}")
    kept = []
    for n, k in zip(shape, keep, strict=True):
        is_share = isinstance(k, (float, np.floating))
        samples = n if k is None else round(n * k) if is_share else int(k)
        if not 1 <= samples <= n:
            raise ValueError(f"k-space: keep must leave 1 to {n} samples of an axis of {n}, found {k!r}")
        kept.append(samples)
    return tuple(kept)


def check_three_axes(shape: Sequence[int]) -> None:
    """Refuse a volume of another number of axes with a ValueError."""
    if len(shape) != 3:
        raise ValueError(f"k-space: expected a volume of three axes, found shape {tuple(shape)}")


def kept_slice(n: int, keep: int) -> slice:
    """Where the ``keep`` central samples of ``n`` lie in fftshift order (index ``n // 2`` is DC)."""
    start = n // 2 - keep // 2
    return slice(start, start + keep)


def _centre(shape: Sequence[int], keep: Keep) -> tuple[tuple[slice, ...], list[int]]:
    """Where the kept samples lie in fftshift order, and the axes that are cut."""
    kept = kept_samples(shape, keep)
    centre = tuple(kept_slice(n, k) for n, k in zip(shape, kept, strict=True))
    return centre, [axis for axis in range(3) if kept[axis] < shape[axis]]


def _as_its_source(image: np.ndarray, source: np.ndarray) -> np.ndarray:
    """A complex image as the kind of image that it was made from: complex, real with a sign, or magnitude."""
    if np.iscomplexobj(source):
        return image
    return image.real.copy() if source.min() < 0 else np.abs(image)
