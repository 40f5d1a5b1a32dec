"""Files that are whole or not there: hashes, and writing beside and renaming. Imports no other module."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def written_beside(path: str | os.PathLike) -> Iterator[Path]:
    """A file to write in the ``with`` block; it takes the place of ``path`` when the block ends well.

    It lies in the same folder, which is made, and its name has the same ending, by which libraries choose a
    format. No reader ever sees half a file, and what was there before stays if the block fails. A symbolic
    link is followed: the file that it leads to is replaced, and the link stays.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{os.getpid()}.tmp.{Path(path).name}")
    try:
        yield beside
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def write_beside(path: str | os.PathLike, content: bytes | memoryview | str) -> None:
    """Write a file through `written_beside`, down to the disk.

    Raises:
        OSError: it cannot be written (a full disk); what was there before is still there.
    """
    content = content.encode() if isinstance(content, str) else content
    try:
        with written_beside(path) as beside, open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        told = f"{path}: expected to write {len(content)} bytes, found {error.strerror}; the last one stays"
        raise OSError(error.errno, told) from error
