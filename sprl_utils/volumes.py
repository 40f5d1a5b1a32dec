"""Volumes in and out, checked: what nibabel opens, the original project's ``.mat``, BrainBrowser's MINC.

A volume is float32 ``(x, y, z)`` in the file's own axis order; its affine takes voxel indices to mm (RAS+).
The command reads more formats (`sprl_utils.scans.formats`) and has them checked here.
"""

import gzip
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import SerializableImage
from nibabel.imageglobals import LoggingOutputSuppressor
from nibabel.openers import ImageOpener
from scipy import io

from sprl_utils.files import atomic_write

#: What `write_volume` writes.
NIFTI = (".nii.gz", ".nii")
PACKED = (".gz", ".bz2", ".zst", ".mgz")
#: Formats whose files begin with text.
TEXT = (".nrrd", ".nhdr", ".mha", ".mhd", ".par", ".head")
#: Volume of a voxel, as a share of the product of its edges, below which its axes lie in one plane. A gantry
#: tilted by 30 degrees leaves 0.87.
FLAT = 0.1
#: Voxel sizes of sform and pixdim that differ by no more than this share are one size, rounded.
SAME_SIZE = 0.01
#: NIfTI's code of Talairach's space; MNI's is the next one.
TEMPLATE = 3


class Refused(ValueError):
    """Why a file is not taken, without its name, which the caller knows."""


@dataclass(frozen=True)
class Volume:
    """An image with what is needed to write another on its grid.

    Attributes:
        data: float32 ``(x, y, z)``, the file's own axis order.
        affine: ``(4, 4)``, voxel indices to millimetres.
        header: a NIfTI-1 header, or a NIfTI-2 header where the file has one, whatever the file's format.
    """

    data: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header

    @property
    def voxel_size(self) -> tuple[float, ...]:
        """Edge lengths of a voxel in mm, one per axis."""
        return tuple(float(size) for size in nib.affines.voxel_sizes(self.affine))


# ---- in -----------------------------------------------------------------------------------------------


def load_image(paths: Sequence[Path]) -> tuple[np.ndarray, nib.Nifti1Image]:
    """Read an image with all its voxels.

    Args:
        paths: one file that nibabel opens; the original project's ``.mat``, with the variable ``out_final``;
            or BrainBrowser's MINC as two files, uint8 ``.raw.gz`` and ``.header.gz``.

    Returns:
        The voxels in the file's own axis order (of BrainBrowser's MINC in RAS+ order), and a NIfTI image for
        header and affine. A format without codes for its space gets sform code 1 (scanner); a ``.mat``, which
        does not say where it lies, has codes 0.

    Raises:
        Refused: a file that can be read, but is no image with one real number per voxel and known sides.
        Exception: of a dozen kinds, from the libraries, where the file is damaged.
    """
    path = paths[0]
    if len(paths) > 1:
        image = _open_minc_pair(paths)
    elif path.is_dir():
        raise Refused("expected a file, found a folder")
    elif path.suffix.lower() == ".mat":
        image = _open_mat(path)
    else:
        image = _open_with_nibabel(path)
    check_type(image.get_data_dtype())
    data = _voxels(image)
    return data, _as_nifti(image, data)


def read_volume(
    path: str | os.PathLike | Sequence[str | os.PathLike],
    subject: str = "",
    load: Callable[[Sequence[Path]], tuple[np.ndarray, nib.Nifti1Image]] = load_image,
) -> Volume:
    """Read and check one volume.

    Args:
        path: one file, or the two of BrainBrowser's MINC; see ``load``.
        subject: id to name in errors.
        load: reads the files, as `load_image` does.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it cannot be read, or is no real, finite, three-dimensional image that varies, or its
            header contradicts itself.
    """
    paths = [Path(path)] if isinstance(path, (str, os.PathLike)) else [Path(p) for p in path]
    where = f"subject {subject or paths[0].name}: {' and '.join(map(str, paths))}"
    for file in paths:
        if not (file.is_file() or file.is_dir()):
            found = lacks_content(file) or "no regular file"
            raise FileNotFoundError(f"subject {subject or file.name}: {file}: expected a file, found {found}")
    try:
        with LoggingOutputSuppressor():
            data, image = load(paths)
    except Refused as error:
        raise ValueError(f"{where}: {error}") from None
    except Exception as error:  # a damaged file makes nibabel, zlib and scipy raise a dozen kinds
        reason = lacks_content(paths[0]) or (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{where}: expected a volume, found a file that cannot be read ({reason})"
        ) from error
    data = _checked_voxels(data, where)
    _check_affine(image.affine, where)
    _check_forms(image, where)
    return Volume(data, image.affine, image.header)


def lacks_content(path: Path) -> str:
    """Why a name has no image behind it; empty where it has one.

    git-annex and DataLad leave links and short texts where content was not fetched, Git LFS short texts.
    """
    if not path.exists():
        return "a link whose target is missing" if path.is_symlink() else "none"
    if path.is_file() and path.stat().st_size < 1024 and path.suffix.lower() not in TEXT:
        content = path.read_bytes()
        if content.isascii() and b"\0" not in content:
            return "a short text in place of an image" if content else "an empty file"
    return ""


def check_type(dtype: np.dtype) -> None:
    """Refuse what is not one real number."""
    found = str(dtype)
    if dtype.fields:
        found = f"colours ({', '.join(dtype.fields)})"
    elif dtype.kind == "c":
        found = f"{dtype}, of which numpy.abs gives the magnitude"
    elif dtype.kind in "fiub":
        return
    raise Refused(f"expected one real number per voxel, found {found}")


def placed(data: np.ndarray, affine: np.ndarray, code: int = 1) -> nib.Nifti1Image:
    """A new NIfTI image; nibabel alone would set no code where an affine equals NIfTI's default."""
    with np.errstate(over="ignore"):  # refused later, as not finite
        image = nib.Nifti1Image(np.asarray(data, dtype=np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code)
    image.set_qform(affine, code)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):
        image.set_qform(affine, 0)  # a qform has no shears
    return image


def _as_nifti(image: nib.spatialimages.SpatialImage, data: np.ndarray) -> nib.Nifti1Image:
    """Header and affine as those of one NIfTI file; a NIfTI keeps its own."""
    if isinstance(image, nib.Nifti1Pair):
        kind = nib.Nifti2Image if isinstance(image.header, nib.Nifti2Header) else nib.Nifti1Image
        return image if type(image) is kind else kind(image.dataobj, image.affine, image.header)
    return placed(data, image.affine)


def _open_with_nibabel(path: Path) -> nib.spatialimages.SpatialImage:
    image = nib.load(path)
    if not isinstance(image, nib.spatialimages.SpatialImage):
        raise Refused(f"expected an image of voxels, found {type(image).__name__}")
    if isinstance(image, nib.Nifti1Pair):
        if not image.header["sform_code"] and 0 in _stored_pixdim(image):
            raise Refused("expected the voxel size in pixdim, found 0, and no sform instead")
    elif isinstance(image, nib.AnalyzeImage):
        matrix = image.file_map.get("mat")  # SPM's file with the place
        if not (matrix and matrix.filename and os.path.isfile(matrix.filename)):
            raise Refused(
                "expected a header that says which side is left, found Analyze 7.5, which does not; "
                "convert it to NIfTI with a program that knows where it comes from"
            )
    return image


def _stored_pixdim(image: nib.Nifti1Pair) -> np.ndarray:
    """Voxel edges as the file has them; nibabel turns 0 into 1 as it loads."""
    with (image.file_map.get("header") or image.file_map["image"]).get_prepare_fileobj("rb") as file:
        return type(image.header).from_fileobj(file, check=False)["pixdim"][1:4]


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
    check_type(data.dtype)
    return placed(data, np.eye(4), code=0)


def _open_minc_pair(paths: Sequence[Path]) -> nib.Nifti1Image:
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


# ---- checks -------------------------------------------------------------------------------------------


def _checked_voxels(data: np.ndarray, where: str) -> np.ndarray:
    """The data as float32 ``(x, y, z)``; an image with trailing axes of length 1 is still a volume."""
    shape = data.shape
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3:
        remedy = "stack the slices into one volume"
        if data.ndim > 3:
            remedy = "write one of its volumes to its own file, for instance with fslroi or nibabel's slicer"
        raise ValueError(f"{where}: expected a 3D volume, found {data.ndim}D of shape {shape}; {remedy}")
    with np.errstate(over="ignore"):
        data = np.ascontiguousarray(data, dtype=np.float32)
    bad = data.size - int(np.isfinite(data).sum())
    if bad:
        raise ValueError(
            f"{where}: expected finite values, found {bad} voxels of NaN or Inf; replace them, "
            "for instance with numpy.nan_to_num"
        )
    if data.size == 0 or data.min() == data.max():
        raise ValueError(f"{where}: expected an image, found a constant volume (shape {shape})")
    return data


def _check_affine(affine: np.ndarray, where: str) -> None:
    """Refuse an affine that puts voxels nowhere, or gives them a size that no scan has."""
    with np.errstate(all="ignore"):
        edges = np.sqrt(np.sum(np.square(affine[:3, :3]), axis=0))
    if not (np.isfinite(affine).all() and (edges > 0.01).all() and (edges < 100).all()):
        found = "NaN or Inf in it" if not np.isfinite(affine).all() else f"voxels of {edges} mm"
        raise ValueError(f"{where}: expected an affine with voxel edges of 0.01 to 100 mm, found {found}")
    if abs(np.linalg.det(affine[:3, :3] / edges)) < FLAT:
        raise ValueError(
            f"{where}: expected an affine with three axes, found all voxels in one plane or line"
        )


def _check_forms(image: nib.Nifti1Image, where: str) -> None:
    """Refuse a NIfTI whose header contradicts itself about where or how large its voxels are.

    Codes say what space a place is in: sform and qform of different codes may lie apart, but a voxel has one
    size. A template's space (codes 3 and 4) may be scaled against the scanner's, which is a warning.
    """
    header, codes = image.header, [int(image.header[f"{form}form_code"]) for form in "sq"]
    if not codes[0]:
        return
    sizes = [np.asarray(nib.affines.voxel_sizes(image.get_sform())), np.array(header.get_zooms()[:3], float)]
    if not (np.abs(sizes[0] / sizes[1] - 1) <= SAME_SIZE).all():  # also where pixdim is NaN
        edges = [" x ".join(f"{edge:.3g}" for edge in size) + " mm" for size in sizes]
        differ = f"expected one voxel size, found {edges[0]} in sform and {edges[1]} in pixdim"
        if codes[0] < TEMPLATE:
            raise ValueError(f"{where}: {differ}; correct the wrong one (nibabel: set_sform, set_qform)")
        warnings.warn(f"{where}: {differ}; the sizes of sform are used", stacklevel=3)
    if codes[0] == codes[1]:
        off = _corners_apart(image.shape, image.get_sform(), image.get_qform())
        differ = f"expected sform and qform of one code to agree, found corners {off:.1f} voxels apart"
        if off > 1:
            raise ValueError(f"{where}: {differ}; correct the wrong one (nibabel: set_sform, set_qform)")
        if off > 0.1:
            warnings.warn(f"{where}: {differ}; sform is used", stacklevel=3)


def _corners_apart(shape: Sequence[int], affine: np.ndarray, other: np.ndarray) -> float:
    """How far two affines put the corners of a volume from each other at most, in its smallest voxel edge."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in shape[:3]))))
    apart = nib.affines.apply_affine(affine, corners) - nib.affines.apply_affine(other, corners)
    return float(np.linalg.norm(apart, axis=1).max() / nib.affines.voxel_sizes(affine).min())


def check_pair(subject: str, hr: Volume, lr: Volume, name: str = "LR") -> None:
    """Refuse an LR (or a ``name``) off the HR grid; a file that says nothing of its place may be anywhere.

    Raises:
        ValueError: the shapes differ, or a corner of LR lies more than a tenth of a voxel from HR's.
    """
    if hr.data.shape != lr.data.shape:
        raise ValueError(
            f"subject {subject}: expected {name} on the grid of HR, "
            f"found HR {hr.data.shape} and {name} {lr.data.shape}"
        )
    both = says_where(hr.header) and says_where(lr.header)
    if both and (off := _corners_apart(hr.data.shape, hr.affine, lr.affine)) > 0.1:
        raise ValueError(
            f"subject {subject}: expected HR and {name} with one affine, found corners {off:.1f} voxels apart"
        )


def says_where(header: nib.Nifti1Header) -> bool:
    """Whether a NIfTI header says where its image lies: in a NIfTI without codes that is unknown."""
    return any(header[f"{form}form_code"] for form in "sq")


def voxels_sha256(scan: Volume) -> str:
    """Hash of the voxels in RAS+ order: a copy that is compressed otherwise or turned has the same."""
    upright = nib.apply_orientation(scan.data, nib.io_orientation(scan.affine))
    return hashlib.sha256(np.ascontiguousarray(upright, dtype="<f4")).hexdigest()


# ---- out ----------------------------------------------------------------------------------------------


def write_volume(path: str | os.PathLike, data: np.ndarray, like: Volume, description: str = "") -> None:
    """Write float32 NIfTI on the grid of ``like``: header, affine and both codes kept; an atomic write.

    Args:
        path: ends in one of `NIFTI`.
        data: ``(x, y, z)`` of the shape of ``like.data``.
        like: the volume whose grid it is; with codes 0 its affine counts for the voxel size alone.
        description: for NIfTI's field of 79 characters.

    Raises:
        ValueError: another shape or ending.
    """
    path = Path(path)
    check_shape(path, data, like)
    if not path.name.endswith(NIFTI):
        raise ValueError(f"output {path}: expected a name ending in {', '.join(NIFTI)}, found {path.name}")
    # ITK reads no NIfTI-2, so only longer edges get it. Given an affine, nibabel would set a code.
    kind = nib.Nifti2Image if max(data.shape) > np.iinfo(np.int16).max else nib.Nifti1Image
    affine = like.affine if says_where(like.header) else None
    image = kind(np.asarray(data, dtype=np.float32), affine, like.header)
    image.set_data_dtype(np.float32)
    if affine is None:
        image.header.set_zooms(nib.affines.voxel_sizes(like.affine))
    if description:
        image.header["descrip"] = description.encode("ascii", "replace")[:79]
    with atomic_write(path) as beside:
        nib.save(image, beside)


def check_shape(path: Path, data: np.ndarray, like: Volume) -> None:
    """Refuse to write data on a grid of another shape."""
    if data.shape != like.data.shape:
        raise ValueError(f"output {path}: expected shape {like.data.shape}, found {data.shape}")
