"""The full-size rehearsal: synthetic heads in HCP's folders go through every stage, timed.

What all of HCP and the paper's step counts would take follows from that: on this machine from the times
measured, on GPUs from the operations of a step.

``python -m sprl_utils.comparison.rehearsal`` (`make rehearsal`).
"""

from __future__ import annotations

import argparse
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
from sprl_utils.manifest import read_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.profiles import read_profile
from sprl_utils.provenance import environment, repo_root, write_json
from sprl_utils.volumes import read_volume

PROFILE = "rehearsal"
SHAPE, VOXEL = (256, 320, 320), 0.7
SUBJECTS = 1113
#: The paper's steps of either stage.
STEPS = {"pretrain": 500_000, "gan": 550_000}
#: What a GPU is taken to sustain: about a third of an A100's 312 TFLOP/s of dense bfloat16.
GPU_TFLOPS = 100


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
        beside = file.with_name(f".{file.name}.{os.getpid()}.nii.gz")
        nib.save(nib.Nifti1Image(stored, np.diag([VOXEL, VOXEL, VOXEL, 1])), beside)
        os.replace(beside, file)


def timed(name: str, command: Sequence[str]) -> dict[str, str | float]:
    """Run a command; its seconds, and the most memory that one of its processes was seen to hold, in GiB.

    Raises:
        ChildProcessError: it failed.
    """
    print(f"{name} ...", flush=True)
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
    return {
        "stage": name,
        "seconds": round(time.perf_counter() - start, 1),
        "peak_gib": round(peak / 2**30, 2),
    }


def run_stages(subjects: int, steps: dict[str, int]) -> pd.DataFrame:
    """Every stage on the heads of `write_heads`; one row a stage.

    A training stage is run twice: the second run finds it finished, and takes what is not training.
    """
    sprl = [sys.executable, "-m", "sprl_utils"]
    listed = f"runs/{PROFILE}/hcp.csv"
    make = ["make", "--no-print-directory", "--silent", f"PROFILE={PROFILE}", f"PYTHON={sys.executable}"]

    def notebook(name: str) -> list[str]:
        return [*make, f"results/{PROFILE}/{name}.ipynb"]

    names = {"pretrain": "02_pretrain_generator", "gan": "03_train_gan"}

    rows = [
        timed("manifest", [*sprl, "manifest", f"runs/{PROFILE}/hcp", listed, "--force"]),
        timed("prepare", notebook("01_prepare_data")),
    ]
    for stage in steps:
        train = notebook(names[stage])
        again = [*train, "-W", f"notebooks/{names[stage]}.py"]  # as if it had been edited
        rows += [timed(stage, train), timed(f"{stage}, nothing left to do", again)]
    rows.append(timed("evaluate", notebook("04_evaluate")))
    return pd.DataFrame(rows).assign(subjects=subjects)


def outlook(
    stages: pd.DataFrame, subjects: int, steps: dict[str, int], gflop: dict[str, float]
) -> pd.DataFrame:
    """What HCP and the paper's steps would take: ``days`` on this machine, on one GPU and on eight.

    Args:
        stages: of `run_stages`.
        steps: those that it ran, a stage.
        gflop: operations of one step of 2 x 64-cube, a stage.

    Preparation scales with the subjects, training with the steps. Eight GPUs see as many cubes in an eighth
    of the steps.
    """
    seconds = stages.set_index("stage")["seconds"]
    here = seconds["prepare"] / subjects * SUBJECTS
    rows = [{"what": f"prepare {SUBJECTS:,} subjects", "this machine": here / 86400}]
    for stage, count in STEPS.items():
        step = (seconds[stage] - seconds[f"{stage}, nothing left to do"]) / steps[stage]
        gpu = gflop[stage] / (1000 * GPU_TFLOPS) * count / 86400
        rows.append(
            {
                "what": f"{count:,} steps of {stage}, 2 x 64-cube",
                "seconds a step": step,
                "this machine": step * count / 86400,
                "one GPU": gpu,
                "eight GPUs": gpu / 8,
            }
        )
    return pd.DataFrame(rows).round(3)


def _sources(root: Path) -> list[np.ndarray]:
    """The demo's two sharpest heads without noise, on their intensity scale."""
    heads = [s for s in read_manifest(root / "data_manifest" / "demo.csv") if s.id in ("colin27", "oasis")]
    volumes = [read_volume(fetch(s, root / "runs" / "cache")[0], s.id).data for s in heads]
    return [np.clip(v / intensity_scale(v), 0, 1.2) for v in volumes]


def _gflop_of_a_step(root: Path) -> dict[str, float]:
    """Counted by `make bench`; a GAN step is the mean of the paper's cycle, 7 of D and 1 of G."""
    counted = pd.read_csv(root / "results" / "bench" / "ceilings.csv").set_index("task")["gflop"]
    return {"pretrain": counted["pretraining step"], "gan": (7 * counted["D step"] + counted["G step"]) / 8}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the heads, run the stages, write ``results/rehearsal/``."""
    parser = argparse.ArgumentParser(prog="python -m sprl_utils.comparison.rehearsal", description=__doc__)
    parser.add_argument("--subjects", type=int, default=8, help="heads to make, of 0.3 GB each (8)")
    subjects = parser.parse_args(arguments).subjects
    root = repo_root()
    os.chdir(root)
    for done in ("prepared", "pretrain", "gan"):  # what is there already would be timed as nothing
        shutil.rmtree(root / "runs" / PROFILE / done, ignore_errors=True)
    for notebook in (root / "runs" / PROFILE).glob("0*.ipynb"):
        notebook.unlink()
    write_heads(root / "runs" / PROFILE / "hcp", subjects, _sources(root))
    profile = read_profile(root / "notebooks" / "profiles" / f"{PROFILE}.yaml")
    steps = {"pretrain": profile["pretrain_steps"], "gan": profile["gan_steps"]}
    stages = run_stages(subjects, steps)
    out = root / "results" / PROFILE
    stages.to_csv(out / "stages.csv", index=False)
    table = outlook(stages, subjects, steps, _gflop_of_a_step(root))
    table.to_csv(out / "outlook.csv", index=False)
    used = {"subjects": subjects, "shape": SHAPE, "gpu_tflops": GPU_TFLOPS, **profile}
    write_json(out / "rehearsal_environment.json", environment(used))
    print(stages.to_string(index=False), table.to_string(index=False), sep="\n\n")


if __name__ == "__main__":
    main()
