"""Small heads for the tests: smooth ellipsoids with inner structure, deterministic."""

import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import CHROMIUM, FLAGS
from playwright.sync_api import sync_playwright

from sprl_utils.kspace import truncate_kspace
from sprl_utils.patches import Prepared

os.environ.setdefault("MPLBACKEND", "agg")
torch.set_num_threads(int(os.environ.get("SPRL_TEST_THREADS", 2)))


def make_head(shape=(40, 44, 38), seed=0) -> np.ndarray:
    """An ellipsoid of intensity near 1 in air, with blobs inside: float32 ``(x, y, z)``."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    head = np.where(radius < 0.8, 0.7, 0.0)
    for _ in range(12):
        centre = rng.uniform(-0.5, 0.5, (3, 1, 1, 1))
        head += np.where(((grid - centre) ** 2).sum(0) < rng.uniform(0.01, 0.05), rng.uniform(-0.3, 0.3), 0)
    return np.clip(head, 0, 1.2).astype(np.float32)


def write_prepared(folder: Path, name: str, split: str, hr: np.ndarray, keep=(None, 0.5, 0.5)) -> Prepared:
    """A prepared subject's folder, as `sprl_utils.prepare` leaves it."""
    folder = folder / name
    folder.mkdir(parents=True)
    foreground = hr > 0.1
    arrays = {
        "hr": hr,
        "lr": truncate_kspace(hr, keep),
        "brain": foreground,
        "foreground": foreground,
        "centres": (np.argwhere(foreground[::4, ::4, ::4]) * 4).astype(np.int32),
    }
    for key, array in arrays.items():
        np.save(folder / f"{key}.npy", array)
    meta = {
        "id": name,
        "split": split,
        "group": name,
        "kind": "person",
        "scale": 1.0,
        "keep": list(keep),
        "shape": list(hr.shape),
        "affine": np.eye(4).tolist(),
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return Prepared(folder)


@pytest.fixture
def heads(tmp_path) -> dict[str, Prepared]:
    """One prepared head a split."""
    return {
        split: write_prepared(tmp_path / "prepared", f"{split}-head", split, make_head(seed=i))
        for i, split in enumerate(("train", "validation", "test"))
    }


@pytest.fixture(scope="session")
def committed(tmp_path_factory) -> Path:
    """The repository as committed: `make reproduce` writes another machine's numbers into results/demo/."""
    root, folder = Path(__file__).parents[1], tmp_path_factory.mktemp("committed") / "repository"
    packed = subprocess.run(["git", "archive", "HEAD"], cwd=root, capture_output=True)
    if packed.returncode:  # no git here
        left_out = ("runs", ".git", ".venv", ".pytest_cache", "__pycache__", "site", "smoke")
        return Path(shutil.copytree(root, folder, ignore=shutil.ignore_patterns(*left_out), symlinks=True))
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture
def browser():
    """Chromium without a window; a test that takes it is marked ``needs_browser``."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def like_a_scan(shape, seed=0):
    """Noise whose power falls with frequency as an image's does, above 0."""
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij")))
    noise = np.fft.fftn(np.random.default_rng(seed).standard_normal(shape))
    image = np.fft.ifftn(noise / np.maximum(frequency, 0.02) ** 1.5).real
    return (image - image.min()).astype(np.float32)


def hcp_tree(root, *ids, lr=False) -> None:
    """Empty files in the Human Connectome Project's folder layout."""
    for i in ids:
        folder = root / i / "unprocessed" / "3T" / "T1w_MPR1"
        folder.mkdir(parents=True)
        (folder / f"{i}_3T_T1w_MPR1.nii.gz").touch()
        if lr:
            (folder / f"{i}_LR.mat").touch()
