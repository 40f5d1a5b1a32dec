"""The free text in an image's header: there the command says what it did, and knows its own results again."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.openers import ImageOpener

#: Bytes of an MGH header that the format leaves unused; NIfTI has a field of 79 characters.
UNUSED_IN_MGH = slice(90, 284)


def description(path: Path) -> str:
    """The text in the header of a NIfTI, Analyze or MGH file.

    Empty where there is none, and where the file cannot be read, which is an error later.
    """
    try:
        header = nib.load(path).header
        text = b""
        if isinstance(header, nib.analyze.AnalyzeHeader):
            text = bytes(header["descrip"])
        elif isinstance(header, nib.freesurfer.mghformat.MGHHeader):
            with ImageOpener(path) as file:
                text = file.read(UNUSED_IN_MGH.stop)[UNUSED_IN_MGH]
    except Exception:  # libraries raise a dozen kinds
        return ""
    return text.rstrip(b"\0").decode("ascii", "replace")


def is_result(path: Path) -> bool:
    """Whether ``sprl super-resolve`` wrote the file."""
    text = description(path)
    return text.startswith("sprl ") and ("super-resolved" in text or "mirror images" in text)


def save_mgh(path: Path, data: np.ndarray, affine: np.ndarray, description: str = "") -> None:
    """Write an MGH file with a text in its header."""
    content = bytearray(nib.MGHImage(data, affine).to_bytes())
    room = UNUSED_IN_MGH.stop - UNUSED_IN_MGH.start
    content[UNUSED_IN_MGH] = description.encode("ascii", "replace")[:room].ljust(room, b"\0")
    with ImageOpener(path, "wb") as file:
        file.write(content)
