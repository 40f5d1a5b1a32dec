"""The original project's low-resolution images, as its MATLAB script makes them."""

from collections.abc import Sequence

import numpy as np

from sprl_utils.kspace import check_three_axes, truncate_kspace


def original_lr(volume: np.ndarray, axes: Sequence[int] = (1, 2)) -> np.ndarray:
    """The original project's MATLAB recipe, defects included: LR scaled by its OWN maximum, as int16.

    Divide by 4095; centred FFT; on each of ``axes`` zero ``round(n / 2.5)`` samples at either end (64 of 320
    stay); inverse FFT; magnitude; divide by its own maximum; times 4095, rounded half away from zero.

    Returns:
        int16 volume of the same shape, values 0..4095.

    Raises:
        ValueError: not three axes, or a volume with nothing in it.
    """
    check_three_axes(volume.shape)
    keep: list[int | None] = [None, None, None]
    for axis in axes:
        n = volume.shape[axis]
        keep[axis] = n - 2 * int(np.floor(n / 2.5 + 0.5))
    image = truncate_kspace(np.asarray(volume, dtype=np.float32) / 4095, keep)
    if not image.max() > 0:
        raise ValueError("original LR recipe: expected a volume with a positive maximum, found none")
    return np.floor(image / image.max() * 4095 + 0.5).astype(np.int16)
