"""Fetch the files of a manifest's subjects into a cache: out of packages, from S3, or from where they lie.

Packages are those of the Python or npm index, out of which a file is read: nothing in them is installed or
executed. S3 is read with the user's own credentials, as fsspec and s3fs find them; they are written nowhere.
"""

from __future__ import annotations

import contextlib
import functools
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

from sprl_utils.files import atomic_write, sha256, write_atomically
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
    found, failed = _fetch_source(subject.source, [subject], Path(cache))
    if failed:
        raise failed[subject.id]
    return found[subject.id]


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
        delayed(_fetch_source)(group[0].source, group, Path(cache)) for group in by_source.values()
    )
    found: dict[str, list[Path]] = {}
    for source, (files, failed) in zip(by_source, tries, strict=True):
        if failed and stop_at_failure and not source.startswith("npm:"):
            raise next(iter(failed.values()))
        for told in dict.fromkeys(map(str, failed.values())):
            log(f"skipped {', '.join(i for i, error in failed.items() if str(error) == told)}: {told}")
        found |= files
    return {s.id: found[s.id] for s in subjects if s.id in found}


def _fetch_source(
    source: str, subjects: Sequence[Subject], cache: Path
) -> tuple[dict[str, list[Path]], dict[str, Exception]]:
    """Files of all subjects of one source, with at most one download, and what was wrong with the others."""
    found: dict[str, list[Path]] = {}
    failed: dict[str, Exception] = {}
    with contextlib.ExitStack() as stack:

        @functools.cache
        def archive() -> Path | Exception:
            try:
                return _download(source, stack.enter_context(tempfile.TemporaryDirectory()))
            except SourceUnavailable as error:
                return error

        for subject in subjects:
            try:
                found[subject.id] = _files(subject, cache, archive)
            except (SourceUnavailable, OSError, ValueError) as error:
                failed[subject.id] = error
    return found, failed


def _files(subject: Subject, cache: Path, archive: Callable[[], Path | Exception]) -> list[Path]:
    if subject.source == "local":
        return _local_files(subject)
    if _is_cached(subject, cache):
        return _cached_files(subject, cache)
    if subject.source == "s3":
        _copy_from_s3(subject, cache)
    elif isinstance(package := archive(), Exception):
        raise package
    else:
        _unpack(subject, package, cache)
    return _cached_files(subject, cache)


def _copy_from_s3(subject: Subject, cache: Path) -> None:
    import fsspec  # with s3fs: no one else needs them

    files = _cached_files(subject, cache)
    for address, file, expected in zip(subject.members, files, subject.hashes, strict=True):
        try:
            with atomic_write(file) as beside:
                fsspec.filesystem("s3").get_file(address, str(beside))
                _check_sha256(subject, address, expected, sha256(beside))
        except ValueError:
            raise
        except Exception as error:  # botocore has its own for each: no credentials, no such key, no network
            raise SourceUnavailable(
                f"subject {subject.id}: {address}: expected an object that your credentials open, found "
                f"{type(error).__name__}: {' '.join(str(error).split())}"
            ) from error


def _cached_files(subject: Subject, cache: Path) -> list[Path]:
    return [cache / subject.id / Path(member).name for member in subject.members]


def _local_files(subject: Subject) -> list[Path]:
    for file in [*subject.members, *filter(None, [subject.lr])]:
        if not Path(file).is_file():
            raise FileNotFoundError(f"subject {subject.id}: expected {file}, found no such file")
    for file, expected in zip(subject.members, subject.hashes, strict=True):
        if expected:
            _check_sha256(subject, file, expected, sha256(file))
    return [Path(file) for file in subject.members]


def _is_cached(subject: Subject, cache: Path) -> bool:
    for file, expected in zip(_cached_files(subject, cache), subject.hashes, strict=True):
        if not file.is_file():
            return False
        if expected and (found := sha256(file)) != expected:
            warnings.warn(
                f"subject {subject.id}: cached {file}: expected sha256 {expected}, found {found}: "
                "fetching it again",
                stacklevel=4,
            )
            return False
    return True


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
        command = [npm, "pack", "--loglevel=error", "--ignore-scripts", spec]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
    files = list(Path(folder).iterdir())
    if done.returncode or len(files) != 1:
        raise SourceUnavailable(f"{source}: expected one package, found none ({_reason(done)})")
    return files[0]


def _reason(done: subprocess.CompletedProcess) -> str:
    """The line in which pip or npm says why: the one about the network if there is one, else an error."""
    lines = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
    for word in ("request to ", "connection broken", "notarget", " 404 ", "error", "err!"):
        if found := next((line for line in lines if word in line.lower()), None):
            return found.strip()
    return lines[-1].strip()


def _unpack(subject: Subject, archive: Path, cache: Path) -> None:
    """Read the subject's files out of a wheel or tarball; each is checked, then renamed into the cache."""
    files = _cached_files(subject, cache)
    for member, file, expected in zip(subject.members, files, subject.hashes, strict=True):
        data = _read_member(subject, archive, member)
        _check_sha256(subject, f"{member} of {subject.source}", expected, hashlib.sha256(data).hexdigest())
        write_atomically(file, data)


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
