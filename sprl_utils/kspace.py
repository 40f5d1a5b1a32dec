"""Make a low-resolution (LR) image from a high-resolution (HR) one by cutting k-space, and bring it back up.

Volumes are float32 ``(x, y, z)``. A scan of lower resolution measures fewer k-space samples: keeping the
centre of k-space is how the paper and this study make LR from HR.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from joblib import cpu_count
from scipy import fft, ndimage

Keep = Sequence[int | float | None]
#: A step of power in k-space that counts as a cut in `find_cut`. On the demo's heads LR has steps of 2.3 (one
#: axis of one head) to 170 and HR of 1.3 at most; blurred and interpolated heads have up to 2.5, and cubic
#: interpolation has more near the end of the axis.
CUT_STEP, LARGEST_CUT = 2.5, 0.9
#: The step at the band limit of a squared magnitude image: at least 5e5 on ten real heads, at most 2 where
#: nothing was cut.
BAND_STEP = 1e3
#: The outermost of an even number of samples has no partner, and a quarter of its neighbours' power. What
#: leaks beyond the cut subtracted, it has at most 0.42 of it on ten heads; of an odd number, at least 0.52.
UNPAIRED = 0.47
#: Planes that are transformed together.
SLAB = 4


def kept_samples(shape: Sequence[int], keep: Keep) -> tuple[int, ...]:
    """Samples of k-space kept on each axis of ``shape``.

    Args:
        shape: matrix of the volume.
        keep: one entry an axis: None keeps all, an int that many samples, a float that share of them.

    Raises:
        ValueError: not one entry an axis, or one that keeps nothing or more than there is.
    """
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


def kept_slice(n: int, keep: int) -> slice:
    """Where the ``keep`` central samples of ``n`` stand in fftshift order (index ``n // 2`` is DC)."""
    start = n // 2 - keep // 2
    return slice(start, start + keep)


def _check_volume(volume: np.ndarray) -> None:
    if volume.ndim != 3:
        raise ValueError(f"k-space: expected a volume of three axes, found shape {volume.shape}")


def _kept_frequencies(n: int, keep: int) -> np.ndarray:
    """The kept samples of an axis as frequencies, in the order of an FFT: 0, 1, ... -1."""
    kept = kept_slice(n, keep)
    return fft.ifftshift(np.arange(kept.start, kept.stop) - n // 2)


def _cut_slab(slab: np.ndarray, kept: dict[int, int], zero_fill: bool) -> np.ndarray:
    """Cut k-space of a slab along the axes of ``kept`` (axis -> samples); the image comes back complex.

    What is cut is left out of each transform after the one that shows it. Of a real image's spectrum one half
    is computed: the other is its conjugate.
    """
    frequencies = {axis: _kept_frequencies(slab.shape[axis], k) for axis, k in kept.items()}
    image = slab
    for axis, f in reversed(frequencies.items()):
        shape = [-1 if a == axis else 1 for a in range(3)]
        if np.isrealobj(image):
            image = np.take(fft.rfft(image, axis=axis), np.abs(f), axis=axis)
            np.conj(image, out=image, where=(f < 0).reshape(shape))
        else:
            image = np.take(fft.fft(image, axis=axis), f, axis=axis, mode="wrap")
    for axis, f in frequencies.items():
        if zero_fill:
            n = slab.shape[axis]
            full = np.zeros([n if a == axis else m for a, m in enumerate(image.shape)], image.dtype)
            full[tuple(f % n if a == axis else slice(None) for a in range(3))] = image
            image = fft.ifft(full, axis=axis, overwrite_x=True)
        else:
            image = fft.ifft(image, axis=axis) * np.float32(len(f) / slab.shape[axis])
    return image


def _cut(volume: np.ndarray, keep: Keep, zero_fill: bool, part: Callable = np.abs) -> np.ndarray:
    """``part`` of the cut image, which is complex: magnitude, real part, or ``np.asarray`` for all of it."""
    _check_volume(volume)
    image = np.asarray(volume, dtype=np.complex64 if np.iscomplexobj(volume) else np.float32)
    kept = {a: k for a, k in enumerate(kept_samples(image.shape, keep)) if k < image.shape[a]}
    if not kept:
        return image.copy()
    along = next((axis for axis in range(3) if axis not in kept), None)
    if along is None:
        return np.ascontiguousarray(part(_cut_slab(image, kept, zero_fill)))
    # Axes that are not cut need no transform: slabs along one of them fit the cache, and threads share them.
    shape = [n if zero_fill else kept.get(a, n) for a, n in enumerate(image.shape)]
    result = np.empty(shape, np.complex64 if part is np.asarray else np.float32)

    def cut(start: int) -> None:
        slab = tuple(slice(start, start + SLAB) if a == along else slice(None) for a in range(3))
        result[slab] = part(_cut_slab(image[slab], kept, zero_fill))

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(cut, range(0, image.shape[along], SLAB)))
    return result


def truncate_kspace(volume: np.ndarray, keep: Keep) -> np.ndarray:
    """LR on the HR grid: cut the outer k-space, zero-fill, magnitude (the paper's degradation).

    In fftshift order the samples ``n // 2 - keep // 2 ... + keep`` of each axis stay. Intensities keep HR's
    scale.

    Args:
        volume: real ``(x, y, z)``. Where it has values below 0 it is no magnitude image (CT, z-scored MR),
            and the real part is taken instead of the magnitude.
        keep: one entry per axis, as in `kept_samples`.

    Returns:
        float32 volume of the same shape.

    Raises:
        ValueError: not three axes, or a bad ``keep``.
    """
    return _cut(volume, keep, zero_fill=True, part=_image_part(volume))


def _image_part(volume: np.ndarray) -> Callable:
    """What a real image of this kind is of a complex one: its magnitude, or its real part."""
    return np.abs if np.iscomplexobj(volume) or np.min(volume) >= 0 else np.real


def crop_kspace(volume: np.ndarray, keep: Keep) -> np.ndarray:
    """LR on its own coarse grid: the same k-space samples, not zero-filled, on HR's intensity scale.

    Sample ``j`` of an axis lies at HR index ``j * n / keep``: both grids share their first sample.
    """
    return _cut(volume, keep, zero_fill=False, part=_image_part(volume))


def restore_measured(sr: np.ndarray, lr: np.ndarray, keep: Keep) -> np.ndarray:
    """SR with the k-space samples that were measured put back: data consistency, as in MR reconstruction.

    A network should change only what was cut. With P the cut to the kept samples: a magnitude image has lost
    the sign of the ringing around bright edges, which P(SR) still knows. So LR takes its phase from there,
    z = LR exp(i arg P(SR)), and the result is SR + Re P(z - P(SR)). Where P(SR) is positive, as in tissue,
    that is SR + P(LR - SR).

    Args:
        sr, lr: real ``(x, y, z)`` on one grid and intensity scale.
        keep: what LR kept, one entry an axis, as in `kept_samples`.

    Returns:
        float32 volume of the same shape, not below 0.

    Raises:
        ValueError: different shapes, not three axes, or a bad ``keep``.
    """
    if sr.shape != lr.shape:
        raise ValueError(f"measured k-space: expected SR and LR of one shape, found {sr.shape}, {lr.shape}")
    low = _cut(sr, keep, zero_fill=True, part=np.asarray)
    signed = lr * np.exp(1j * np.angle(low))
    return np.maximum(sr + _cut(signed - low, keep, zero_fill=True, part=np.asarray).real, 0)


def find_cut(volume: np.ndarray) -> tuple[int, ...]:
    """Samples of k-space that a zero-filled volume was made from, per axis; the whole axis if no cut is seen.

    The square of a magnitude image whose k-space holds ``k`` samples per axis is band-limited: its spectrum
    ends after ``k - 1``. Where nothing but rounding to float has happened since, that end is exact, for up to
    half of an axis. Otherwise the cut is a step of power: in an image that was not cut, power falls smoothly
    with frequency. Noise that is added later may hide a cut.

    Args:
        volume: real ``(x, y, z)``.

    Returns:
        One entry per axis.
    """
    _check_volume(volume)
    return tuple(_band_limit(volume, axis) or _power_step(volume, axis) for axis in range(3))


def _power(volume: np.ndarray, axis: int) -> np.ndarray:
    """Mean power at the frequencies 0, 1, ... of one axis."""
    others = tuple(a for a in range(3) if a != axis)
    spectrum = fft.rfft(volume, axis=axis, workers=cpu_count())
    return np.square(np.abs(spectrum)).mean(axis=others, dtype=float)


def _band_limit(volume: np.ndarray, axis: int) -> int | None:
    """Samples kept on an axis by the end of the squared image's spectrum, or None where it has no end."""
    power = _power(np.square(volume, dtype=np.float32), axis)
    within = np.minimum.accumulate(power)[:-1]  # the least of any frequency up to here
    beyond = np.maximum.accumulate(power[:0:-1])[::-1]  # the most of any after it
    steps = within / (beyond + 1e-30)
    steps[: max(2, volume.shape[axis] // 32)] = 0  # nobody measures as little
    last = int(steps.argmax())
    return last + 1 if steps[last] > BAND_STEP else None


def _power_step(volume: np.ndarray, axis: int) -> int:
    """Samples kept on an axis by the step of power at their end; all of them where there is no step.

    Each plane of k-space within a thirty-second of the axis before the cut holds `CUT_STEP` times the power
    of any as far behind it, and no such slope leads there.
    """
    n, power = volume.shape[axis], _power(volume, axis)
    width = max(2, n // 32)
    edges = np.arange(width + 1, int(LARGEST_CUT * n / 2))
    steps = np.array([power[e - width : e].min() / (power[e : e + width].max() + 1e-30) for e in edges])
    best = int(steps.argmax()) if len(steps) else 0
    if best <= width:  # too short an axis, or a step without a slope before it to compare it with
        return n
    usual = max(1.0, np.median(steps[: best - width]))
    if steps[best] <= CUT_STEP * usual:
        return n
    last = edges[best] - 1
    unpaired = power[last] - power[last + 1] < UNPAIRED * (power[last - 1] - power[last + 1])
    return int(2 * last + (0 if unpaired else 1))


def resample(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """An image on another grid of the same field of view, its k-space padded with zeros or cut at the end.

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
    _check_volume(image)
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"k-space: expected a matrix of three axes to resample to, found {tuple(shape)}")
    result = np.array(image, dtype=np.float32)
    for axis, n in enumerate(shape):
        if n != result.shape[axis]:
            spectrum = fft.dct(result, axis=axis, norm="forward", workers=cpu_count())
            result = fft.idct(spectrum, n=n, axis=axis, norm="forward", workers=cpu_count())
    return result


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


def spectrum(volume: np.ndarray) -> np.ndarray:
    """Log magnitude of the centred 3D spectrum, for looking at: ``log10(1 + |F|)``, DC in the middle."""
    return np.log10(1 + np.abs(fft.fftshift(fft.fftn(volume, workers=-1)))).astype(np.float32)
