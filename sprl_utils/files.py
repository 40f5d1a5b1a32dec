"""Hashes, and atomic writes: a file is whole or not there. Imports no other module."""

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
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Atomic write: yields a temporary file, which replaces ``path`` when the ``with`` block ends well.

    It lies in the same folder, which is made, and its name has the same ending, by which libraries choose a
    format. No reader ever sees half a file, and the old file is kept if the block fails. A symbolic link is
    followed: the file that it leads to is replaced, and the link is kept.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{os.getpid()}.tmp.{Path(path).name}")
    try:
        yield beside
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def write_atomically(path: str | os.PathLike, content: bytes | memoryview | str) -> None:
    """Atomic write of a whole content, down to the disk.

    Raises:
        OSError: it cannot be written (a full disk); the old file is kept.
    """
    content = content.encode() if isinstance(content, str) else content
    try:
        with atomic_write(path) as beside, open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        wanted = f"{path}: expected to write {len(content)} bytes"
        raise OSError(error.errno, f"{wanted}, found {error.strerror}; the old file is kept") from error
