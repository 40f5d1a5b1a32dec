import numpy as np
import pytest
from conftest import like_a_scan
from scipy import ndimage

from sprl_utils.kspace import kept_samples, resample, truncate_kspace
from sprl_utils.scans.cuts import find_cut

KEPT = [(None, 0.25, 0.25), (None, 0.5, 0.5), (24, None, None), (48, 40, 20), (None, 21, 43), (25, 39, 23)]


@pytest.mark.parametrize("keep", KEPT)
def test_a_cut_is_found_where_it_was_made_to_the_sample(keep):
    volume = like_a_scan((96, 80, 88))
    expected = kept_samples(volume.shape, keep)
    assert find_cut(truncate_kspace(volume, keep)) == expected


@pytest.mark.parametrize("keep", [(None, 40, 44), (None, 41, 43), (None, 60, None), (None, 61, None)])
def test_a_cut_is_found_in_whole_numbers_and_past_half_of_an_axis(keep):
    volume = like_a_scan((96, 80, 88))
    stored = np.round(truncate_kspace(1000 * volume / volume.max(), keep))  # as int16
    assert find_cut(stored) == kept_samples(volume.shape, keep)


@pytest.mark.parametrize("sigma", [0, 0.6, 2])
def test_no_cut_is_found_in_an_image_that_is_whole_or_blurred(sigma):
    volume = ndimage.gaussian_filter(like_a_scan((96, 80, 88)), sigma)
    assert find_cut(volume) == volume.shape
    assert find_cut(volume[:8, :8, :8]) == (8, 8, 8)


@pytest.mark.parametrize("factor", [2, 3, 5, 1.5])
def test_a_wave_between_mirrors_is_the_same_wave_on_a_finer_grid(factor):
    """Closed form: the cosines of the DCT-II have their crests at the edges of the field of view."""
    m, n = 20, round(20 * factor)
    wave = [np.cos(3 * np.pi * (np.arange(k) + 0.5) / k)[None, :, None] + 2 for k in (m, n)]
    coarse, fine = (np.broadcast_to(w, (2, w.shape[1], 3)).astype(np.float32) for w in wave)
    np.testing.assert_allclose(resample(coarse, fine.shape), fine, atol=1e-5)
    np.testing.assert_allclose(resample(fine, coarse.shape), coarse, atol=1e-5)


def test_nothing_wraps_around_where_a_grid_becomes_finer():
    """A stack that is bright at one end and dark at the other stays so up to its last plane."""
    stack = np.broadcast_to(np.linspace(10, 110, 12, dtype=np.float32), (4, 5, 12))
    fine = resample(stack, (4, 5, 48))
    expected = 10 + 100 / 11 * ((np.arange(48) + 0.5) / 4 - 0.5)
    np.testing.assert_allclose(fine[2, 2], expected, atol=4)  # of 100; a periodic one is off by 50
    assert fine.mean() == pytest.approx(stack.mean(), rel=1e-6)
