"""The full-size rehearsal: synthetic heads of HCP's size and folders go through every stage, timed.

``python -m sprl_utils.comparison.rehearsal`` (`make rehearsal`) writes ``results/rehearsal/stages.csv``.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import psutil

from sprl_utils.comparison.bench import head_of_size
from sprl_utils.extras.synthetic import synthetic_head
from sprl_utils.fetch import fetch
from sprl_utils.files import atomic_write
from sprl_utils.manifest import read_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.prepare import CLIP
from sprl_utils.profiles import read_profile
from sprl_utils.provenance import environment, repo_root, write_json
from sprl_utils.volumes import read_volume

PROFILE = "rehearsal"
SHAPE, VOXEL = (256, 320, 320), 0.7
#: Heads to make, of 0.3 GB each.
SUBJECTS = 8


def write_heads(root: Path, count: int, sources: Sequence[np.ndarray], seed: int = 0) -> None:
    """``count`` synthetic heads of HCP's size, 12-bit, in HCP's folders; one that is there is left.

    Args:
        sources: heads of 1 mm on their intensity scale, taken by turns.
    """
    for i in range(count):
        subject_id = str(900_000 + i)
        file = root / subject_id / "unprocessed" / "3T" / "T1w_MPR1" / f"{subject_id}_3T_T1w_MPR1.nii.gz"
        if file.exists():
            continue
        head = head_of_size(synthetic_head(sources[i % len(sources)], seed + i), SHAPE)
        stored = np.clip(np.round(head / head.max() * 4095), 0, 4095).astype(np.int16)
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as beside:
            nib.save(nib.Nifti1Image(stored, np.diag([VOXEL, VOXEL, VOXEL, 1])), beside)


def timed(name: str, command: Sequence[str]) -> dict[str, str | float]:
    """Run a command; its seconds, and the most memory that one of its processes was seen to hold, in GiB.

    Raises:
        ChildProcessError: it failed.
    """
    print(f"{name}: running", flush=True)
    start, peak = time.perf_counter(), 0
    child = psutil.Popen(list(command))
    while child.poll() is None:
        with contextlib.suppress(psutil.Error):  # a process that has just ended
            peak = max(peak, *(p.memory_info().rss for p in (child, *child.children(recursive=True))))
        time.sleep(0.05)
    if child.returncode:
        raise ChildProcessError(
            f"{name}: expected {' '.join(command)} to succeed, found status {child.returncode}"
        )
    seconds = round(time.perf_counter() - start, 1)
    return {"stage": name, "seconds": seconds, "peak_gib": round(peak / 2**30, 2)}


def run_stages() -> pd.DataFrame:
    """Every stage on the heads of `write_heads`; one row per stage.

    A training stage runs twice. The second run finds it finished: its time is what is not training.
    """
    sprl = [sys.executable, "-m", "sprl_utils"]
    make = ["make", "--no-print-directory", "--silent", f"PROFILE={PROFILE}", f"PYTHON={sys.executable}"]
    names = {"pretrain": "02_pretrain_generator", "gan": "03_train_gan"}
    manifest = [*sprl, "manifest", f"runs/{PROFILE}/hcp", f"runs/{PROFILE}/hcp.csv", "--force"]
    rows = [
        timed("manifest", manifest),
        timed("prepare", [*make, f"results/{PROFILE}/01_prepare_data.ipynb"]),
    ]
    for stage, name in names.items():
        train = [*make, f"results/{PROFILE}/{name}.ipynb"]
        again = [*train, "-W", f"notebooks/{name}.py"]  # as if it had been edited
        rows += [timed(stage, train), timed(f"{stage}, nothing left to do", again)]
    rows.append(timed("evaluate", [*make, f"results/{PROFILE}/04_evaluate.ipynb"]))
    return pd.DataFrame(rows)


def _sources(root: Path) -> list[np.ndarray]:
    """The demo's two sharpest heads without noise, on their intensity scale."""
    heads = [s for s in read_manifest(root / "data_manifest" / "demo.csv") if s.id in ("colin27", "oasis")]
    volumes = [read_volume(fetch(s, root / "runs" / "cache")[0], s.id).data for s in heads]
    return [np.clip(v / intensity_scale(v), 0, CLIP) for v in volumes]


def main() -> None:
    """Write the heads, run the stages, write ``results/rehearsal/``."""
    root = repo_root()
    os.chdir(root)
    runs, out = root / "runs" / PROFILE, root / "results" / PROFILE
    for done in ("prepared", "pretrain", "gan"):  # what is finished would be timed as nothing
        shutil.rmtree(runs / done, ignore_errors=True)
    for notebook in runs.glob("0*.ipynb"):
        notebook.unlink()
    write_heads(runs / "hcp", SUBJECTS, _sources(root))
    profile = read_profile(root / "notebooks" / "profiles" / f"{PROFILE}.yaml")
    stages = run_stages().assign(subjects=SUBJECTS)
    stages.to_csv(out / "stages.csv", index=False)
    used = {"subjects": SUBJECTS, "shape": SHAPE, **profile}
    write_json(out / "rehearsal_environment.json", environment(used))
    print(stages.to_string(index=False))


if __name__ == "__main__":
    main()
