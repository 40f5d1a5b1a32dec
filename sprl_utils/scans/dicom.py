"""DICOM by way of dcm2niix, the field's converter; it is optional. Imports no other module of the package."""

import importlib.util
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM, or a folder holds some at any depth: ``DICM`` follows the first 128 bytes."""
    path = Path(path)
    if path.is_dir():
        return any(is_dicom(file) for file in path.rglob("*") if file.is_file())
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def from_dicom(source: str | os.PathLike, into: str | os.PathLike) -> list[Path]:
    """Convert DICOM to NIfTI: one file per series, each with a JSON sidecar.

    Args:
        source: a folder, searched five levels deep, or one file, which stands for its series.
        into: an existing folder for ``<series>_<description>.nii`` and ``.json``.

    Returns:
        The NIfTI files. Of a series with uneven slices or a tilted gantry the one with even slices, as the
        other puts them in the wrong place. What dcm2niix warns of is warned of here.

    Raises:
        ValueError: dcm2niix is not installed, or converts nothing.
    """
    run = subprocess.run(
        [*_command(), "-z", "n", "-b", "y", "-f", "%s_%d", "-o", str(into), str(source)],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
    )
    said = [line.strip() for line in (run.stdout + run.stderr).splitlines()]
    troubles = dict.fromkeys(line for line in said if line.startswith(("Warning:", "Error:")))
    files = sorted(Path(into).glob("*.nii"))
    if not files:
        reason = next(iter(troubles), f"exit code {run.returncode}")
        raise ValueError(f"{source}: expected DICOM that dcm2niix converts, found none ({reason})")
    for trouble in troubles:
        warnings.warn(f"{source}: dcm2niix: {trouble.partition(': ')[2]}", stacklevel=2)
    stems = [file.stem for file in files]
    uneven = {s for s in stems for other in stems if other.startswith((f"{s}_Eq", f"{s}_Tilt"))}
    return [file for file in files if file.stem not in uneven]


#: Names in BIDS's JSON files of what DICOM's header says.
TAGS = {
    "Modality": "0008|0060",
    "SeriesDescription": "0008|103e",
    "ProtocolName": "0018|1030",
    "MRAcquisitionType": "0018|0023",
}


def dicom_facts(source: str | os.PathLike) -> dict[str, str]:
    """What the first DICOM file's header says, by the names of `TAGS`; empty where ITK cannot read it."""
    import SimpleITK as sitk  # half a second

    source = Path(source)
    files = sorted(source.rglob("*")) if source.is_dir() else [source]
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(next(file for file in files if file.is_file() and is_dicom(file))))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}
    return {name: reader.GetMetaData(tag).strip() for name, tag in TAGS.items() if reader.HasMetaDataKey(tag)}


def _command() -> list[str]:
    """The program, also where the environment's commands are not on PATH."""
    if found := shutil.which("dcm2niix"):
        return [found]
    if importlib.util.find_spec("dcm2niix"):
        return [sys.executable, "-m", "dcm2niix"]
    raise ValueError(
        "expected NIfTI, or DICOM and the converter dcm2niix, found DICOM alone; `pip install dcm2niix` "
        "installs the converter"
    )
