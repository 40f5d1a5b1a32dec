"""Where k-space of a scan was cut.

Volumes are ``(x, y, z)``.
"""

import numpy as np
from scipy import fft

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
    return tuple(_band_limit(volume, axis) or _power_step(volume, axis) for axis in range(3))


def _power(volume: np.ndarray, axis: int) -> np.ndarray:
    """Mean power at the frequencies 0, 1, ... of one axis."""
    others = tuple(a for a in range(3) if a != axis)
    spectrum = fft.rfft(volume, axis=axis, workers=-1)
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
