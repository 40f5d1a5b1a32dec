"""A generator on a scan: what is coarse, where the result lies, what stays as it was, what is refused."""

import itertools
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from conftest import like_a_scan, make_head
from scipy import ndimage
from skimage.metrics import structural_similarity
from skimage.transform import downscale_local_mean

from sprl_utils.extras.slices import averaged
from sprl_utils.kspace import resample, truncate_kspace
from sprl_utils.networks import Generator, make_generator
from sprl_utils.scans import apply
from sprl_utils.scans.apply import make_plan, sharpen
from sprl_utils.volumes import Volume, read_volume, write_volume

TURNED = np.array([[0, 0, 1], [-0.8, 0.6, 0], [0.6, 0.8, 0]])
OBLIQUE = nib.affines.from_matvec(TURNED * [0.9, 0.8, 1.2], [-40, 30, -20])


def volume_of(data, affine=None, header=None):
    return Volume(np.float32(data), np.eye(4) if affine is None else affine, header or nib.Nifti1Header())


def blob(shape=(12, 10, 14), centre=(5, 4, 6), width=1.5):
    """A smooth point source: its centre of mass is its place."""
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return np.exp(-(grid**2).sum(0) / (2 * width**2)).astype(np.float32)


def identity(init="identity"):
    """A generator that sees 2 voxels to each side."""
    return Generator(growth_rate=4, blocks=1, units=1, init=init).eval()


def halving():
    generator = identity()
    generator.conv0.weight.data *= 0.5
    return generator


def upsampled(scan, generator=None, **asked):
    return sharpen(scan, make_plan(scan, **asked), generator or identity())[0]


def centre(image):
    """Centre of mass in voxels."""
    return ndimage.center_of_mass(np.square(image, dtype=float))


@pytest.mark.parametrize("factors", [(1, 2, 2), (1, 1, 4), (1.5, 1, 2), (2, 2, 2), (3, 1, 1)])
@pytest.mark.parametrize("codes", [(1, 1), (4, 1), (2, 0), (0, 1)])
def test_a_point_stays_where_it_is_in_the_room(tmp_path, factors, codes):
    """In nibabel's coordinates and in ITK's, which ANTs and Slicer use."""
    image = nib.Nifti1Image(blob(), OBLIQUE if codes[0] else None)
    image.set_sform(OBLIQUE, codes[0])
    image.set_qform(np.diag([0.9, -0.8, 1.2, 1.0]) if codes[0] != codes[1] else OBLIQUE, codes[1])
    image.header["pixdim"][1:4] = nib.affines.voxel_sizes(OBLIQUE)
    nib.save(image, tmp_path / "scan.nii")
    scan = read_volume(tmp_path / "scan.nii")
    write_volume(tmp_path / "sr.nii", (sr := upsampled(scan, upsample=factors)).data, sr)
    places, itk = [], []
    for name in ("scan", "sr"):
        file = nib.load(tmp_path / f"{name}.nii")
        where = centre(file.get_fdata())
        places.append(nib.affines.apply_affine(file.affine, where))
        itk.append(
            sitk.ReadImage(str(tmp_path / f"{name}.nii")).TransformContinuousIndexToPhysicalPoint(where)
        )
    np.testing.assert_allclose(places[1], places[0], atol=0.02)  # mm; half a voxel would be 0.2 or more
    np.testing.assert_allclose(itk[1], itk[0], atol=0.02)
    written = nib.load(tmp_path / "sr.nii").header
    assert tuple(int(written[f"{form}form_code"]) for form in "sq") == codes


def test_a_scan_without_a_place_gets_none(tmp_path):
    header = nib.Nifti1Header()
    header.set_data_shape((12, 10, 14))
    header.set_zooms((1, 1, 2))
    scan = volume_of(blob(), header.get_base_affine(), header)
    sr = upsampled(scan, upsample=(1, 1, 2))
    write_volume(tmp_path / "sr.nii", sr.data, sr)
    written = nib.load(tmp_path / "sr.nii")
    assert (written.header["sform_code"], written.header["qform_code"]) == (0, 0)
    np.testing.assert_allclose(written.header.get_zooms(), (1, 1, 1))
    for image, volume in ((scan.data, scan), (sr.data, written)):
        np.testing.assert_allclose(
            nib.affines.apply_affine(volume.affine, centre(image)),
            nib.affines.apply_affine(scan.affine, centre(scan.data)),
            atol=0.02,
        )


def test_the_field_of_view_stays():
    scan = volume_of(blob(), np.diag([1.0, 2.0, 4.0, 1.0]))
    sr = upsampled(scan, voxel_size=(1, 1, 1))
    assert sr.data.shape == (12, 20, 56)
    corners = [
        nib.affines.apply_affine(v.affine, [[-0.5] * 3, np.array(v.data.shape) - 0.5]) for v in (scan, sr)
    ]
    np.testing.assert_allclose(corners[1], corners[0], atol=1e-6)


def test_rounding_in_an_affine_enlarges_nothing():
    turned = nib.affines.from_matvec(
        np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 4]]) * (1 + 2e-8), [1, 2, 3]
    )
    scan = volume_of(blob(), turned)
    assert scan.voxel_size != (1, 1, 4)
    assert make_plan(scan, voxel_size=(1, 1, 1)).factors == (1, 1, 4)


def test_the_last_fine_slices_are_those_of_the_last_coarse_one():
    """A neck in the first slice, air above the crown: the crown does not show the neck."""
    stack = np.zeros((20, 22, 24), np.float32)
    stack[5:15, 5:15, :18] = 500
    fine = upsampled(volume_of(stack, np.diag([1, 1, 5.0, 1])), voxel_size=(1, 1, 1)).data
    assert np.abs(fine[10, 10, -10:]).max() < 25 and fine[10, 10, :10] == pytest.approx(500, abs=25)


@pytest.mark.parametrize("factors", [(1, 2, 3), (2, 2, 2), (1, 1, 4), (1, 1.5, 1)])
def test_what_was_measured_stays(factors):
    """A network that halves all: the coarse image comes back out of the result."""
    scan = volume_of(1000 * blob((16, 20, 24), (8, 10, 12), 3))
    fine = upsampled(scan, halving(), upsample=factors).data
    np.testing.assert_allclose(resample(fine, scan.data.shape), scan.data, atol=10)  # half would be 500 off


@pytest.mark.parametrize(("acquisition", "coarsen"), [("3D", resample), ("2D", averaged)])
def test_what_was_measured_stays_where_one_axis_is_cut_and_another_thick(acquisition, coarsen):
    hr = like_a_scan((24, 40, 36))
    lr = truncate_kspace(hr, [None, 21, None])
    scan = volume_of(lr, np.diag([1, 1, 2.0, 1]))
    plan = make_plan(scan, voxel_size=(1, 1, 1), acquisition=acquisition)
    assert plan.measured == (24, 21, 36) and plan.shape == (24, 40, 72) and plan.axes == (1, 2)
    sr = sharpen(scan, plan, halving())[0].data
    measured = truncate_kspace(np.maximum(coarsen(sr, lr.shape), 0), [None, 21, None])
    assert np.std(measured - lr) < 0.02 * np.std(lr)


@pytest.mark.parametrize("thickness", [3, 3.5, 5])
def test_the_means_of_the_result_are_the_slices_that_were_measured(thickness):
    """A network that halves all; nothing is clipped at the scan's range where it is far from the ends."""
    scan = volume_of(1000 + 100 * blob((16, 20, 12), (8, 10, 6), 3), np.diag([1, 1, thickness, 1]))
    plan = make_plan(scan, voxel_size=(1, 1, 1))
    assert plan.slice_axis == 2
    sr = sharpen(scan, plan, halving())[0].data
    inside = scan.data > 1010
    np.testing.assert_allclose(averaged(sr, scan.data.shape)[inside], scan.data[inside], atol=1)


@pytest.mark.parametrize(
    ("edges", "acquisition", "axis"),
    [
        ((1, 1, 5), None, 2), ((4, 1, 1), None, 0), ((1, 1.3, 3.89), None, 2), ((2, 2, 2), None, None),
        ((1, 1, 2), None, None), ((1, 2, 4), None, None), ((1, 1, 5), "3D", None), ((1, 1, 1.8), "2D", 2),
        ((1, 2, 4), "2D", 2), ((0.4, 0.4, 1.2), None, None), ((3, 3, 2), "2D", 1), ((1, 1, 5), "UNKNOWN", 2),
    ],
)  # fmt: skip
def test_one_long_edge_means_slices_unless_the_scanner_says_otherwise(edges, acquisition, axis):
    plan = make_plan(volume_of(blob(), np.diag([*edges, 1.0])), (1, 1, 1), acquisition=acquisition)
    assert plan.slice_axis == axis


def test_voxels_that_the_scanner_interpolated_in_plane_make_no_slices():
    """0.5 x 0.5 x 1 mm, of which 1 x 1 x 1 mm were measured, as of a 3D scan of 512 x 512."""
    scan = volume_of(truncate_kspace(like_a_scan((48, 56, 20)), [24, 28, None]), np.diag([0.5, 0.5, 1, 1]))
    plan = make_plan(scan, voxel_size=(0.5, 0.5, 0.5))
    assert plan.measured == (24, 28, 20) and plan.slice_axis is None


@pytest.mark.parametrize("turn", list(itertools.permutations(range(3))))
def test_of_edges_of_one_length_the_last_axis_holds_the_slices(turn):
    affine = nib.affines.from_matvec((TURNED * 2)[:, turn])
    assert make_plan(volume_of(blob(), affine), (1, 1, 1), acquisition="2D").slice_axis == 2


def test_slices_that_the_scanner_interpolated_are_no_means_any_more():
    lr = truncate_kspace(like_a_scan((48, 40, 24)), [None, None, 12])
    plan = make_plan(volume_of(lr, np.diag([1, 1, 2.0, 1])), (1, 1, 1), acquisition="2D")
    assert plan.measured == (48, 40, 12) and plan.slice_axis is None


def test_a_scan_keeps_its_scale_and_its_floor():
    """Hounsfield units and z-scores: another zero and another unit, and the same image."""
    scan = make_head((20, 22, 18))
    generator = identity("edges")
    plain = upsampled(volume_of(scan), generator, upsample=(1, 2, 2)).data
    for unit, zero in ((1000, -1024), (3.5, -0.7)):
        other = upsampled(volume_of(unit * scan + zero), generator, upsample=(1, 2, 2)).data
        np.testing.assert_allclose((other - zero) / unit, plain, atol=1e-3)


def test_no_voxel_leaves_the_range_of_the_scan():
    box = np.zeros((16, 16, 16), np.float32)
    box[4:12, 4:12, 4:12] = 100  # its zero-filled edges ring by 9 % to both sides
    for low in (0, 50):
        sr = upsampled(volume_of(box + low), upsample=(2, 2, 2)).data
        assert low <= sr.min() and sr.max() <= 100 + low


@pytest.mark.parametrize("factors", [(1, 1, 4), (1, 2, 2), (2, 2, 2)])
def test_zero_filling_is_as_near_to_the_truth_as_a_cubic_spline(factors):
    """The network's start, on slices and cubes averaged from a smooth image."""
    truth = like_a_scan((32, 32, 32))
    truth = ndimage.gaussian_filter(truth, 1) / truth.max()
    thick = downscale_local_mean(truth, factors)
    ours = upsampled(volume_of(thick), upsample=factors).data
    spline = ndimage.zoom(thick, factors, order=3, mode="nearest", grid_mode=True)
    errors = [np.square(image - truth).mean() for image in (ours, spline)]
    likeness = [structural_similarity(image, truth, data_range=1) for image in (ours, spline)]
    assert errors[0] <= errors[1] and likeness[0] >= likeness[1]


def test_air_is_computed_unless_it_is_to_be_copied():
    """A network that halves all: what was copied is as bright as before."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(40, 40, 40))
    scan = volume_of(blob((40, 40, 40), (20, 20, 20), 4) + 0.1 + noise)
    plan, corner = make_plan(scan, measured=(40, 20, 20)), (slice(0, 6),) * 3
    copied, computed = (sharpen(scan, plan, halving(), skip_air=skip)[0].data for skip in (True, False))
    np.testing.assert_allclose(copied[corner], scan.data[corner], atol=2e-3)
    assert np.std(computed[corner] - scan.data[corner]) > 0.003  # of the noise that was not measured, a half


def test_coarse_axes_are_turned_to_where_the_network_learned_them():
    """A network that blurs its last axis: of each pair of axes that is the later one."""
    generator = identity()
    generator.conv0.weight.data[0, 0, 1, 1, :] = 1 / 3
    scan = volume_of(np.random.default_rng(0).random((12, 12, 12)) + 1)
    for factors, blurred in (((1, 2, 2), [2]), ((2, 1, 2), [2]), ((2, 2, 1), [1]), ((2, 2, 2), [2, 2, 1])):
        plan = make_plan(scan, upsample=factors)
        fine = resample(scan.data, plan.shape)
        edges = [np.pad(fine, 20, "symmetric")]
        expected = np.mean([ndimage.uniform_filter1d(edges[0], 3, axis=a) for a in blurred], axis=0)
        expected = expected[tuple(slice(20, 20 + n) for n in plan.shape)]
        expected += resample(scan.data - resample(expected, scan.data.shape), plan.shape)
        expected = np.clip(expected, scan.data.min(), scan.data.max())
        inside = tuple(slice(1, -1) for _ in range(3))  # axes that are not thick meet the network's zeros
        np.testing.assert_allclose(
            sharpen(scan, plan, generator)[0].data[inside], expected[inside], atol=2e-4
        )


def test_a_network_that_is_the_same_in_the_mirror_has_no_spread():
    scan = volume_of(np.random.default_rng(0).random((12, 10, 14)))
    scan.header["cal_max"] = 0.5
    plan = make_plan(scan, upsample=(1, 2, 2))
    assert sharpen(scan, plan, identity(), uncertainty=True)[1].data.max() < 1e-6
    shifting = identity()
    shifting.conv0.weight.data[0, 0, 1, 1, :] = shifting.conv0.weight.data[0, 0, 1, 1, :].roll(1)
    sharper, spread = sharpen(scan, plan, shifting, uncertainty=True)
    assert spread.data.max() > 1e-3 and spread.data.shape == sharper.data.shape
    mean, same_spread = sharpen(scan, plan, shifting, self_ensemble=True, uncertainty=True)
    np.testing.assert_array_equal(same_spread.data, spread.data)
    alone, nothing = sharpen(scan, plan, shifting, self_ensemble=True)
    assert nothing is None
    images = [
        np.flip(sharpen(replace(scan, data=np.flip(scan.data, axes)), plan, shifting)[0].data, axes)
        for n in range(4)
        for axes in itertools.combinations(range(3), n)
    ]
    for found in (mean, alone):
        np.testing.assert_allclose(found.data, np.mean(images, axis=0), atol=1e-4)
    assert sharper.header["cal_max"] == 0.5 and spread.header["cal_max"] == 0  # else an SD looks black


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "coarser than asked for.*no end of k-space.*--voxel-size or --upsample.*--measured"),
        ({"voxel_size": (1, 1, 1)}, "coarser than asked for.*ask for smaller voxels.*--measured"),
        ({"voxel_size": (2, 1.5, 1)}, "coarser than asked for.*ask for smaller voxels.*--measured"),
        ({"upsample": (1, 1, 1)}, "no end of k-space"),
        ({"upsample": (1, 0.5, 2)}, "expected three factors from 1 to 5"),
        ({"upsample": (1, 2)}, "expected three factors"),
        ({"voxel_size": (0, 1, 1)}, "expected three sizes in mm"),
        ({"voxel_size": (float("nan"), 1, 1)}, "expected three sizes in mm"),
        ({"voxel_size": (0.1, 1, 1)}, "expected at most 5 voxels of the result per measured sample"),
        ({"measured": (64, 64, 65)}, "measured samples: expected at most the scan's .* found 64 x 64 x 65"),
    ],
)
def test_what_cannot_be_restored_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        make_plan(volume_of(like_a_scan((48, 64, 64))), **asked)


@pytest.mark.parametrize("shape", [(40, 44, 1), (3, 40, 44)])
def test_a_few_slices_are_refused(shape):
    with pytest.raises(ValueError, match="expected at least 4 voxels along each axis, found"):
        make_plan(volume_of(np.ones(shape, np.float32)), upsample=(1, 1, 2))


@pytest.mark.parametrize("asked", [{}, {"voxel_size": (1, 1, 1)}, {"voxel_size": (1, 1, 0.8)}])
def test_a_cut_is_looked_for_whatever_is_asked(asked):
    scan = volume_of(truncate_kspace(like_a_scan((48, 64, 64)), [None, 32, 16]))
    plan = make_plan(scan, **asked)
    assert plan.measured == (48, 32, 16)
    assert plan.weights == "EDSR_4x4"


@pytest.mark.parametrize(
    ("edges", "name"),
    [((1, 2, 2), "2x2"), ((1, 4, 4), "4x4"), ((1, 4, 3), "4x4"), ((2, 2, 2), "2x2"), ((1, 1, 4), "slices"),
     ((1, 1, 1.5), "2x2"), ((1, 1.5, 5), "slices")],
)  # fmt: skip
def test_a_scan_gets_the_weights_of_the_nearest_kind(edges, name):
    scan = volume_of(blob(), np.diag([*edges, 1.0]))
    assert make_plan(scan, voxel_size=(1, 1, 1)).weights == f"EDSR_{name}"


@pytest.mark.parametrize(
    ("model", "factors", "runs"),
    [("EDSR", (1, 4, 4), 1), ("EDSR", (2, 2, 2), 3), ("mDCSRN", (1, 1, 2), 2)],
)
def test_the_network_runs_on_each_pair_of_coarse_axes(model, factors, runs, monkeypatch):
    orders = []
    monkeypatch.setattr(apply, "super_resolve", lambda x, order, **_: orders.append(order) or x)
    scan = volume_of(blob())
    sharpen(scan, make_plan(scan, upsample=factors), make_generator(model))
    assert len(orders) == runs and all(sorted(order) == [0, 1, 2] for order in orders)
    coarse = {axis for axis in range(3) if factors[axis] > 1}
    assert all(coarse <= set(order[1:]) or set(order[1:]) <= coarse for order in orders)
