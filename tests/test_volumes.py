"""Volumes: what is read and written, and what is refused."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import io

from sprl_utils.volumes import Volume, check_pair, read_volume, write_volume

AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0, 0.8, -120], [0, -0.9, 0, 70], [0, 0, 0, 1]])
RAMP = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def save(path, data, affine=AFFINE):
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


# ---- in and out ---------------------------------------------------------------------------------------


def test_nifti_keeps_axis_order_affine_and_scaling(tmp_path):
    image = nib.Nifti1Image(RAMP, AFFINE)
    image.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 1)
    nib.save(image, tmp_path / "head.nii.gz")
    volume = read_volume(tmp_path / "head.nii.gz")
    np.testing.assert_array_equal(volume.data, RAMP * 0.5 + 1)
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.affine, AFFINE, rtol=1e-6)
    assert volume.voxel_size == pytest.approx((0.7, 0.9, 0.8))


def test_trailing_axis_of_one_is_dropped(tmp_path):
    assert read_volume(save(tmp_path / "head.nii", RAMP[..., None])).data.shape == (2, 3, 4)


def test_written_volume_keeps_header(tmp_path):
    image = nib.Nifti1Image(RAMP.astype(np.int16), AFFINE)
    image.set_sform(AFFINE, code=4)
    image.set_qform(AFFINE, code=1)
    nib.save(image, tmp_path / "head.nii")
    head = read_volume(tmp_path / "head.nii")
    write_volume(tmp_path / "out" / "sr.nii.gz", head.data + 0.25, like=head, description="mDCSRN, step 10")
    written = nib.load(tmp_path / "out" / "sr.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(), RAMP + 0.25)
    np.testing.assert_array_equal(written.affine, head.affine)
    assert (written.header["sform_code"], written.header["qform_code"]) == (4, 1)
    assert written.get_data_dtype() == np.float32
    assert written.header["descrip"].item() == b"mDCSRN, step 10"
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["sr.nii.gz"]


def test_bad_output(tmp_path):
    head = read_volume(save(tmp_path / "head.nii", RAMP))
    with pytest.raises(ValueError, match=r"sr.nii: expected shape \(2, 3, 4\), found \(2, 3, 3\)"):
        write_volume(tmp_path / "sr.nii", RAMP[..., 1:], like=head)
    with pytest.raises(ValueError, match="expected a name ending in .nii.gz, .*, found sr.png"):
        write_volume(tmp_path / "sr.png", RAMP, like=head)


def test_mat_of_the_original_project(tmp_path):
    io.savemat(tmp_path / "7_LR.mat", {"out_final": RAMP.astype(np.int16)})
    volume = read_volume(tmp_path / "7_LR.mat", "7")
    np.testing.assert_array_equal(volume.data, RAMP)
    assert volume.voxel_size == (1, 1, 1)


def write_minc(folder, data, axes):
    """``data`` in the order of ``axes``: name, start, step, direction cosines."""
    header = {"order": [name for name, *_ in axes]}
    for n, (name, start, step, cosines) in zip(data.shape, axes, strict=True):
        header[name] = {"start": start, "space_length": n, "step": step, "direction_cosines": cosines}
    files = [folder / "head.mnc.raw.gz", folder / "head.mnc.header.gz"]
    files[0].write_bytes(gzip.compress(data.astype(np.uint8).tobytes()))
    files[1].write_bytes(gzip.compress(json.dumps(header).encode()))
    return files


def test_minc_pair_comes_back_in_ras_order(tmp_path):
    stored = RAMP.transpose(0, 2, 1)[::-1]  # x from right to left, z, y
    axes = [("xspace", 10, -1, [1, 0, 0]), ("zspace", -5, 3, [0, 0, 1]), ("yspace", 20, 2, [0, 1, 0])]
    volume = read_volume(write_minc(tmp_path, stored, axes), "bb")
    np.testing.assert_array_equal(volume.data, RAMP)
    np.testing.assert_allclose(volume.affine, [[1, 0, 0, 9], [0, 2, 0, 20], [0, 0, 3, -5], [0, 0, 0, 1]])


def test_bad_minc(tmp_path):
    axes = [(f"{name}space", 0, 1, list(np.eye(3)[i])) for i, name in enumerate("xyz")]
    files = write_minc(tmp_path, RAMP, axes)
    files[0].write_bytes(gzip.compress(bytes(23)))
    with pytest.raises(ValueError, match=r"subject bb: .*raw.gz.*expected 24 bytes .*\[2, 3, 4\], found 23"):
        read_volume(files, "bb")
    with pytest.raises(ValueError, match="subject bb: .*expected one .raw.gz and one .header.gz, found"):
        read_volume([files[0], files[0]], "bb")


# ---- bad input ----------------------------------------------------------------------------------------


def with_value(value):
    data = RAMP.copy()
    data[1, 2, 3] = value
    return data


@pytest.mark.parametrize(
    "data, message",
    [
        (with_value(np.nan), "expected finite values, found 1 voxels of NaN or Inf"),
        (with_value(-np.inf), "expected finite values, found 1 voxels of NaN or Inf"),
        (
            np.full((2, 3, 4), 7, np.float32),
            r"expected an image, found a constant volume \(shape \(2, 3, 4\)\)",
        ),
        (np.stack([RAMP, RAMP], axis=-1), r"expected a 3D volume, found 4D of shape \(2, 3, 4, 2\)"),
        (RAMP[0], r"expected a 3D volume, found 2D of shape \(3, 4\)"),
        (RAMP.astype(np.complex64), "expected one real number per voxel, found complex64"),
        (
            np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]),
            r"expected one real number per voxel, found colours \(R, G, B\)",
        ),
    ],
)
def test_bad_values(tmp_path, data, message):
    path = save(tmp_path / "head.nii", data)
    with pytest.raises(ValueError, match=f"subject anna: .*head.nii: {message}") as error:
        read_volume(path, "anna")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["head.nii", "head.nii.gz"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_file(tmp_path, name, share, capfd):
    noise = np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)
    path = save(tmp_path / name, noise)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=f"subject anna: .*{name}: .*found a file that cannot be read"):
        read_volume(path, "anna")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["head.nii", "head.nii.gz", "head.mat", "head.txt"])
def test_corrupt_file(tmp_path, name):
    (tmp_path / name).write_bytes(np.random.default_rng(0).bytes(2000))
    with pytest.raises(ValueError, match=f"subject anna: .*{name}: .*found a file that cannot be read"):
        read_volume(tmp_path / name, "anna")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="subject anna: .*none.nii: expected a file, found none"):
        read_volume(tmp_path / "none.nii", "anna")


def test_bad_mat(tmp_path):
    io.savemat(tmp_path / "other.mat", {"lr": RAMP})
    with pytest.raises(ValueError, match="subject 7: .*other.mat: expected the variable out_final, found lr"):
        read_volume(tmp_path / "other.mat", "7")
    io.savemat(tmp_path / "text.mat", {"out_final": "no numbers"})
    with pytest.raises(ValueError, match="subject 7: .*text.mat: expected out_final to be numbers, found <U"):
        read_volume(tmp_path / "text.mat", "7")
    io.savemat(tmp_path / "flat.mat", {"out_final": RAMP[0]})
    with pytest.raises(ValueError, match="subject 7: .*flat.mat: expected a 3D volume, found 2D"):
        read_volume(tmp_path / "flat.mat", "7")
    # version 7.3 is HDF5 behind 512 bytes whose header says so
    header = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    (tmp_path / "new.mat").write_bytes(header.ljust(512, b"\0") + b"\x89HDF\r\n\x1a\n")
    with pytest.raises(ValueError, match="subject 7: .*new.mat: expected .*version 7 .*found version 7.3"):
        read_volume(tmp_path / "new.mat", "7")


def test_a_folder_is_no_volume(tmp_path):
    with pytest.raises(ValueError, match="expected a file, found a folder"):
        read_volume(tmp_path)


def test_pair_of_different_size():
    hr = Volume(RAMP, AFFINE, nib.Nifti1Header())
    check_pair("anna", hr, hr)
    with pytest.raises(ValueError, match=r"subject anna: .* found HR \(2, 3, 4\) and LR \(2, 3, 3\)"):
        check_pair("anna", hr, Volume(RAMP[..., 1:], AFFINE, nib.Nifti1Header()))


def test_a_pair_lies_in_one_place_unless_a_file_does_not_say_where(tmp_path):
    data = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    moved = np.diag([1.0, 1, 2, 1])
    moved[0, 3] = 0.3
    hr, near, far, nowhere = (
        Volume(data, affine, nib.Nifti1Image(data, affine).header)
        for affine in (np.diag([1.0, 1, 2, 1]), np.diag([1.001, 1, 2, 1]), moved, np.eye(4))
    )
    check_pair("s1", hr, near)
    with pytest.raises(ValueError, match="subject s1: expected HR and LR with one affine, .* 0.3 voxels"):
        check_pair("s1", hr, far)
    nowhere.header["sform_code"] = 0
    check_pair("s1", hr, nowhere)


def raw_nifti(path, affine=None, **fields):
    """A NIfTI file whose header is changed behind nibabel's back."""
    raw = bytearray(
        nib.Nifti1Image(np.random.default_rng(0).random((6, 7, 8), dtype=np.float32), affine).to_bytes()
    )
    header = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
    for name, value in fields.items():
        if name == "pixdim":
            header[name][0, 1:4] = value
        else:
            header[name] = value
    path.write_bytes(bytes(raw))
    return path


def sform(size):
    return {f"srow_{axis}": np.append(row, 0) for axis, row in zip("xyz", np.diag(size), strict=True)}


def test_two_voxel_sizes_are_refused(tmp_path):
    """A converter left an sform of 1 mm and a pixdim of 0.51 mm: nobody can say which is the voxel."""
    fields = {"sform_code": 2, "qform_code": 1, "pixdim": (0.51, 0.51, 1), **sform((1, 1, 1))}
    with pytest.raises(ValueError, match="found 1 x 1 x 1 mm in sform and nan x 1 x 1 mm in pixdim"):
        read_volume(raw_nifti(tmp_path / "a.nii", **fields | {"pixdim": (np.nan, 1, 1)}))
    with pytest.raises(ValueError, match="expected one voxel size, found 1 x 1 x 1 mm in sform and 0.51 x"):
        read_volume(raw_nifti(tmp_path / "a.nii", np.eye(4), **fields))
    fields |= {"sform_code": 4}  # a template's space may be scaled
    with pytest.warns(UserWarning, match="the sizes of sform are used"):
        assert read_volume(raw_nifti(tmp_path / "b.nii", np.eye(4), **fields)).voxel_size == (1, 1, 1)
    rounded = {"sform_code": 1, "qform_code": 1, "pixdim": (1.0001, 1, 1), **sform((1, 1, 1))}
    assert read_volume(raw_nifti(tmp_path / "c.nii", np.eye(4), **rounded)).voxel_size == (1, 1, 1)


def test_axes_that_lie_in_one_plane_are_refused_and_tilted_ones_are_not(tmp_path):
    """Each voxel has edges, but two of them point the same way."""
    flat, tilted = np.diag([2.0, 2, 2, 1]), np.diag([2.0, 2, 2, 1])
    flat[:2, :2] = 2
    tilted[1, 2] = 2 * np.tan(np.deg2rad(30))
    save(tmp_path / "tilted.nii", RAMP, tilted)
    assert read_volume(tmp_path / "tilted.nii").voxel_size[:2] == (2, 2)
    rows = {f"srow_{axis}": row for axis, row in zip("xyz", flat, strict=False)}
    path = raw_nifti(
        tmp_path / "flat.nii", np.eye(4), sform_code=1, qform_code=0, pixdim=(2**1.5, 2**1.5, 2), **rows
    )
    with pytest.raises(ValueError, match="expected an affine with three axes, found all voxels in one plane"):
        read_volume(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_voxel_of_no_size_is_refused(tmp_path, ending):
    """nibabel takes a pixdim of 0 for 1 mm."""
    path = raw_nifti(tmp_path / "a.nii", np.eye(4), sform_code=0, qform_code=1, pixdim=(1, 1, 0))
    if ending == ".nii.gz":
        path = tmp_path / "a.nii.gz"
        path.write_bytes(gzip.compress((tmp_path / "a.nii").read_bytes()))
    with pytest.raises(ValueError, match="expected the voxel size in pixdim, found 0"):
        read_volume(path)
    for endings in ((".hdr", ".img"), (".hdr.gz", ".img.gz")):  # in two files as in one
        pair = nib.Nifti1Pair(RAMP, None)
        for part, end in zip(("header", "image"), endings, strict=True):
            pair.file_map[part].filename = str(tmp_path / f"pair{end}")
        pair.to_file_map()
        header = tmp_path / f"pair{endings[0]}"
        packed = endings[0].endswith(".gz")
        raw = bytearray(gzip.decompress(header.read_bytes()) if packed else header.read_bytes())
        np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)["pixdim"][0, 3] = 0
        header.write_bytes(gzip.compress(raw) if packed else raw)
        with pytest.raises(ValueError, match="subject pair.*: expected the voxel size in pixdim, found 0"):
            read_volume(header)
    placed = raw_nifti(tmp_path / "b.nii", np.eye(4), pixdim=(1, 1, 0), sform_code=1, **sform((1, 1, 1)))
    assert read_volume(placed).voxel_size == (1, 1, 1)  # sform says all
