"""Scans of more formats than the study's: ITK's and DICOM in, FreeSurfer's MGH out; and names of files.

Everything is checked as `sprl_utils.volumes.read_volume` checks it, and leaves as NIfTI or MGH.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.tripwire import TripWireError

from sprl_utils.files import atomic_write
from sprl_utils.scans.dicom import from_dicom, is_dicom
from sprl_utils.scans.headers import save_mgh
from sprl_utils.volumes import (
    NIFTI,
    Refused,
    Volume,
    check_shape,
    check_type,
    load_image,
    placed,
    read_volume,
    says_where,
    write_volume,
)

MGH = (".mgz", ".mgh")
#: What `write_scan` writes, chosen by the name.
WRITTEN = (*NIFTI, *MGH)
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
#: Endings of voxels -> those of the header that may lie beside them.
HEADERS = {".img": ".hdr", ".img.gz": ".hdr.gz", ".rec": ".par", ".brik": ".head", ".brik.gz": ".head"}
#: What `read_scan` reads.
ENDINGS = (*WRITTEN, ".nii.bz2", ".nii.zst", ".mnc", ".mat", *ITK, *HEADERS, *HEADERS.values())


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
    listed = {str(p).lower() for p in found}
    return [p for p in found if not is_voxels_of(p, listed)]


def is_voxels_of(path: Path, listed: set[str]) -> bool:
    """Whether a file holds the voxels to a header that is among ``listed``, paths in small letters."""
    return str(path.with_name(stem(path))).lower() + HEADERS.get(ending(path).lower(), "/") in listed


# ---- in and out ---------------------------------------------------------------------------------------


def read_scan(path: str | os.PathLike, subject: str = "") -> Volume:
    """`sprl_utils.volumes.read_volume` for a file of `ENDINGS`, or DICOM of one series, a file or a folder.

    A format without codes for its space gets sform code 1 (scanner); an NRRD without a space does not say
    where it lies and has codes 0.
    """
    return read_volume(path, subject, _load)


def write_scan(path: Path, data: np.ndarray, like: Volume, description: str = "") -> None:
    """`sprl_utils.volumes.write_volume`, or by the name FreeSurfer's MGH with the description in its header.

    Raises:
        ValueError: another shape, or as `check_target`.
    """
    check_target(path, like.header)
    if path.suffix not in MGH:
        write_volume(path, data, like, description)
        return
    check_shape(path, data, like)
    with atomic_write(path) as beside:
        save_mgh(beside, np.asarray(data, dtype=np.float32), like.affine, description)


def check_target(path: Path, header: nib.Nifti1Header | None = None) -> None:
    """Refuse a name by whose ending no image can be written, or, given a ``header``, not the one with that.

    Raises:
        ValueError: an ending not in `WRITTEN`, or MGH for an image that does not say where it lies.
    """
    if not path.name.endswith(WRITTEN):
        raise ValueError(f"{path}: expected a name ending in {', '.join(WRITTEN)}, found {path.name}")
    if header is not None and path.suffix in MGH and not says_where(header):
        raise ValueError(
            f"{path}: expected a scan that says where it lies, as MGH always does, found one with "
            "sform and qform codes 0; write .nii.gz"
        )


def _load(paths: Sequence[Path]) -> tuple[np.ndarray, nib.Nifti1Image]:
    """`sprl_utils.volumes.load_image` for more formats, and with reasons in words for nibabel's errors."""
    path = paths[0]
    if is_dicom(path):
        return _load_dicom(path)
    if path.is_dir():
        raise Refused("expected a file, found a folder without DICOM")
    if ending(path).lower() in ITK:
        return _load_with_itk(path)
    try:
        return load_image(paths)
    except FileNotFoundError as error:
        other = Path(error.filename or "").name
        if other.lower() == path.name.lower():  # nibabel looks for the name in lower case
            raise Refused(
                f"expected an ending in lower or in upper case, found {ending(path)}; rename it"
            ) from error
        raise Refused(f"expected its other half {other} beside it, found none") from error
    except (ImportError, TripWireError) as error:
        package = "h5py" if isinstance(error, ImportError) else "backports.zstd"
        raise Refused(
            f"expected the package {package} for this format, found it not installed; `pip install {package}`"
        ) from error


def _load_with_itk(path: Path) -> tuple[np.ndarray, nib.Nifti1Image]:
    """ITK's axes point left, posterior and superior, its arrays are ``(z, y, x)``."""
    import SimpleITK as sitk  # half a second

    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:  # its last line says what is wrong
        raise ValueError(str(error).strip().splitlines()[-1]) from error
    if (components := image.GetNumberOfComponentsPerPixel()) > 1:
        raise Refused(
            f"expected one real number per voxel, found {components}; write one of them to a file of its own"
        )
    data = sitk.GetArrayFromImage(image).T
    check_type(data.dtype)
    if image.GetDimension() != 3:
        return data, placed(data, np.eye(4), code=0)  # refused later, by its shape
    to_ras = np.diag([-1, -1, 1])
    directions = to_ras @ np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine = nib.affines.from_matvec(directions, to_ras @ image.GetOrigin())
    has_space = not ending(path).lower().startswith(".n") or image.HasMetaDataKey("NRRD_space")
    return data, placed(data, affine, code=int(has_space))


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
