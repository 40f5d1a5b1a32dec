"""Image files of any format in and out; whatever comes in leaves here as NIfTI, with its place in RAS+ mm."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import SerializableImage
from nibabel.openers import ImageOpener
from nibabel.tripwire import TripWireError
from scipy import io

from sprl_utils.files import atomic_write
from sprl_utils.scans.dicom import from_dicom, is_dicom

#: What `write_image` writes, chosen by the name.
WRITTEN = (".nii.gz", ".nii", ".mgz", ".mgh")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
PACKED = (".gz", ".bz2", ".zst", ".mgz")
#: Endings of voxels -> those of the header that may lie beside them.
HEADERS = {".img": ".hdr", ".img.gz": ".hdr.gz", ".rec": ".par", ".brik": ".head", ".brik.gz": ".head"}
TEXT = (*ITK, ".par", ".head")  # these begin with text
#: What `load_image` reads.
ENDINGS = (*WRITTEN, ".nii.bz2", ".nii.zst", ".mnc", ".mat", *ITK, *HEADERS, *HEADERS.values())


class Refused(ValueError):
    """Why a file is not taken, without its name, which the caller knows."""


# ---- names --------------------------------------------------------------------------------------------


def ending(path: str | os.PathLike) -> str:
    """The ending that tells the format, as it is written in the name; empty for what is no image."""
    name = Path(path).name
    found = max((end for end in ENDINGS if name.lower().endswith(end)), key=len, default="")
    return name[len(name) - len(found) :]


def stem(path: str | os.PathLike) -> str:
    """The name without the format's ending."""
    return Path(path).name.removesuffix(ending(path) or Path(path).suffix)


def images_of(folder: Path) -> list[Path]:
    """The images in a folder by their names; two files that make one image count as their header.

    Hidden files are left out: macOS puts one beside each file on other systems' disks.
    """
    found = sorted(p for p in folder.iterdir() if ending(p) and not p.name.startswith("."))
    names = {p.name.lower() for p in found}
    return [p for p in found if stem(p).lower() + HEADERS.get(ending(p).lower(), "/") not in names]


def lacks_content(path: Path) -> str:
    """Why a name has no image behind it; empty where it has one.

    git-annex and DataLad leave links and short texts where content was not fetched, Git LFS short texts.
    """
    if not path.exists():
        return "a link whose target is missing" if path.is_symlink() else "none"
    if path.is_file() and path.stat().st_size < 1024 and ending(path).lower() not in TEXT:
        content = path.read_bytes()
        if content.isascii() and b"\0" not in content:
            return "a short text in place of an image" if content else "an empty file"
    return ""


# ---- in -----------------------------------------------------------------------------------------------


def load_image(paths: Sequence[Path]) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Read an image with all its voxels.

    Args:
        paths: one file of a format of `ENDINGS`; DICOM of one series, a file or a folder; or two files:
            BrainBrowser's MINC as uint8 ``.raw.gz`` and ``.header.gz``, which comes back in RAS+ order.

    Returns:
        The voxels in the file's own axis order, and a NIfTI image for header and affine. A format without
        codes for its space gets sform code 1 (scanner). What does not say where it lies has codes 0: a
        ``.mat`` with the original project's ``out_final``, or an NRRD without a space.

    Raises:
        Refused: a file that can be read, but is no image with one real number per voxel and known sides.
        Exception: of a dozen kinds, from the libraries, where the file is damaged.
    """
    path = paths[0]
    if len(paths) > 1:
        image = _open_minc_pair(list(paths))
    elif is_dicom(path):
        return _load_dicom(path)
    elif path.suffix.lower() == ".mat":
        image = _open_mat(path)
    elif ending(path).lower() in ITK:
        image = _open_with_itk(path)
    else:
        image = _open_with_nibabel(path)
    _check_type(image.get_data_dtype())
    try:
        data = _voxels(image)
    except FileNotFoundError as error:
        raise _half_missing(path, error) from error
    return data, _as_nifti(image, data)


def _check_type(dtype: np.dtype) -> None:
    found = str(dtype)
    if dtype.fields:
        found = f"colours ({', '.join(dtype.fields)})"
    elif dtype.kind == "c":
        found = f"{dtype}, of which numpy.abs gives the magnitude"
    elif dtype.kind in "fiub":
        return
    raise Refused(f"expected one real number per voxel, found {found}")


def _as_nifti(image: nib.spatialimages.SpatialImage, data: np.ndarray) -> nib.Nifti1Image:
    """Header and affine as those of one NIfTI file; a NIfTI keeps its own."""
    if isinstance(image, nib.Nifti1Pair):
        kind = nib.Nifti2Image if isinstance(image.header, nib.Nifti2Header) else nib.Nifti1Image
        return image if type(image) is kind else kind(image.dataobj, image.affine, image.header)
    return _placed(data, image.affine)


def _placed(data: np.ndarray, affine: np.ndarray, code: int = 1) -> nib.Nifti1Image:
    """A new NIfTI image; nibabel alone would set no code where an affine equals NIfTI's default."""
    with np.errstate(over="ignore"):  # refused later, as not finite
        image = nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(affine, 0)  # a qform has no shears
    return image


def _open_with_nibabel(path: Path) -> nib.spatialimages.SpatialImage:
    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        raise _half_missing(path, error) from error
    except (ImportError, TripWireError) as error:
        package = "h5py" if isinstance(error, ImportError) else "backports.zstd"
        raise Refused(f"expected the package {package} for this format, found it not installed") from error
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise Refused(f"expected an image of voxels, found {type(image).__name__}")
    if isinstance(image, nib.AnalyzeImage) and not isinstance(image, nib.Nifti1Pair):
        matrix = image.file_map.get("mat")  # SPM's file with the place
        if not (matrix and matrix.filename and os.path.isfile(matrix.filename)):
            raise Refused(
                "expected a header that says which side is left, found Analyze 7.5, which does not; "
                "convert it to NIfTI with a program that knows where it comes from"
            )
    return image


def _half_missing(path: Path, error: FileNotFoundError) -> Refused:
    """The file itself is there, but nibabel looks for another of its name, or for the name in lower case."""
    other = Path(error.filename or "").name
    if other.lower() == path.name.lower():
        return Refused(f"expected an ending in lower or in upper case, found {ending(path)}")
    return Refused(f"expected its other half {other} beside it, found none")


def _voxels(image: nib.spatialimages.SpatialImage) -> np.ndarray:
    """All voxels. A packed file is read to its very end, where its checksum is; nibabel stops before it."""
    packed = [h.filename for h in image.file_map.values() if str(h.filename).lower().endswith(PACKED)]
    if packed and isinstance(image, SerializableImage):  # one file: unpacked once
        with ImageOpener(packed[0]) as stream:
            data = np.asarray(type(image).from_stream(stream.fobj).dataobj)
            _read_to_end(stream)
        return data
    data = np.asarray(image.dataobj)
    for file in packed:
        with ImageOpener(file) as stream:
            _read_to_end(stream)
    return data


def _read_to_end(stream: ImageOpener) -> None:
    while stream.read(2**20):
        pass


def _open_with_itk(path: Path) -> nib.Nifti1Image:
    """ITK's axes point left, posterior and superior, its arrays are ``(z, y, x)``."""
    import SimpleITK as sitk  # half a second

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:  # its last line says what is wrong
        raise ValueError(str(error).strip().splitlines()[-1]) from error
    if (components := image.GetNumberOfComponentsPerPixel()) > 1:
        raise Refused(f"expected one real number per voxel, found {components}")
    data = sitk.GetArrayViewFromImage(image).T
    _check_type(data.dtype)
    if image.GetDimension() != 3:
        return _placed(data, np.eye(4), code=0)  # refused later, by its shape
    to_ras = np.diag([-1, -1, 1])
    directions = to_ras @ np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine = nib.affines.from_matvec(directions, to_ras @ image.GetOrigin())
    says_where = not ending(path).lower().startswith(".n") or image.HasMetaDataKey("NRRD_space")
    return _placed(data, affine, code=int(says_where))


def _load_dicom(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = from_dicom(path, folder)
        except ValueError as error:
            raise Refused(str(error).removeprefix(f"{path}: ")) from error
        if len(found) > 1:
            raise Refused(
                f"expected one DICOM series, found {len(found)}: {', '.join(f.stem for f in found[:9])}; "
                "convert the folder with dcm2niix and take one of the files"
            )
        return load_image(found)


def _open_mat(path: Path) -> nib.Nifti1Image:
    try:
        variables = io.loadmat(path)
    except NotImplementedError as error:
        raise Refused("expected a .mat of version 7 or older, found version 7.3") from error
    if "out_final" not in variables:
        names = [name for name in variables if not name.startswith("__")]
        raise Refused(f"expected the variable out_final, found {', '.join(names) or 'no variable'}")
    data = variables["out_final"]
    if data.dtype.kind not in "fiubc":
        raise Refused(f"expected out_final to be numbers, found {data.dtype}")
    _check_type(data.dtype)
    return _placed(data, np.eye(4), code=0)


def _open_minc_pair(paths: list[Path]) -> nib.Nifti1Image:
    """MINC: a voxel lies at the sum over axes of (start + index * step) * direction cosines."""
    headers = [path for path in paths if ".header" in path.name]
    raws = [path for path in paths if ".raw" in path.name]
    if len(paths) != 2 or len(headers) != 1 or len(raws) != 1:
        raise Refused(f"expected one .raw.gz and one .header.gz, found {[path.name for path in paths]}")
    header = json.loads(gzip.decompress(headers[0].read_bytes()))
    raw = np.frombuffer(gzip.decompress(raws[0].read_bytes()), dtype=np.uint8)
    axes = [header[name] for name in header["order"]]
    shape = [axis["space_length"] for axis in axes]
    if raw.size != np.prod(shape):
        raise Refused(f"expected {np.prod(shape)} bytes for the matrix {shape}, found {raw.size}")
    cosines = np.array([axis["direction_cosines"] for axis in axes]).T
    affine = np.eye(4)
    affine[:3, :3] = cosines * [axis["step"] for axis in axes]
    affine[:3, 3] = cosines @ [axis["start"] for axis in axes]
    return nib.as_closest_canonical(nib.Nifti1Image(raw.reshape(shape), affine))


# ---- out ----------------------------------------------------------------------------------------------


def save_image(
    path: str | os.PathLike,
    data: np.ndarray,
    affine: np.ndarray,
    header: nib.Nifti1Header,
    description: str = "",
) -> None:
    """Write float32 NIfTI-1 or, by the name, FreeSurfer's MGH, beside the target and then renamed into place.

    Args:
        path: ends in one of `WRITTEN`.
        data: ``(x, y, z)``.
        header: NIfTI keeps it, with both codes; with codes 0 the affine counts for its voxel size alone.
            MGH, which has no codes, takes the place from ``affine``.
        description: for NIfTI's field of 79 characters; MGH has none.

    Raises:
        ValueError: another ending, or MGH for an image that does not say where it lies.
    """
    path = Path(path)
    if not path.name.endswith(WRITTEN):
        raise ValueError(f"output {path}: expected a name ending in {', '.join(WRITTEN)}, found {path.name}")
    placed = any(header[f"{form}form_code"] for form in "sq")
    data = np.asarray(data, dtype=np.float32)
    if path.suffix in (".mgz", ".mgh"):
        if not placed:
            raise ValueError(
                f"output {path}: expected a scan that says where it lies, as MGH always does, found one with "
                "sform and qform codes 0; write .nii.gz"
            )
        image = nib.MGHImage(data, affine)
    else:
        # ITK reads no NIfTI-2, so only longer edges get it. Given an affine, nibabel would set a code.
        kind = nib.Nifti2Image if max(data.shape) > np.iinfo(np.int16).max else nib.Nifti1Image
        image = kind(data, affine if placed else None, header)
        image.set_data_dtype(np.float32)
        if not placed:
            image.header.set_zooms(nib.affines.voxel_sizes(affine))
        if description:
            image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_write(path) as beside:
        nib.save(image, beside)
