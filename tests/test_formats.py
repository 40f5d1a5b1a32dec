"""Files of every format: where a point lies, what is refused and in which words, DICOM through dcm2niix."""

import bz2
import gzip
import importlib.util
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from nibabel.brikhead import parse_AFNI_header
from scipy import io

from sprl_utils.scans import dicom
from sprl_utils.scans.batch import scan_facts
from sprl_utils.scans.cli import main
from sprl_utils.scans.formats import images_of, read_scan, write_scan
from sprl_utils.volumes import Volume

NIBABELS = Path(nib.__file__).parent / "tests" / "data"
TURN = np.array([[0, 0.6, -0.8], [-1, 0, 0], [0, 0.8, 0.6]])
AFFINE = nib.affines.from_matvec(TURN @ np.diag([0.7, 0.9, 1.3]), [-40, 30, -20])
LPS = np.diag([-1, -1, 1])
POINT = (2, 5, 1)
WHERE = nib.affines.apply_affine(AFFINE, POINT)
HAS_DCM2NIIX = importlib.util.find_spec("dcm2niix") is not None
needs_dcm2niix = pytest.mark.skipif(not HAS_DCM2NIIX, reason="needs dcm2niix (pip install dcm2niix)")


def point(dtype=np.int16):
    """A point source: one bright voxel of many."""
    data = np.ones((7, 8, 9), dtype)
    data[POINT] = 900
    return data


def to_itk(data, affine):
    """The same in ITK's terms, without its own reading of NIfTI: LPS, and arrays of ``(z, y, x)``."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((LPS @ affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin((LPS @ affine[:3, 3]).tolist())
    return image


def where_nibabel_sees_it(path):
    image = nib.load(path)
    data = np.asarray(image.dataobj)
    return nib.affines.apply_affine(image.affine, np.unravel_index(data.argmax(), data.shape))


def where_itk_sees_it(path):
    image = sitk.ReadImage(str(path))
    index = np.unravel_index(sitk.GetArrayFromImage(image).argmax(), image.GetSize()[::-1])[::-1]
    return LPS @ image.TransformIndexToPhysicalPoint([int(i) for i in index])


def save_as(path, dtype=np.int16):
    data, lower = point(dtype), path.name.lower()
    if lower.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
        sitk.WriteImage(to_itk(data, AFFINE), str(path))
    elif lower.endswith(".nii.bz2"):
        path.write_bytes(bz2.compress(nib.Nifti1Image(data, AFFINE).to_bytes()))
    elif lower.endswith((".mgz", ".mgh")):
        nib.save(nib.MGHImage(data.astype(np.float32), AFFINE), path)
    elif lower.endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        nib.save(nib.Nifti1Pair(data, AFFINE), path)
    else:
        nib.save((nib.Nifti2Image if "two" in lower else nib.Nifti1Image)(data, AFFINE), path)
    return path


READ = ["a.nii", "a.nii.gz", "A.NII.GZ", "A.NII", "a.nii.bz2", "two.nii", "two.nii.gz", "a.hdr", "a.img"]
READ += ["a.hdr.gz", "a.img.gz", "A.IMG", "a.mgz", "A.MGZ", "a.mgh", "a.nrrd", "a.nhdr", "a.mha", "a.mhd"]


@pytest.mark.parametrize("name", READ)
def test_a_point_is_read_where_it_lies_and_written_there(tmp_path, name):
    volume = read_scan(save_as(tmp_path / name))
    assert volume.data[POINT] == 900 == volume.data.max()
    np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, POINT), WHERE, atol=1e-4)
    kind = nib.Nifti2Header if name.startswith("two") else nib.Nifti1Header
    assert type(volume.header) is kind and volume.header["sform_code"] > 0
    for out in ("out.nii", "out.nii.gz", "out.mgz", "out.mgh"):
        write_scan(tmp_path / out, volume.data, volume)
        np.testing.assert_allclose(where_nibabel_sees_it(tmp_path / out), WHERE, atol=1e-4)
    for out in ("out.nii", "out.nii.gz"):  # ITK does not read MGH, nor NIfTI-2
        assert all(
            nib.load(tmp_path / out).header[c] == volume.header[c] for c in ("sform_code", "qform_code")
        )
        np.testing.assert_allclose(where_itk_sees_it(tmp_path / out), WHERE, atol=1e-4)


@pytest.mark.parametrize("affine", [AFFINE, nib.Nifti1Image(point(), None).header.get_best_affine()])
def test_mgh_has_its_place_by_freesurfers_formula(tmp_path, affine):
    """FreeSurfer's ``vox2ras``: directions times sizes, voxel n/2 at c_ras. One affine is NIfTI's default."""
    write_scan(
        tmp_path / "out.mgz", point(), Volume(point(), affine, with_codes(1)), "MGH has no description"
    )
    raw = gzip.decompress((tmp_path / "out.mgz").read_bytes())
    version, *shape, frames, kind = struct.unpack(">6i", raw[:24])
    assert (version, shape, frames, kind) == (1, [7, 8, 9], 1, 3)  # 3: MRI_FLOAT
    (good,) = struct.unpack(">h", raw[28:30])
    numbers = np.array(struct.unpack(">15f", raw[30:90]))
    size, directions, centre = numbers[:3], numbers[3:12].reshape(3, 3).T, numbers[12:]
    place = directions @ (size * (np.array(POINT) - np.array(shape) / 2)) + centre
    assert good == 1
    np.testing.assert_allclose(place, nib.affines.apply_affine(affine, POINT), atol=1e-4)
    data = np.frombuffer(raw[284 : 284 + 4 * 504], ">f4").reshape(shape, order="F")
    np.testing.assert_array_equal(data, point())
    again = read_scan(tmp_path / "out.mgz")
    assert (
        again.header["sform_code"] == 1
    )  # nibabel's own conversion leaves 0 where the affine is the default
    np.testing.assert_allclose(again.affine, affine, atol=1e-4)


def with_codes(code):
    header = nib.Nifti1Header()
    header["sform_code"] = header["qform_code"] = code
    return header


def test_what_does_not_say_where_it_lies_does_not_say_so_after_writing(tmp_path):
    """A .mat, a NIfTI with codes 0 and an NRRD without a space; their voxel size stays."""
    io.savemat(tmp_path / "a.mat", {"out_final": point()})
    header = nib.Nifti1Header()
    header.set_data_shape((7, 8, 9))
    header.set_zooms((1, 1, 2))
    nib.save(nib.Nifti1Image(point(), None, header), tmp_path / "a.nii")
    text = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 7 8 9\nspacings: 1 1 2\n"
    text += b"encoding: raw\nendian: little\n\n"
    (tmp_path / "a.nrrd").write_bytes(text + point().tobytes(order="F"))
    for name, size in (("a.mat", (1, 1, 1)), ("a.nii", (1, 1, 2)), ("a.nrrd", (1, 1, 2))):
        volume = read_scan(tmp_path / name)
        assert volume.voxel_size == size and volume.data[POINT] == 900
        write_scan(tmp_path / "out.nii.gz", volume.data, volume)
        written = nib.load(tmp_path / "out.nii.gz").header
        assert (written["sform_code"], written["qform_code"]) == (0, 0), name
        assert written.get_zooms() == size
        with pytest.raises(ValueError, match="expected a scan that says where it lies, .*write .nii.gz"):
            write_scan(tmp_path / "out.mgz", volume.data, volume)


def test_a_sheared_affine_gets_no_qform(tmp_path):
    sheared = np.array([[1, 0.3, 0, 2], [0, 1, 0, 3], [0, 0, 1, 4], [0, 0, 0, 1]])
    nib.save(nib.MGHImage(point(np.float32), sheared), tmp_path / "a.mgz")
    header = read_scan(tmp_path / "a.mgz").header
    assert (header["sform_code"], header["qform_code"]) == (1, 0)
    np.testing.assert_allclose(header.get_sform(), sheared, atol=1e-6)


# ---- real files that come with nibabel ----------------------------------------------------------------


def test_minc_lies_where_its_axes_say():
    """MINC 1 by scipy: each axis has a start and a step, in RAS+ mm (these have no direction cosines)."""
    with io.netcdf_file(NIBABELS / "tiny.mnc", mmap=False) as file:
        axes = [
            (getattr(file.variables[n], "start", 0), file.variables[n].step)
            for n in ("zspace", "yspace", "xspace")
        ]
        stored = file.variables["image"].data.view(np.uint8)
    volume = read_scan(NIBABELS / "tiny.mnc")
    assert volume.data.shape == (10, 20, 20)
    z, y, x = (start + i * step for (start, step), i in zip(axes, (3, 4, 5), strict=True))
    np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, (3, 4, 5)), (x, y, z))
    assert np.corrcoef(stored[3].ravel(), volume.data[3].ravel())[0, 1] == pytest.approx(
        1
    )  # scaled per slice
    assert type(volume.header) is nib.Nifti1Header


def test_afni_lies_where_its_origin_says():
    """AFNI's ORIGIN and DELTA are those of a space that points left and posterior (RAI)."""
    info = parse_AFNI_header(str(NIBABELS / "scaled+tlrc.HEAD"))
    place = LPS @ (np.array(info["ORIGIN"]) + np.array((3, 4, 5)) * info["DELTA"])
    for name in ("scaled+tlrc.HEAD", "scaled+tlrc.BRIK"):
        volume = read_scan(NIBABELS / name)
        np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, (3, 4, 5)), place)
        assert type(volume.header) is nib.Nifti1Header


REFUSED = {
    "phantom_EPI_asc_CLEAR_2_1.PAR": r"expected a 3D volume, found 4D of shape \(64, 64, 9, 3\); write one",
    "example4d+orig.HEAD": r"expected a 3D volume, found 4D of shape \(33, 41, 25, 3\); write one of",
    "minc1_4d.mnc": "expected a 3D volume, found 4D",
    "test.mgz": "expected a 3D volume, found 4D",
    "T1.PAR": "expected its other half T1.REC beside it, found none",
    "nifti2.hdr": "expected its other half nifti2.img beside it, found none",
    "analyze.hdr": "expected a header that says which side is left, found Analyze 7.5",
    "row_major.dconn.nii": "expected an image of voxels, found Cifti2Image",
    "standard.trk": "expected a volume, found a file that cannot be read",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_volume_is_refused_in_words(name):
    with pytest.raises(ValueError, match=f"subject anna: .*: {REFUSED[name]}") as error:
        read_scan(NIBABELS / name, "anna")
    assert "\n" not in str(error.value) and "has no attribute" not in str(error.value)


def test_minc_2_is_read_or_names_the_package_it_needs():
    if importlib.util.find_spec("h5py"):
        np.testing.assert_allclose(read_scan(NIBABELS / "small.mnc").affine[:3, 3], (-98, -134, -72))
    else:
        with pytest.raises(ValueError, match="expected the package h5py for this format, found it not"):
            read_scan(NIBABELS / "small.mnc")


# ---- written here -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.uint8, np.int32, np.float64])
def test_every_type_of_number_is_read(tmp_path, dtype):
    data = point().clip(0, 200).astype(dtype)
    nib.save(nib.Nifti1Image(data, AFFINE, dtype=dtype), tmp_path / "a.nii.gz")
    volume = read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(volume.data, data)
    write_scan(tmp_path / "b.nii.gz", volume.data, volume)
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == np.float32


@pytest.mark.parametrize(("slope", "inter", "expected"), [(0, 7, 900), (np.nan, np.nan, 900), (-2, 5, -1795)])
def test_a_slope_of_zero_or_nan_is_none(tmp_path, slope, inter, expected):
    """By the NIfTI standard; a negative one counts."""
    raw = bytearray(nib.Nifti1Image(point(), AFFINE).to_bytes())
    fields = np.frombuffer(raw, dtype=nib.nifti1.header_dtype, count=1)
    fields["scl_slope"], fields["scl_inter"] = slope, inter
    (tmp_path / "a.nii").write_bytes(bytes(raw))
    assert read_scan(tmp_path / "a.nii").data[POINT] == expected


def test_odd_files_are_refused_in_words(tmp_path):
    save_as(tmp_path / "scan.nii").rename(tmp_path / "Scan.Nii")
    save_as(tmp_path / "pair.hdr")
    (tmp_path / "pair.img").unlink()
    colours = sitk.Compose([sitk.GetImageFromArray(point())] * 3)
    sitk.WriteImage(colours, str(tmp_path / "colours.nrrd"))
    sitk.WriteImage(
        sitk.GetImageFromArray(np.stack([point()] * 2), isVector=False), str(tmp_path / "4d.nrrd")
    )
    (tmp_path / "broken.mha").write_text("no image at all")
    (tmp_path / "a.nii.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(2000))
    (tmp_path / "pointer.nii.gz").write_text("/annex/objects/MD5E-s9--a.nii.gz")
    (tmp_path / "a.nii").symlink_to("nowhere.nii")
    for name, words in {
        "Scan.Nii": "expected an ending in lower or in upper case, found .Nii",
        "pair.hdr": "expected its other half pair.img beside it, found none",
        "colours.nrrd": "expected one real number per voxel, found 3",
        "4d.nrrd": r"expected a 3D volume, found 4D of shape \(9, 8, 7, 2\)",
        "broken.mha": "found a file that cannot be read",
        "a.nii.zst": "expected the package backports.zstd for this format|found a file that cannot be read",
        "pointer.nii.gz": "found a file that cannot be read .a short text in place of an image",
        "a.nii": "expected a file, found a link whose target is missing",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
            read_scan(tmp_path / name)
        assert "\n" not in str(error.value) and "SimpleITK-build" not in str(error.value)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii.bz2", "a.hdr.gz", "a.mgz"])
def test_a_wrong_checksum_is_seen(tmp_path, name):
    """nibabel alone reads as far as the voxels go, and the checksum lies behind them."""
    path = save_as(tmp_path / name)
    packed = path.with_name(name.replace("hdr", "img"))
    packed.write_bytes(packed.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ValueError, match="found a file that cannot be read"):
        read_scan(path)


def test_a_folder_has_each_image_once(tmp_path):
    for name in ("a.hdr", "b.nii.gz", "C.NII", "d.mhd", "e.mgz"):
        save_as(tmp_path / name)
    for name in ("f.PAR", "f.REC", "lone.img", "notes.txt", "._b.nii.gz", "x.json"):
        (tmp_path / name).touch()
    names = ["C.NII", "a.hdr", "b.nii.gz", "d.mhd", "e.mgz", "f.PAR", "lone.img"]
    assert [p.name for p in images_of(tmp_path)] == names


# ---- DICOM --------------------------------------------------------------------------------------------


def save_dicom(folder, number, acquisition="3D"):
    """One series, a file per slice, as SimpleITK's manual writes it."""
    folder.mkdir(parents=True)
    image = to_itk(point(np.int16), AFFINE)
    direction = image.GetDirection()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for i in range(image.GetDepth()):
        one = image[:, :, i]
        for tag, value in {
            "0008|0008": "ORIGINAL\\PRIMARY\\M",
            "0008|0020": "20200101",
            "0008|0030": "120000",
            "0008|0060": "MR",
            "0008|0070": "NOBODY",
            "0008|103e": f"T1 {number}",
            "0018|0023": acquisition,
            "0018|0050": "1.3",
            "0018|5100": "HFS",
            "0020|000d": "1.2.826.0.1.3680043.2.1125.1",
            "0020|000e": f"1.2.826.0.1.3680043.2.1125.1.{number}",
            "0020|0011": str(number),
            "0020|0013": str(i + 1),
            "0020|0032": "\\".join(map(str, image.TransformIndexToPhysicalPoint((0, 0, i)))),
            "0020|0037": "\\".join(str(direction[j]) for j in (0, 3, 6, 1, 4, 7)),
            "0008|0018": f"1.2.826.0.1.3680043.2.1125.1.{number}.{i + 1}",
        }.items():
            one.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"IM{i:04d}"))  # scanners give no ending
        writer.SetImageIO("GDCMImageIO")
        writer.Execute(one)


@needs_dcm2niix
def test_a_dicom_series_is_read_where_it_lies(tmp_path, capsys):
    save_dicom(tmp_path / "scan", 1)
    for source in (tmp_path / "scan", tmp_path / "scan" / "IM0003"):
        volume = read_scan(source)
        index = np.unravel_index(volume.data.argmax(), volume.data.shape)
        np.testing.assert_allclose(nib.affines.apply_affine(volume.affine, index), WHERE, atol=1e-3)
        assert volume.data.max() == 900 and volume.data.size == 504
    assert main(["degrade", str(tmp_path / "scan"), str(tmp_path / "lr.nii.gz")]) == 0


def test_dicom_says_whether_it_is_2d_or_3d(tmp_path):
    for acquisition in ("2D", "3D"):
        save_dicom(tmp_path / acquisition, 1, acquisition)
        for source in (tmp_path / acquisition, tmp_path / acquisition / "IM0003"):
            assert scan_facts(source)["MRAcquisitionType"] == acquisition
            assert scan_facts(source)["SeriesDescription"] == "T1 1"
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(99))
    assert scan_facts(tmp_path / "a.dcm") == {}


@needs_dcm2niix
def test_of_several_dicom_series_each_is_a_file(tmp_path):
    for number in (1, 2):
        save_dicom(tmp_path / "scans" / str(number), number)
    with pytest.raises(ValueError, match="expected one DICOM series, found 2: 1_T1_1, 2_T1_2; convert"):
        read_scan(tmp_path / "scans")
    (tmp_path / "out").mkdir()
    files = dicom.from_dicom(tmp_path / "scans", tmp_path / "out")
    assert [f.name for f in files] == ["1_T1_1.nii", "2_T1_2.nii"]
    assert all(f.with_suffix(".json").is_file() for f in files)


@needs_dcm2niix
def test_dicom_without_an_image_is_refused(tmp_path):
    (tmp_path / "a.dcm").write_bytes(bytes(128) + b"DICM" + bytes(99))
    with pytest.raises(ValueError, match="expected DICOM that dcm2niix converts, found none"):
        read_scan(tmp_path)


def test_without_dcm2niix_dicom_is_refused_with_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dicom.shutil, "which", lambda _: None)
    monkeypatch.setattr(dicom.importlib.util, "find_spec", lambda _: None)
    for source in (NIBABELS / "0.dcm", NIBABELS):
        assert main(["view", str(source), str(tmp_path / "page.html")]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "`pip install dcm2niix`" in said and "Traceback" not in said


def test_a_folder_without_dicom_is_no_scan(tmp_path):
    with pytest.raises(ValueError, match="expected a file, found a folder without DICOM"):
        read_scan(tmp_path)
