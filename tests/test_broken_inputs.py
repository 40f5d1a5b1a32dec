"""Files as they should not be, through the command line: one clear line each, and nothing written."""

import gzip
import os

import nibabel as nib
import numpy as np
import pytest

from sprl_utils.networks import Generator, save_weights
from sprl_utils.scans.cli import main

GOOD = np.random.default_rng(0).integers(1, 900, (6, 7, 8)).astype(np.int16)


def nifti(path, data=GOOD, affine=None, **header):
    """A NIfTI file whose header fields are then overwritten, whatever nibabel thinks of them."""
    image = nib.Nifti1Image(data, np.eye(4) if affine is None else affine)
    raw = bytearray(image.to_bytes())
    fields = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)  # shares the bytes
    for name, value in header.items():
        field, _, index = name.partition("__")
        if index:
            fields[field][0, int(index)] = value
        else:
            fields[field][0] = value
    path.write_bytes(bytes(raw))


def bytes_of(data=GOOD):
    return nib.Nifti1Image(data, np.eye(4)).to_bytes()


def flip_a_bit(zipped):
    middle = len(zipped) // 2
    return zipped[:middle] + bytes([zipped[middle] ^ 16]) + zipped[middle + 1 :]


def rgb(fields):
    return np.zeros((4, 4, 4), np.dtype([(f, "u1") for f in fields]))


def with_value(value):
    data = GOOD.astype(np.float32)
    data[2, 3, 4] = value
    return data


RANDOM = np.random.default_rng(1).bytes(5000)
FILES = {
    "empty.nii": lambda p: p.write_bytes(b""),
    "empty.nii.gz": lambda p: p.write_bytes(b""),
    "random.nii": lambda p: p.write_bytes(RANDOM),
    "random.nii.gz": lambda p: p.write_bytes(RANDOM),
    "random_zipped.nii.gz": lambda p: p.write_bytes(gzip.compress(RANDOM)),
    "text.nii": lambda p: p.write_text("T1w, the good one"),
    "unzipped.nii.gz": lambda p: p.write_bytes(bytes_of()),
    "header_only.nii": lambda p: p.write_bytes(bytes_of()[:352]),
    "half_a_header.nii": lambda p: p.write_bytes(bytes_of()[:200]),
    "cut.nii": lambda p: p.write_bytes(bytes_of()[:-100]),
    "cut.nii.gz": lambda p: p.write_bytes(gzip.compress(bytes_of())[:-60]),
    "wrong_checksum.nii.gz": lambda p: p.write_bytes(gzip.compress(bytes_of())[:-8] + b"\0" * 8),
    "flipped_bit.nii.gz": lambda p: p.write_bytes(flip_a_bit(gzip.compress(bytes_of()))),
    "wrong_magic.nii": lambda p: nifti(p, magic=b"n+9"),
    "no_dimensions.nii": lambda p: nifti(p, dim__0=0),
    "nine_dimensions.nii": lambda p: nifti(p, dim__0=9),
    "negative_size.nii": lambda p: nifti(p, dim__2=-7),
    "size_zero.nii": lambda p: nifti(p, dim__1=0),
    "huge.nii": lambda p: nifti(p, dim__1=32767, dim__2=32767, dim__3=32767),
    "larger_than_the_file.nii": lambda p: nifti(p, dim__3=9),
    "line.nii": lambda p: nifti(p, GOOD[:, 0, 0]),
    "slice.nii": lambda p: nifti(p, GOOD[:, :, 0]),
    "four_volumes.nii": lambda p: nifti(p, np.stack([GOOD] * 4, axis=3)),
    "five_dimensions.nii": lambda p: nifti(p, GOOD.reshape(2, 3, 7, 2, 4)),
    "rgb.nii": lambda p: nifti(p, rgb("RGB")),
    "rgba.nii": lambda p: nifti(p, rgb("RGBA")),
    "complex64.nii": lambda p: nifti(p, GOOD.astype(np.complex64)),
    "complex128.nii": lambda p: nifti(p, GOOD.astype(np.complex128)),
    "unknown_type.nii": lambda p: nifti(p, datatype=77),
    "nan_affine.nii": lambda p: nifti(p, sform_code=1, srow_x=[np.nan] * 4),
    "infinite_affine.nii": lambda p: nifti(p, sform_code=1, srow_y=[0, np.inf, 0, 0]),
    "flat_affine.nii": lambda p: nifti(p, sform_code=1, srow_z=[0, 0, 0, 5]),
    "forms_that_disagree.nii": lambda p: nifti(p, sform_code=1, qform_code=1, srow_x=[1, 0, 0, 40]),
    "nan_voxel_size.nii": lambda p: nifti(p, sform_code=0, qform_code=1, pixdim__2=np.nan),
    "all_zero.nii": lambda p: nifti(p, GOOD * 0),
    "constant.nii": lambda p: nifti(p, GOOD * 0 + 7),
    "nowhere_above_zero.nii": lambda p: nifti(p, -GOOD),
    "all_nan.nii": lambda p: nifti(p, GOOD * np.float32(np.nan)),
    "one_nan.nii": lambda p: nifti(p, with_value(np.nan)),
    "one_infinite.nii": lambda p: nifti(p, with_value(np.inf)),
    "slope_that_overflows.nii": lambda p: nifti(p, scl_slope=3e38, scl_inter=0),
    "data_beyond_the_end.nii": lambda p: nifti(p, vox_offset=1e7),
    "random.mgz": lambda p: p.write_bytes(RANDOM),
    "cut.mgh": lambda p: p.write_bytes(nib.MGHImage(GOOD, np.eye(4)).to_bytes()[:400]),
    "a_folder.nii": lambda p: p.mkdir(),
    "missing.nii": lambda p: None,
    "dangling.nii": lambda p: os.symlink("nowhere.nii", p),
    "loop.nii": lambda p: os.symlink(p, p),
    "notes.txt": lambda p: p.write_text("no scan"),
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    save_weights(Generator(init="identity"), path)
    return str(path)


@pytest.mark.parametrize("name", FILES)
def test_one_clear_line(tmp_path, weights, capsys, name):
    FILES[name](tmp_path / name)
    there = sorted(tmp_path.iterdir())
    assert (
        main(["super-resolve", str(tmp_path / name), str(tmp_path / "out.nii.gz"), "--weights", weights]) == 1
    )
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("sprl super-resolve: ") and name in said, said
    assert "Traceback" not in said and len(said) < 600
    assert sorted(tmp_path.iterdir()) == there


def test_there_are_enough_of_them():
    assert len(FILES) >= 40
