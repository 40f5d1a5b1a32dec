import numpy as np
import pytest
from conftest import like_a_scan, make_head
from scipy import ndimage

from sprl_utils import kspace
from sprl_utils.original.lr import original_lr


def wave(n: int, cycles: int) -> np.ndarray:
    """A cosine of ``cycles`` periods along the middle axis, above zero so that magnitude leaves it alone."""
    return np.broadcast_to(2 + np.cos(2 * np.pi * cycles * np.arange(n) / n)[None, :, None], (4, n, 5))


@pytest.mark.parametrize("n, keep", [(32, 16), (33, 16), (32, 15), (33, 15)])
def test_waves_inside_the_band_stay_and_those_outside_vanish(n, keep):
    highest = (keep - 1) // 2  # both +f and -f are kept
    for cycles in range(n // 2):
        lr = kspace.truncate_kspace(wave(n, cycles), [None, keep, None])
        if cycles <= highest:
            np.testing.assert_allclose(lr, wave(n, cycles), atol=1e-5)
        elif cycles > keep // 2:
            np.testing.assert_allclose(lr, 2, atol=1e-5)


@pytest.mark.parametrize("n", [8, 9, 16, 17])
@pytest.mark.parametrize("keep", [1, 2, 3, 4, 5, 8])
def test_exactly_the_named_samples_stay(n, keep):
    rng = np.random.default_rng(n)
    volume = rng.uniform(1, 2, (3, n, 4)).astype(np.float32)
    spectrum = np.fft.fftshift(np.fft.fft(volume.astype(np.float64), axis=1), axes=1)
    expected = np.zeros_like(spectrum)
    for i in range(n // 2 - keep // 2, n // 2 - keep // 2 + keep):
        expected[:, i] = spectrum[:, i]
    expected = np.abs(np.fft.ifft(np.fft.ifftshift(expected, axes=1), axis=1))
    np.testing.assert_allclose(kspace.truncate_kspace(volume, [None, keep, None]), expected, atol=1e-5)


def test_keeping_all_returns_the_volume_itself():
    head = make_head()
    for keep in ([None] * 3, list(head.shape), [1.0] * 3):
        np.testing.assert_array_equal(kspace.truncate_kspace(head, keep), head)


def test_a_share_and_a_number_of_samples_agree():
    head = make_head((20, 40, 38))
    np.testing.assert_array_equal(
        kspace.truncate_kspace(head, [None, 0.25, 0.5]), kspace.truncate_kspace(head, [None, 10, 19])
    )


def test_a_constant_keeps_its_value_on_either_grid():
    flat = np.full((6, 10, 9), 3.0, np.float32)
    np.testing.assert_allclose(kspace.truncate_kspace(flat, [2, 3, 4]), 3, rtol=1e-6)
    coarse = kspace.crop_kspace(flat, [2, 3, 4])
    assert coarse.shape == (2, 3, 4)
    np.testing.assert_allclose(coarse, 3, rtol=1e-6)


def test_the_coarse_image_samples_the_zero_filled_one_where_the_grids_meet():
    head = make_head((24, 40, 36))
    keep = [None, 0.25, 0.25]
    zero_filled, coarse = kspace.truncate_kspace(head, keep), kspace.crop_kspace(head, keep)
    np.testing.assert_allclose(coarse, zero_filled[:, ::4, ::4], atol=1e-5)
    for order in (0, 1, 3):
        up = kspace.interpolate(coarse, head.shape, order)
        np.testing.assert_allclose(up[:, ::4, ::4], coarse, atol=1e-4)


@pytest.mark.parametrize("cycles, comes_back", [(0, True), (3, True), (7, True), (9, False), (15, False)])
def test_measured_waves_come_back_and_others_stay_as_the_network_made_them(cycles, comes_back):
    lr = wave(32, 2)
    sr = lr + 0.1 * np.cos(2 * np.pi * cycles * np.arange(32) / 32)[None, :, None]
    np.testing.assert_allclose(
        kspace.restore_measured(sr, lr, [None, 16, None]), lr if comes_back else sr, atol=1e-5
    )


def test_measured_kspace_brings_any_image_nearer_to_hr():
    """Parseval: the error within the band goes, the rest stays."""
    rng = np.random.default_rng(0)
    hr = make_head((20, 40, 38)) + 100  # far from 0: magnitude and clipping change nothing
    keep = [None, 11, 13]  # odd: the band holds -f with each f
    lr = kspace.truncate_kspace(hr, keep)
    sr = hr + rng.normal(size=hr.shape).astype(np.float32)
    band = np.fft.fftshift(np.fft.fftn(sr - hr), axes=(1, 2))
    band[:, 40 // 2 - 5 : 40 // 2 + 6, 38 // 2 - 6 : 38 // 2 + 7] = 0
    outside = (np.abs(band) ** 2).sum() / hr.size
    assert ((kspace.restore_measured(sr, lr, keep) - hr) ** 2).sum() == pytest.approx(outside, rel=1e-3)


def test_measured_kspace_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"one shape, found \(2, 3, 4\), \(2, 3, 5\)"):
        kspace.restore_measured(np.ones((2, 3, 4)), np.ones((2, 3, 5)), [None, 1, 1])


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


def test_the_original_sizes_keep_64_of_320():
    assert kspace.kept_samples((256, 320, 320), [None, 320 - 2 * 128, 0.2]) == (256, 64, 64)
    assert kspace.kept_slice(320, 64) == slice(128, 192)


@pytest.mark.parametrize(
    "keep, expected",
    [
        ([None, 2], "one entry for each of 3 axes"),
        ([0, None, None], "1 to 4 samples"),
        ([None, 9, None], "found 9"),
        ([None, None, 1.5], "found 1.5"),
        ([-1, None, None], "found -1"),
    ],
)
def test_a_bad_keep_is_refused(keep, expected):
    with pytest.raises(ValueError, match=expected):
        kspace.truncate_kspace(np.ones((4, 5, 6)), keep)


def test_a_volume_of_other_than_three_axes_is_refused():
    with pytest.raises(ValueError, match=r"three axes, found shape \(4, 4\)"):
        kspace.truncate_kspace(np.ones((4, 4)), [None, None])
    with pytest.raises(ValueError, match="positive maximum"):
        original_lr(np.zeros((4, 8, 8)))


def test_ringing_keeps_the_sign_that_the_network_knows():
    """Beside a bright bar the cut image rings below 0; its magnitude alone does not show where."""
    hr = np.zeros((4, 64, 5), np.float32)
    hr[:, 24:40] = 1
    keep = [None, 15, None]
    lr = kspace.truncate_kspace(hr, keep)
    np.testing.assert_allclose(
        kspace.restore_measured(hr, lr, keep), hr, atol=1e-5
    )  # HR is consistent with LR
    assert np.abs(lr - hr)[:, :20].max() > 0.05


KEPT = [(None, 0.25, 0.25), (None, 0.5, 0.5), (24, None, None), (48, 40, 20), (None, 21, 43), (25, 39, 23)]


@pytest.mark.parametrize("keep", KEPT)
def test_a_cut_is_found_where_it_was_made_to_the_sample(keep):
    volume = like_a_scan((96, 80, 88))
    expected = kspace.kept_samples(volume.shape, keep)
    assert kspace.find_cut(kspace.truncate_kspace(volume, keep)) == expected


@pytest.mark.parametrize("keep", [(None, 40, 44), (None, 41, 43), (None, 60, None), (None, 61, None)])
def test_a_cut_is_found_in_whole_numbers_and_past_half_of_an_axis(keep):
    volume = like_a_scan((96, 80, 88))
    stored = np.round(kspace.truncate_kspace(1000 * volume / volume.max(), keep))  # as int16
    assert kspace.find_cut(stored) == kspace.kept_samples(volume.shape, keep)


@pytest.mark.parametrize("sigma", [0, 0.6, 2])
def test_no_cut_is_found_in_an_image_that_is_whole_or_blurred(sigma):
    volume = ndimage.gaussian_filter(like_a_scan((96, 80, 88)), sigma)
    assert kspace.find_cut(volume) == volume.shape
    assert kspace.find_cut(volume[:8, :8, :8]) == (8, 8, 8)


@pytest.mark.parametrize("factor", [2, 3, 5, 1.5])
def test_a_wave_between_mirrors_is_the_same_wave_on_a_finer_grid(factor):
    """Closed form: the cosines of the DCT-II have their crests at the edges of the field of view."""
    m, n = 20, round(20 * factor)
    wave = [np.cos(3 * np.pi * (np.arange(k) + 0.5) / k)[None, :, None] + 2 for k in (m, n)]
    coarse, fine = (np.broadcast_to(w, (2, w.shape[1], 3)).astype(np.float32) for w in wave)
    np.testing.assert_allclose(kspace.resample(coarse, fine.shape), fine, atol=1e-5)
    np.testing.assert_allclose(kspace.resample(fine, coarse.shape), coarse, atol=1e-5)


def test_nothing_wraps_around_where_a_grid_becomes_finer():
    """A stack that is bright at one end and dark at the other stays so up to its last plane."""
    stack = np.broadcast_to(np.linspace(10, 110, 12, dtype=np.float32), (4, 5, 12))
    fine = kspace.resample(stack, (4, 5, 48))
    expected = 10 + 100 / 11 * ((np.arange(48) + 0.5) / 4 - 0.5)
    np.testing.assert_allclose(fine[2, 2], expected, atol=4)  # of 100; a periodic one is off by 50
    assert fine.mean() == pytest.approx(stack.mean(), rel=1e-6)


def test_an_image_with_values_below_zero_is_no_magnitude():
    """Air of CT stays dark: the cut of x - 1000 is the cut of x, less 1000."""
    head = 1000 * make_head((16, 40, 36)) + 200  # far enough from 0 for the magnitude to be the real part
    keep = [None, 13, 11]
    expected = kspace.truncate_kspace(head, keep) - 1000
    np.testing.assert_allclose(kspace.truncate_kspace(head - 1000, keep), expected, atol=0.01)
