import numpy as np
import pytest
from conftest import make_head
from scipy import ndimage

from sprl_utils.extras import detail
from sprl_utils.kspace import truncate_kspace

KEEP = [None, 0.5, 0.5]


@pytest.fixture(scope="module")
def hr() -> np.ndarray:
    head = make_head((40, 48, 44)) + 1  # far from 0, where taking the magnitude would bend it
    return head + 0.05 * np.random.default_rng(0).normal(size=head.shape).astype(np.float32)


def test_the_reference_itself_scores_perfectly(hr):
    assert detail.hfen(hr, hr) == 0
    assert detail.gradient_similarity(hr, hr) == pytest.approx(1)
    assert detail.band(hr, hr, KEEP) == pytest.approx({"band_power": 1, "band_correlation": 1}, abs=1e-5)
    np.testing.assert_allclose(detail.shell_correlation(hr, hr)["correlation"], 1, rtol=1e-5)


def test_an_image_without_edges_scores_one_on_hfen(hr):
    assert detail.hfen(np.full_like(hr, 0.3), hr) == pytest.approx(1, abs=1e-5)
    mask = np.zeros(hr.shape, bool)
    mask[10:20, 10:30, 10:30] = True
    changed = np.where(
        ndimage.binary_dilation(mask, np.ones((3, 3, 3)), 8), hr, 0
    )  # beyond the filter's reach
    assert detail.hfen(changed, hr, mask) == 0 < detail.hfen(changed, hr)


def test_gradient_similarity_of_ramps_follows_the_formula():
    ramp = np.arange(12, dtype=np.float32)[:, None, None] * np.ones((1, 12, 12), np.float32)
    inner = np.zeros(ramp.shape, bool)
    inner[2:-2, 2:-2, 2:-2] = True
    a, b, c = 2 * 0.1, 2 * 0.05, detail.GRADIENT_CONSTANT  # a central difference spans two voxels
    found = detail.gradient_similarity(0.1 * ramp, 0.05 * ramp, inner)
    assert found == pytest.approx((2 * a * b + c) / (a * a + b * b + c), rel=1e-5)


def test_lr_holds_nothing_of_the_cut_band_and_invented_noise_does_not_correlate(hr):
    lr = truncate_kspace(hr, KEEP)
    empty = detail.band(lr, hr, KEEP)
    assert empty["band_power"] < 0.02  # an even axis keeps a sample without its mirror: the magnitude bends
    noise = np.random.default_rng(1).normal(size=hr.shape).astype(np.float32)
    lost = hr - lr
    invented = noise - truncate_kspace(noise, KEEP)
    invented *= np.linalg.norm(lost) / np.linalg.norm(invented)
    scores = detail.band(lr + invented, hr, KEEP)
    assert abs(scores["band_correlation"]) < 0.2 and scores["band_power"] > 0.5
    assert np.isnan(detail.band(lr, hr, [None] * 3)["band_power"])


def test_shells_agree_up_to_where_lr_was_cut(hr):
    lr = truncate_kspace(hr, KEEP)
    first = detail.first_cut_frequency(hr.shape, KEEP)
    assert first == 0.25 and detail.first_cut_frequency(hr.shape, [None] * 3) == 0.5
    shells = detail.shell_correlation(lr, hr, shells=20)
    below = shells[shells["frequency"] < first - 0.025]
    assert below["correlation"].min() > 0.95 > 0.8 > shells["correlation"].iloc[-1]


def test_a_classifier_tells_blur_from_noise_and_not_an_image_from_its_like(hr):
    mask = np.ones(hr.shape, bool)
    few = {"edge": 12, "patches": 64, "epochs": 24}
    rng = np.random.default_rng(2)
    clean = make_head((40, 48, 44)) + 1
    again = clean + 0.05 * rng.normal(size=hr.shape).astype(np.float32)  # other noise of the same strength
    assert detail.two_sample_test(clean, hr, mask, **few) > 0.9
    assert detail.two_sample_test(again, hr, mask, **few) == pytest.approx(0.5, abs=0.12)
    with pytest.raises(ValueError, match="patches of 60 voxels on both sides, found none"):
        detail.two_sample_test(clean, hr, mask, edge=60)
