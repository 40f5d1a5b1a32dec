"""What a number needs to be made again: seeds, process settings, versions, hardware, hashes.

Nothing that names a person or a machine is written down: no user or host names, no environment variables, and
no path outside the repository.
"""

import contextlib
import ctypes
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import cpu_count

from sprl_utils import __version__
from sprl_utils.files import sha256, write_atomically

#: The packages that a number depends on.
PACKAGES = (
    "torch",
    "openvino",
    "lightning-fabric",
    "numpy",
    "scipy",
    "nibabel",
    "scikit-image",
    "simpleitk",
    "edt",
    "pandas",
    "matplotlib",
    "safetensors",
    "joblib",
)
OUTSIDE = "outside the repository"
#: Seconds within which a file may change again without another time on it.
TICK = 2

# mallopt's options and the values that cure page faults (glibc, malloc.h)
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
MALLOPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 256 * 2**20}


def repo_root() -> Path:
    """The repository that holds the working directory, else the one this package is installed from.

    Raises:
        FileNotFoundError: neither is a checkout of the study.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[1]):
        if (folder / "sprl_utils" / "__init__.py").is_file() and (folder / "notebooks").is_dir():
            return folder
    raise FileNotFoundError(f"repository: expected sprl_utils/ and notebooks/ in {here} or above, found none")


def tune_process(threads: int | None = None) -> dict[str, Any]:
    """Settings of this process that make torch faster on a CPU; call it before any work.

    glibc gives a big block back to the kernel as soon as it is freed, and the page faults of getting it again
    take half the time of a training step: it is told to keep them. Denormal numbers count as 0, because they
    are slow; threads started later inherit that.

    Args:
        threads: for torch's operations; None: torch's own choice.

    Returns:
        What was set, for environment.json; ``allocator_tuned`` is False elsewhere than on glibc.
    """
    tuned = False
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        tuned = all(libc.mallopt(option, value) == 1 for option, value in MALLOPT.items())
    flush = torch.set_flush_denormal(True)
    if threads is not None:
        torch.set_num_threads(threads)
    return {"allocator_tuned": tuned, "flush_denormal": flush, "threads": torch.get_num_threads()}


def environment(
    profile: Mapping[str, Any],
    inputs: Iterable[str | os.PathLike] = (),
    outputs: Iterable[str | os.PathLike] = (),
) -> dict[str, Any]:
    """Everything a run depended on, as plain JSON: code, versions, hardware, settings, hashes of files.

    Args:
        profile: the run's settings, whatever the notebook holds to be one.
        inputs, outputs: files to hash. Inside the repository they are listed by their path from its root,
            outside it by a number, for a file's name may be a subject's.

    Raises:
        FileNotFoundError: a file is not there.
    """
    root = repo_root()
    return {
        "sprl_utils": __version__,
        "git": _git(root),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": " ".join([platform.system(), platform.machine(), *platform.libc_ver()]).strip(),
        "cpu": {
            "model": _cpu_model(),
            "count": cpu_count(),  # that this process may use
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "profile": _plain(profile, root),
        "inputs": _hashes(inputs, root, known_sha256),
        "outputs": _hashes(outputs, root, sha256),
    }


def known_sha256(path: str | os.PathLike) -> str:
    """Hex digest of a file that is read at each start, remembered in ``runs/cache/``.

    Its place, size and times must be the same for that; none of them can be read from what is written.
    """
    info = os.stat(path)
    stamp = f"{os.path.abspath(path)} {info.st_size} {info.st_mtime_ns} {info.st_ctime_ns}"
    try:
        folder = repo_root() / "runs" / "cache" / "sha256"
    except FileNotFoundError:  # a worker of a cluster need not have a checkout
        return sha256(path)
    note = folder / hashlib.sha256(os.fsencode(stamp)).hexdigest()
    if note.is_file():
        return note.read_text(encoding="ascii")
    found = sha256(path)
    if time.time() - max(info.st_mtime, info.st_ctime) > TICK:
        with contextlib.suppress(OSError):  # a checkout that is read-only, or a full disk
            write_atomically(note, found)
    return found


def keep_record(run: str | os.PathLike, found: dict[str, Any]) -> dict[str, Any]:
    """The provenance record of a finished training run: the first one, which is kept in the run's folder.

    A run that is opened again was not made by the code and machine that open it. Only what it is validated
    on may change then, and the tables of that. Other weights are another run, with a new record.

    Args:
        run: folder of the run.
        found: the record as `environment` gives it now, with the run's outputs.
    """
    path = Path(run) / "environment.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if kept and _without_tables(kept["outputs"]) == _without_tables(found["outputs"]):
        validation = {k: v for k, v in found["profile"].items() if k.startswith("validation")}
        found = kept | {"outputs": found["outputs"], "profile": kept["profile"] | validation}
    if found != kept:
        write_json(path, found)
    return found


def _without_tables(outputs: Mapping[str, str]) -> dict[str, str]:
    return {path: sha for path, sha in outputs.items() if not path.endswith(".csv")}


def without_place(text: str, root: Path) -> str:
    """A notebook's JSON with paths from the repository's root: its warnings name files of this machine."""
    return text.replace(json.dumps(f"{root}{os.sep}", ensure_ascii=False)[1:-1], "")


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write JSON beside ``path`` and rename it into place.

    Raises:
        TypeError, ValueError: ``obj`` holds something that JSON has no word for, NaN and Inf included.
    """
    write_atomically(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _git(root: Path) -> dict[str, Any]:
    """Commit, and whether anything but results/, which a run itself writes, differs from it.

    Both are None without git, and where the files came as an archive: a repository around them that tracks
    none of them is another's.
    """
    try:
        run_git(root, "ls-files", "--error-unmatch", ".")
        commit = run_git(root, "rev-parse", "HEAD")
        changes = run_git(root, "status", "--porcelain", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changes)}


def run_git(root: Path, *args: str) -> str:
    """What git says in ``root``.

    Raises:
        OSError, subprocess.CalledProcessError: no git, or it fails.
    """
    command = ["git", "-C", str(root), *args]
    return subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace").strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def _plain(value: Any, root: Path) -> Any:
    """``value`` as JSON knows it, with paths from the repository's root."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v, root) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, root) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist(), root)
    if isinstance(value, os.PathLike) or (isinstance(value, str) and Path(value).is_absolute()):
        return _relative(value, root) or OUTSIDE
    return value


def _relative(path: str | os.PathLike, root: Path) -> str | None:
    """``path`` from the repository's root, or None: outside. ``runs/`` may be a link to elsewhere."""
    for full, top in ((os.path.abspath(root / path), root), ((root / path).resolve(), root.resolve())):
        if Path(full).is_relative_to(top):
            return Path(full).relative_to(top).as_posix()
    return None


def _hashes(files: Iterable[str | os.PathLike], root: Path, digest: Callable[[Path], str]) -> dict[str, str]:
    return {
        _relative(path, root) or f"{OUTSIDE}, file {i + 1}": digest(root / path)
        for i, path in enumerate(files)
    }


def main(source: str, target: str) -> None:
    """Write the notebook ``source`` to ``target`` without the paths of this machine."""
    write_atomically(target, without_place(Path(source).read_text(encoding="utf-8"), Path.cwd()))


if __name__ == "__main__":
    main(*sys.argv[1:])
