"""Fetch the files of a manifest's subjects into a cache: out of packages, from S3, or from where they lie.

Packages are those of the Python or npm index, out of which a file is read: nothing in them is installed or
executed. S3 is read with the user's own credentials, as fsspec and s3fs find them; they are written nowhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from joblib import Parallel, delayed

from sprl_utils.manifest import Subject

#: Downloads from S3 side by side.
STREAMS = 4


class SourceUnavailable(RuntimeError):
    """Files could not be had: no npm on this machine, no network, no credentials, or no such thing."""


def fetch(subject: Subject, cache: str | os.PathLike) -> list[Path]:
    """Paths of the subject's HR files, in the order of ``member``, fetched to ``cache/<id>/`` if missing.

    With all of them cached and their sha256 right, no network, pip or npm is needed. A download takes its
    place only after its sha256 was checked.

    Raises:
        FileNotFoundError: a local file that is not there.
        SourceUnavailable: the package, or the object on S3, cannot be had.
        ValueError: no such file in the package, or a wrong sha256.
    """
    return _fetch_source(subject.source, [subject], Path(cache))[subject.id]


def fetch_all(
    subjects: Iterable[Subject],
    cache: str | os.PathLike,
    stop_at_failure: bool = False,
    log: Callable[[str], object] = print,
) -> dict[str, list[Path]]:
    """`fetch` for many, by id: each package is downloaded once and then deleted.

    Subjects that cannot be had are left out, each with a line to ``log`` at the end.

    Args:
        stop_at_failure: raise the first failure instead, but that of a package of npm.
    """
    subjects = list(subjects)
    by_source: dict[str, list[Subject]] = {}
    for subject in subjects:
        alone = subject.source in ("local", "s3")
        by_source.setdefault(subject.id if alone else subject.source, []).append(subject)
    tries = Parallel(n_jobs=STREAMS, prefer="threads")(
        delayed(_try)(group, Path(cache)) for group in by_source.values()
    )
    found: dict[str, list[Path]] = {}
    for group, (files, error) in zip(by_source.values(), tries, strict=True):
        if error and stop_at_failure and not group[0].source.startswith("npm:"):
            raise error
        if error:
            log(f"skipped {', '.join(s.id for s in group)}: {error}")
        found |= files
    return {s.id: found[s.id] for s in subjects if s.id in found}


def _try(group: Sequence[Subject], cache: Path) -> tuple[dict[str, list[Path]], Exception | None]:
    try:
        return _fetch_source(group[0].source, group, cache), None
    except (SourceUnavailable, OSError, ValueError) as error:
        return {}, error


def _fetch_source(source: str, subjects: Sequence[Subject], cache: Path) -> dict[str, list[Path]]:
    """Fetch all subjects of one source with at most one download."""
    if source == "local":
        return {s.id: _local_files(s) for s in subjects}
    missing = [s for s in subjects if not _is_cached(s, cache)]
    if source == "s3":
        for subject in missing:
            _copy_from_s3(subject, cache)
    elif missing:
        with tempfile.TemporaryDirectory() as folder:
            archive = _download(source, folder)
            for subject in missing:
                _unpack(subject, archive, cache)
    return {s.id: _cached_files(s, cache) for s in subjects}


def _copy_from_s3(subject: Subject, cache: Path) -> None:
    import fsspec  # with s3fs: no one else needs them

    files = _cached_files(subject, cache)
    for address, file, expected in zip(subject.members, files, subject.hashes, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            fsspec.filesystem("s3").get_file(address, str(beside))
            _check_sha256(subject, address, expected, _sha256(beside))
            os.replace(beside, file)
        except ValueError:
            raise
        except Exception as error:  # botocore has its own for each: no credentials, no such key, no network
            raise SourceUnavailable(
                f"subject {subject.id}: {address}: expected an object that your credentials open, found "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error
        finally:
            beside.unlink(missing_ok=True)


def _cached_files(subject: Subject, cache: Path) -> list[Path]:
    return [cache / subject.id / Path(member).name for member in subject.members]


def _local_files(subject: Subject) -> list[Path]:
    for file in [*subject.members, *filter(None, [subject.lr])]:
        if not Path(file).is_file():
            raise FileNotFoundError(f"subject {subject.id}: expected {file}, found no such file")
    for file, expected in zip(subject.members, subject.hashes, strict=True):
        _check_sha256(subject, file, expected, _sha256(Path(file)))
    return [Path(file) for file in subject.members]


def _is_cached(subject: Subject, cache: Path) -> bool:
    for file, expected in zip(_cached_files(subject, cache), subject.hashes, strict=True):
        if not file.is_file():
            return False
        found = _sha256(file)
        if expected and found != expected:
            warnings.warn(
                f"subject {subject.id}: cached {file}: expected sha256 {expected}, found {found}: "
                "fetching it again",
                stacklevel=4,
            )
            return False
    return True


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _check_sha256(subject: Subject, file: str, expected: str, found: str) -> None:
    if expected and found != expected:
        raise ValueError(f"subject {subject.id}: {file}: expected sha256 {expected}, found {found}")


def _download(source: str, folder: str) -> Path:
    """Download one package into an empty folder; returns the wheel or tarball."""
    index, spec = source.split(":", 1)
    if index == "pypi":
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            spec,
        ]
    else:
        npm = shutil.which("npm")
        if npm is None:
            raise SourceUnavailable(f"{source}: expected npm on this machine, found none")
        command = [npm, "pack", "--silent", "--ignore-scripts", spec]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    files = list(Path(folder).iterdir())
    if done.returncode or len(files) != 1:
        lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        reason = next((line for line in lines if "error" in line.lower()), lines[-1])
        raise SourceUnavailable(f"{source}: expected one package, found none ({reason.strip()})")
    return files[0]


def _unpack(subject: Subject, archive: Path, cache: Path) -> None:
    """Read the subject's files out of a wheel or tarball; each is checked, then renamed into the cache."""
    files = _cached_files(subject, cache)
    for member, file, expected in zip(subject.members, files, subject.hashes, strict=True):
        data = _read_member(subject, archive, member)
        _check_sha256(subject, f"{member} of {subject.source}", expected, hashlib.sha256(data).hexdigest())
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            beside.write_bytes(data)
            os.replace(beside, file)
        finally:
            beside.unlink(missing_ok=True)


def _read_member(subject: Subject, archive: Path, member: str) -> bytes:
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                return wheel.read(member)
        with tarfile.open(archive) as tarball:
            stream = tarball.extractfile(member)
            if stream is None:
                raise KeyError(member)
            return stream.read()
    except KeyError as error:
        raise ValueError(
            f"subject {subject.id}: {subject.source}: expected the file {member}, "
            "found none of that name in the package"
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise ValueError(
            f"subject {subject.id}: {subject.source}: expected a package, found {archive.name}, "
            f"which cannot be read ({error})"
        ) from error
