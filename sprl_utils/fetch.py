"""Fetch the files of a manifest's subjects into a cache: out of packages, from an address, or from S3.

Packages are those of the Python or npm index, out of which a file is read: nothing in them is installed or
executed. S3 is read with the user's own credentials, as fsspec and s3fs find them, which are written nowhere;
of a public bucket it is read without any.
A folder that holds heads already, named by the environment variable ``SPRL_HEADS``, spares the download.
"""

import functools
import gzip
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pooch
from joblib import Parallel, delayed
from requests import RequestException

from sprl_utils.files import atomic_write, sha256
from sprl_utils.manifest import Subject, file_name

#: Downloads side by side.
STREAMS = 4
NPM_REGISTRY = "https://registry.npmjs.org/"
PIP_DOWNLOAD = "-m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest"
Result = list[Path] | Exception


class SourceUnavailable(RuntimeError):
    """Files cannot be had: no network, no credentials, or no such thing."""


def fetch(subject: Subject, cache: str | os.PathLike) -> list[Path]:
    """Paths of the subject's HR files, in the order of ``member``, fetched to ``cache/<id>/`` if missing.

    With all of them cached and their sha256 right, no network is needed. A download takes its place only
    after its sha256 was checked.

    Raises:
        FileNotFoundError: a local file that is not there.
        SourceUnavailable: the package, the address or the object on S3 cannot be had.
        ValueError: no such file in the package, or a wrong sha256.
    """
    result = _fetch_source([subject], Path(cache))[subject.id]
    if isinstance(result, Exception):
        raise result
    return result


def fetch_all(
    subjects: Iterable[Subject],
    cache: str | os.PathLike,
    stop_at_failure: bool = False,
    log: Callable[[str], object] = print,
) -> dict[str, list[Path]]:
    """`fetch` for many, by id: each package is downloaded once and then deleted.

    Subjects that cannot be had are left out, each with a line to ``log`` at the end.

    Args:
        stop_at_failure: raise the first failure instead. Heads of npm are left out all the same: a mirror of
            the Python index is common, one of npm's is not, and the demo trains without them.
    """
    subjects = list(subjects)
    sources: dict[str, list[Subject]] = {}
    for subject in subjects:
        is_package = subject.source.startswith(("pypi:", "npm:"))
        sources.setdefault(subject.source if is_package else subject.id, []).append(subject)
    fetched = Parallel(n_jobs=STREAMS, prefer="threads")(
        delayed(_fetch_source)(group, Path(cache)) for group in sources.values()
    )
    results = {i: result for group in fetched for i, result in group.items()}
    failed: dict[str, list[str]] = {}
    for subject in subjects:
        if isinstance(error := results[subject.id], Exception):
            if stop_at_failure and not subject.source.startswith("npm:"):
                raise error
            failed.setdefault(str(error), []).append(subject.id)
    for reason, ids in failed.items():
        log(f"skipped {', '.join(ids)}: {reason}")
    return {s.id: results[s.id] for s in subjects if not isinstance(results[s.id], Exception)}


def _fetch_source(subjects: Sequence[Subject], cache: Path) -> dict[str, Result]:
    """Files of the subjects of one source, whose package is downloaded at most once, or what was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        package = functools.cache(lambda: _attempt(_download_package, subjects[0].source, Path(folder)))
        return {s.id: _attempt(_files, s, cache, package) for s in subjects}


def _attempt(function: Callable, *arguments: object) -> object:
    try:
        return function(*arguments)
    except (SourceUnavailable, OSError, ValueError) as error:
        return error


def _files(subject: Subject, cache: Path, package: Callable[[], Path | Exception]) -> list[Path]:
    if subject.source == "local":
        return _local_files(subject)
    files = [cache / subject.id / file_name(member) for member in subject.members]
    if _are_cached(subject, files):
        return files
    for member, file, expected in zip(subject.members, files, subject.hashes, strict=True):
        with atomic_write(file) as beside:
            if known := _at_hand(file.name, expected):
                shutil.copyfile(known, beside)
            elif subject.source.startswith("s3"):
                _copy_from_s3(subject, member, beside)
            elif subject.source == "https":
                _download(member, beside)
            else:
                _unpack(subject, package(), member, beside)
            name = member if "://" in member else f"{member} of {subject.source}"
            _check_sha256(subject, name, expected, beside)
    return files


def _at_hand(name: str, expected: str) -> Path | None:
    """A file of this name and sha256 in the folder of the environment variable `SPRL_HEADS`."""
    folder = os.environ.get("SPRL_HEADS")
    if not folder or not expected:
        return None
    return next((file for file in sorted(Path(folder).rglob(name)) if sha256(file) == expected), None)


def _local_files(subject: Subject) -> list[Path]:
    for file in [*subject.members, *filter(None, [subject.lr])]:
        if not Path(file).is_file():
            raise FileNotFoundError(f"subject {subject.id}: expected {file}, found no such file")
    for file, expected in zip(subject.members, subject.hashes, strict=True):
        _check_sha256(subject, file, expected, Path(file))
    return [Path(file) for file in subject.members]


def _are_cached(subject: Subject, files: Sequence[Path]) -> bool:
    if not all(file.is_file() for file in files):
        return False
    try:
        for file, expected in zip(files, subject.hashes, strict=True):
            _check_sha256(subject, f"cached {file}", expected, file)
    except ValueError as error:
        warnings.warn(f"{error}: it is fetched again", stacklevel=4)
        return False
    return True


def _check_sha256(subject: Subject, name: str, expected: str, file: Path) -> None:
    """Without a hash to compare with the file is not read."""
    if expected and (found := sha256(file)) != expected:
        raise ValueError(f"subject {subject.id}: {name}: expected sha256 {expected}, found {found}")


# ---- sources ------------------------------------------------------------------------------------------


def _copy_from_s3(subject: Subject, address: str, target: Path) -> None:
    import fsspec  # with s3fs: no one else needs them

    try:
        s3 = fsspec.filesystem("s3", anon=subject.source == "s3-unsigned")
        s3.get_file(address, str(target))
    except Exception as error:  # botocore has its own for each: no credentials, no such key, no network
        raise SourceUnavailable(
            f"subject {subject.id}: {address}: expected an object that may be read, found "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _download(url: str, target: Path) -> None:
    """Download a file as it is: a server's own compression of the transfer would be undone on the way."""
    downloader = pooch.HTTPDownloader(headers={"Accept-Encoding": "identity"})
    try:
        downloader(url, target, None)
    except RequestException as error:
        reason = " ".join(str(error).split())
        raise SourceUnavailable(f"{url}: expected a file, found none ({reason})") from error


def _download_package(source: str, folder: Path) -> Path:
    """Download one package into an empty folder; returns the wheel or tarball."""
    index, spec = source.split(":", 1)
    if index == "npm":
        name, version = spec.rsplit("@", 1)
        tarball = folder / "package.tgz"
        _download(f"{_npm_registry()}{name}/-/{name.rpartition('/')[2]}-{version}.tgz", tarball)
        return tarball
    # pip itself, because it knows the user's indexes, mirrors and certificates.
    command = [sys.executable, *PIP_DOWNLOAD.split(), str(folder), spec]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    files = list(folder.iterdir())
    if done.returncode or len(files) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
        reasons = [line for word in ("connection broken", "error") for line in lines if word in line.lower()]
        raise SourceUnavailable(f"{source}: expected one package, found none ({[*reasons, lines[-1]][0]})")
    return files[0]


def _npm_registry() -> str:
    """The registry that npm is configured for: by a variable, by the user's ``.npmrc``, or the public one."""
    names = ("npm_config_registry", "NPM_CONFIG_REGISTRY")
    if not (registry := next(filter(None, map(os.environ.get, names)), "")):
        npmrc = Path.home() / ".npmrc"
        text = npmrc.read_text(encoding="utf-8", errors="replace") if npmrc.is_file() else ""
        line = re.search(r"^\s*registry\s*=\s*[\"']?([^\s\"']+)", text, re.MULTILINE)
        registry = line[1] if line else NPM_REGISTRY
    return registry.rstrip("/") + "/"


def _unpack(subject: Subject, package: Path | Exception, member: str, target: Path) -> None:
    """Read one file out of a wheel, zip or tarball."""
    if isinstance(package, Exception):
        raise package
    try:
        if zipfile.is_zipfile(package):
            with zipfile.ZipFile(package) as opened:
                target.write_bytes(opened.read(member))
        else:
            with tarfile.open(package) as opened:
                target.write_bytes(opened.extractfile(member).read())
    except (KeyError, AttributeError) as error:  # no such name, or a folder's
        raise ValueError(
            f"subject {subject.id}: {subject.source}: expected the file {member}, "
            "found none of that name in the package"
        ) from error
    except (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"subject {subject.id}: {subject.source}: expected a package, "
            f"found one that cannot be read ({error})"
        ) from error
