import numpy as np
import pytest

from sprl_utils.original.lr import original_lr


def test_the_original_recipe_is_its_matlab():
    """Independent double-precision transcription of the published steps, at a fifth of its matrix."""
    rng = np.random.default_rng(0)
    volume = np.round(rng.uniform(0, 4095, (8, 64, 64)))
    k = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume / 4095)))
    zeroed = round(64 / 2.5)
    for axis in (1, 2):
        k = np.moveaxis(k, axis, 0)
        k[:zeroed] = 0
        k[-zeroed:] = 0
        k = np.moveaxis(k, 0, axis)
    image = np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k))))
    expected = np.round(image / image.max() * 4095)
    found = original_lr(volume)
    assert found.dtype == np.int16 and found.max() == 4095
    assert np.abs(found - expected).max() <= 1  # a value half way between two may round either way in float32
    assert (found != expected).mean() < 1e-3


def test_an_empty_volume_and_one_of_two_axes_are_refused():
    with pytest.raises(ValueError, match="positive maximum"):
        original_lr(np.zeros((4, 8, 8)))
    with pytest.raises(ValueError, match=r"three axes, found shape \(4, 4\)"):
        original_lr(np.zeros((4, 4)))
