import numpy as np
import pytest
from conftest import make_head
from skimage import metrics as reference

from sprl_utils import metrics


@pytest.fixture
def pair():
    hr = make_head()
    return hr + np.random.default_rng(0).normal(0, 0.05, hr.shape).astype(np.float32), hr


def test_agrees_with_scikit_image_over_the_whole_volume(pair):
    image, hr = pair
    assert metrics.psnr(image, hr) == pytest.approx(
        reference.peak_signal_noise_ratio(hr, image, data_range=1), abs=1e-5
    )
    assert metrics.nrmse(image, hr) == pytest.approx(reference.normalized_root_mse(hr, image), rel=1e-6)
    assert metrics.ssim(image, hr) == pytest.approx(
        reference.structural_similarity(image, hr, data_range=1), abs=1e-6
    )


@pytest.mark.parametrize("shape", [(7, 7, 7), (8, 30, 9), (31, 7, 16)])
def test_any_shape_agrees_with_scikit_image(shape):
    rng = np.random.default_rng(1)
    hr = rng.uniform(size=shape).astype(np.float32)
    image = (hr + rng.normal(0, 0.2, shape)).astype(np.float32)
    expected = reference.structural_similarity(image.astype(float), hr.astype(float), data_range=1)
    assert metrics.ssim(image, hr) == pytest.approx(expected, abs=1e-6)
    inverted = reference.structural_similarity(1 - hr.astype(float), hr.astype(float), data_range=1)
    assert metrics.ssim(1 - hr, hr) == pytest.approx(inverted, abs=1e-6) and inverted < 0


def test_a_volume_below_the_window_has_no_ssim():
    small = np.ones((9, 6, 9), np.float32)
    with pytest.raises(ValueError, match=r"SSIM needs 7 voxels per axis, found shape \(9, 6, 9\)"):
        metrics.ssim(small, small)
    assert metrics.nrmse(small, small) == 0


def test_a_known_error_has_its_known_value():
    hr = np.ones((8, 8, 8), np.float32)
    assert metrics.psnr(hr + 0.1, hr) == pytest.approx(20, abs=1e-4)
    assert metrics.nrmse(hr + 0.1, hr) == pytest.approx(0.1, rel=1e-5)
    assert metrics.psnr(hr, hr) == np.inf and metrics.ssim(hr, hr) == 1


def test_a_mask_looks_only_inside(pair):
    _, hr = pair
    mask = np.zeros(hr.shape, bool)
    mask[12:30, 12:30, 12:26] = True
    spoiled = hr.copy()
    spoiled[:4] += 0.5  # further from the mask than SSIM's window reaches
    assert metrics.psnr(spoiled, hr, mask) == np.inf
    assert metrics.ssim(spoiled, hr, mask) == pytest.approx(1)
    assert metrics.ssim(spoiled, hr) < 1
    everything = np.ones(hr.shape, bool)
    assert metrics.ssim(spoiled, hr, everything) == pytest.approx(metrics.ssim(spoiled, hr))


def test_volumes_of_two_shapes_are_refused():
    for metric in (metrics.psnr, metrics.nrmse, metrics.ssim):
        with pytest.raises(ValueError, match=r"found \(8, 8, 8\) and \(8, 8, 9\)"):
            metric(np.ones((8, 8, 8)), np.ones((8, 8, 9)))
