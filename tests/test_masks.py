"""The intensity scale, and the masks of foreground and brain."""

import numpy as np
import pytest
from scipy import ndimage

from sprl_utils.kspace import truncate_kspace
from sprl_utils.masks import _from_grid, head_masks, intensity_scale


@pytest.fixture(scope="module")
def head():
    """Spheres: bright brain to 62 mm, dark skull to 70 mm, bright scalp to 82 mm; voxels of 2.5 mm."""
    x, y, z = np.indices((72, 68, 70)) * 2.5
    radius = np.sqrt((x - 90) ** 2 + (y - 85) ** 2 + (z - 87) ** 2)
    data = np.select([radius < 62, radius < 70, radius < 82], [100, 15, 120], 0).astype(np.float32)
    return radius, np.abs(data + np.random.default_rng(0).normal(0, 3, data.shape)).astype(np.float32)


@pytest.mark.parametrize("keep", [None, 0.5, 0.25, 0.2])
@pytest.mark.parametrize("stripped", [False, True])
def test_the_brain_lies_at_one_half_on_every_head_sharp_or_not(head, stripped, keep):
    radius, data = head
    data = np.where(radius < 62, data, 0) if stripped else data  # the brain is 100
    assert intensity_scale(truncate_kspace(data, [None, keep, keep]), (2.5,) * 3) == pytest.approx(
        200, rel=0.03
    )


def test_the_intensity_scale_of_what_is_no_head():
    block = np.zeros((40, 40, 40), np.float32)
    block[10:30, 10:30, 10:30] = 7
    assert intensity_scale(block) == pytest.approx(14, rel=0.1)
    assert intensity_scale(np.full((9, 8, 7), 3.0)) == pytest.approx(6)  # a crop without air
    shell = np.where(np.linalg.norm(np.indices((60,) * 3) - 30, axis=0) // 5 == 4, 7.0, 0)
    assert intensity_scale(shell) > 0
    with pytest.raises(ValueError, match="expected voxels above 0, found none"):
        intensity_scale(-np.ones((5, 5, 5)))


def test_foreground_is_the_head(head):
    radius, data = head
    mask, _ = head_masks(data, (2.5,) * 3)
    assert mask.shape == data.shape and mask.dtype == bool
    assert mask[radius < 79].all() and not mask[radius > 85].any()


def test_brain_is_within_the_skull(head):
    radius, data = head
    _, mask = head_masks(data, (2.5,) * 3)
    assert mask.shape == data.shape and mask.dtype == bool
    assert mask[radius < 59].all() and not mask[radius > 66].any()


@pytest.mark.parametrize("shape", [(31, 20, 25), (9, 41, 1), (10, 11, 12)])
def test_a_mask_is_brought_to_a_grid_as_scipy_does(shape):
    mask = np.random.default_rng(0).uniform(size=(10, 11, 12)) > 0.5
    factors = [n / m for n, m in zip(shape, mask.shape, strict=True)]
    expected = ndimage.zoom(mask.astype(float), factors, order=1)
    sure = np.abs(expected - 0.5) > 1e-6  # where rounding cannot decide
    np.testing.assert_array_equal(_from_grid(mask, shape)[sure], expected[sure] > 0.5)


def test_brain_mask_says_when_there_is_no_scalp(head):
    radius, data = head
    stripped = np.where(radius < 62, data, 0)
    with pytest.warns(UserWarning, match="found no brain within a scalp, taking the whole foreground"):
        _, mask = head_masks(stripped, (2.5,) * 3)
    assert mask[radius < 59].all() and not mask[radius > 66].any()


def test_masks_take_a_crop_without_air():
    crop = 50 + ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 33, 21)), 2) * 100
    with pytest.warns(UserWarning, match="found no brain"):
        assert head_masks(crop)[1].mean() > 0.9
