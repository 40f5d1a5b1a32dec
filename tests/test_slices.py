"""Thick slices: means of voxels, what they leave unknown, and patches of them."""

import numpy as np
import pytest
from conftest import make_head, write_prepared
from skimage.transform import downscale_local_mean

from sprl_utils.extras.slices import SlicePatches, averaged, spread


@pytest.mark.parametrize("factors", [(1, 1, 4), (1, 5, 2), (2, 2, 2)])
def test_whole_factors_give_the_means_of_scikit_image(factors):
    volume = np.random.default_rng(0).random((6, 10, 8), dtype=np.float32)
    expected = downscale_local_mean(volume, factors)
    np.testing.assert_allclose(averaged(volume, expected.shape), expected, rtol=1e-5)


def test_slices_of_one_and_a_half_share_the_voxel_between_them():
    row = np.float32([1, 2, 6]).reshape(1, 1, 3)
    assert averaged(row, (1, 1, 2)).ravel() == pytest.approx([(1 + 2 / 2) / 1.5, (2 / 2 + 6) / 1.5])


@pytest.mark.parametrize("shape", [(6, 10, 2), (6, 4, 5), (6, 7, 3)])
def test_what_is_spread_has_the_means_that_were_measured_and_no_more(shape):
    """The pseudo-inverse: its means are right, and it is at right angles to all that has no means."""
    rng = np.random.default_rng(0)
    coarse, other = rng.random(shape, dtype=np.float32), rng.random((6, 10, 8), dtype=np.float32)
    fine = spread(coarse, other.shape)
    np.testing.assert_allclose(averaged(fine, shape), coarse, atol=1e-5)
    unseen = other - spread(averaged(other, shape), other.shape)
    assert abs((fine * unseen).sum()) < 1e-3


def test_of_whole_factors_each_voxel_of_a_slice_gets_its_mean():
    coarse = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    np.testing.assert_allclose(spread(coarse, (3, 4, 20)), np.repeat(coarse, 4, axis=2), atol=1e-5)


def test_patches_of_slices_are_pieces_of_the_head(tmp_path):
    subject = write_prepared(tmp_path, "anna", "train", make_head((60, 52, 56)), keep=(None, None, None))
    patches = SlicePatches([subject], 16, seed=1)
    for i in range(24):
        lr, hr = patches.patch(i)
        assert all(np.array_equal(a, b) for a, b in zip((lr, hr), patches.patch(i), strict=True))
        assert lr.shape == hr.shape == (16, 16, 16)
        assert 0 < np.abs(lr - hr).mean() < 0.3 and abs(lr.mean() - hr.mean()) < 0.05


@pytest.mark.parametrize("wrong", [{"patch_size": [8, 16, 16]}, {"patch_size": 16, "swap": True}])
def test_boxes_and_swaps_are_refused(tmp_path, wrong):
    subject = write_prepared(tmp_path, "anna", "train", make_head((60, 52, 56)), keep=(None, None, None))
    with pytest.raises(ValueError, match="slices need cubes and no swap"):
        SlicePatches([subject], seed=1, **wrong)


def test_the_first_axis_of_a_patch_is_no_slice_axis(tmp_path):
    """An image that changes along one axis alone: where that became D, LR is HR."""
    ramp = np.broadcast_to(np.sin(np.arange(48))[:, None, None] + 1, (48, 48, 48))
    subject = write_prepared(tmp_path, "anna", "train", np.float32(ramp), keep=(None, None, None))
    patches = SlicePatches([subject], 16, seed=1)
    for lr, hr in (patches.patch(i) for i in range(12)):
        if np.ptp(hr, axis=0).max() > 0.1:
            np.testing.assert_allclose(lr, hr, atol=1e-4)
