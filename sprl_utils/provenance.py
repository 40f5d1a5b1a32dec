"""What a number needs to be made again: seeds, process settings, versions, hardware, hashes.

Nothing that names a person or a machine is written down: no user or host names, no environment variables, and
no path outside the repository. Imports no other module.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import platform
import random
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sprl_utils import __version__
from sprl_utils.files import sha256, write_beside

#: The packages that a number depends on.
PACKAGES = (
    "torch",
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


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (CPU and GPU)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


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


def release_memory() -> None:
    """Give free memory back to the system, which a process tuned by `tune_process` does not do itself.

    For between two pieces of work of different sizes, whose blocks would not fit into each other's places.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


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
            "count": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "profile": _plain(profile, root),
        "inputs": _hashes(inputs, root),
        "outputs": _hashes(outputs, root),
    }


def told_once(run: str | os.PathLike, found: dict[str, Any]) -> dict[str, Any]:
    """What a finished run depended on: ``found`` the first time, kept in its folder; later what was kept.

    A run that is opened again after its end was not made by the code and machine that open it.

    Args:
        run: folder of the run.
        found: as `environment` tells it, with the run's outputs.
    """
    path = Path(run) / "environment.json"
    told = json.loads(path.read_text()) if path.is_file() else {}
    if told.get("outputs") == found["outputs"]:
        return told
    write_json(path, found)
    return found


def write_json(path: str | os.PathLike, obj: Any) -> None:
    """Write JSON beside ``path`` and rename it into place.

    Raises:
        TypeError, ValueError: ``obj`` holds something that JSON has no word for, NaN and Inf included.
    """
    write_beside(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _git(root: Path) -> dict[str, Any]:
    """Commit, and whether anything but results/, which a run itself writes, differs from it; None: no git."""
    try:
        commit = _run_git(root, "rev-parse", "HEAD")
        changes = _run_git(root, "status", "--porcelain", "--", ".", ":!results")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changes)}


def _run_git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )


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


def _hashes(files: Iterable[str | os.PathLike], root: Path) -> dict[str, str]:
    return {
        _relative(path, root) or f"{OUTSIDE}, file {i + 1}": sha256(root / path)
        for i, path in enumerate(files)
    }
