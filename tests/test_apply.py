"""A generator on a scan: zero-filling to the fine grid, orientation, air, mirror images."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from sprl_utils.apply import _sharpen_data, factors_for, to_fine_grid
from sprl_utils.kspace import crop_kspace, truncate_kspace, zero_fill
from sprl_utils.networks import Generator
from sprl_utils.volumes import Volume


def volume_of(data):
    return Volume(data, np.eye(4), nib.Nifti1Header())


def blob(shape=(12, 10, 14), centre=(5, 4, 6), width=1.5):
    """A smooth point source: its centre of mass is its place."""
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return np.exp(-(grid**2).sum(0) / (2 * width**2)).astype(np.float32)


def test_zero_filling_undoes_nothing_but_the_cut():
    volume = ndimage.gaussian_filter(np.random.default_rng(0).random((8, 12, 16), dtype=np.float32), 1)
    keep = [None, 5, 7]  # odd: of an even number one sample has no partner, and its phase is lost
    coarse = crop_kspace(volume, keep)
    np.testing.assert_allclose(zero_fill(coarse, volume.shape), truncate_kspace(volume, keep), atol=1e-5)
    np.testing.assert_allclose(zero_fill(volume, volume.shape), volume)
    with pytest.raises(ValueError, match="at least as long"):
        zero_fill(volume, (8, 12, 15))


def test_rounding_in_an_affine_enlarges_nothing():
    turned = nib.affines.from_matvec(
        np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 4]]) * (1 + 2e-8), [1, 2, 3]
    )
    scan = Volume(blob(), turned, nib.Nifti1Header())
    assert scan.voxel_size != (1, 1, 4)
    assert factors_for(scan, (1, 1, 1)) == (1, 1, 4)


def test_air_is_computed_unless_it_is_to_be_copied():
    """A network that halves all: what was copied is as bright as before."""
    generator = Generator(init="identity").eval()
    generator.conv0.weight.data *= 0.5
    scan = volume_of(blob((40, 40, 40), (20, 20, 20), 4) + np.float32(0.02))
    for options, in_air in (({}, 0.5), ({"skip_air": True}, 1)):
        share = _sharpen_data(scan, generator, **options)[0] / scan.data
        assert share[20, 20, 20] == pytest.approx(0.5) and share[0, 0, 0] == pytest.approx(in_air)


def test_coarse_axes_are_turned_to_where_the_network_learned_them():
    generator = Generator(init="identity").eval()
    generator.conv0.weight.data[0, 0, 1, 1, :] = 1 / 3  # blurs the last axis alone
    data = np.random.default_rng(0).random((9, 10, 11), dtype=np.float32)
    scan = to_fine_grid(volume_of(data), (1, 1, 1))
    for axes, blurred in (((1, 2), 2), ((0, 2), 2), ((0, 1), 1)):
        sharper, _ = _sharpen_data(scan, generator, axes)
        expected = ndimage.uniform_filter1d(data, 3, axis=blurred, mode="constant")
        np.testing.assert_allclose(sharper, expected, atol=1e-5)


def test_a_network_that_is_the_same_in_the_mirror_has_no_spread():
    generator = Generator(init="identity").eval()
    scan = volume_of(blob())
    assert _sharpen_data(scan, generator, uncertainty=True)[1].max() < 1e-6
    generator.conv0.weight.data[0, 0, 1, 1, :] = generator.conv0.weight.data[0, 0, 1, 1, :].roll(1)
    sharper, spread = _sharpen_data(scan, generator, uncertainty=True)
    # A shift by one voxel, forwards in half of the mirror images, backwards in the others.
    behind, ahead = np.roll(sharper, 2, axis=2), sharper
    inner = (slice(None), slice(None), slice(2, -2))
    np.testing.assert_allclose(spread[inner], (np.abs(ahead - behind) / 2)[inner], atol=1e-5)
