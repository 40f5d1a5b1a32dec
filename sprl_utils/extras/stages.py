"""Run a training stage from its plan: in this process, or in several that torchrun starts.

A plan is a dict of plain values, written by notebook 02 or 03 to ``runs/<profile>/<stage>_plan.json``:

- ``profile``; ``stage``: ``"pretrain"`` or ``"gan"``; ``device`` and ``precision`` of `make_fabric`,
- ``folder``: the run's folder in ``runs/<profile>/`` where it is not named like the stage,
- ``patches``: arguments of `training_patches`,
- ``validation``: ``{"patches": 8, "patch_size": 32, "seed": 1}``, or ``{"crop": [64, 96, 96]}`` for the GAN,
- ``start``: weights to begin with, a path from the repository's root; empty: none,
- ``settings``: of `PretrainSettings` or `GanSettings`.

``python -m sprl_utils.extras.stages PLAN.json`` runs one, also under torchrun, on one machine or several.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from joblib import cpu_count

from sprl_utils.checkpoints import Report
from sprl_utils.extras.slices import SlicePatches
from sprl_utils.original.grid import GridPatches
from sprl_utils.patches import Patches, Prepared, RandomPatches
from sprl_utils.prepare import load_prepared
from sprl_utils.provenance import repo_root, write_json
from sprl_utils.training import GanSettings, PretrainSettings, make_fabric, pretrain, train_gan

#: Random patches by the name that profiles give them: LR as it was prepared, or thick slices.
RANDOM = {"random": RandomPatches, "slices": SlicePatches}


def training_patches(
    heads: Sequence[Prepared],
    kind: str,
    patch_size: int | Sequence[int],
    seed: int,
    flips: bool,
    swap: bool = False,
    gain: float = 0.0,
) -> Patches:
    """The patches that a stage draws from: of a kind of `RANDOM`, or the original project's ``"grid"``.

    ``flips``, ``swap`` and ``gain`` are for random patches alone.

    Raises:
        ValueError: another kind, or what its class refuses.
    """
    if kind == "grid":
        return GridPatches(heads, patch_size, seed)
    if kind not in RANDOM:
        raise ValueError(f"training: patches must be one of {', '.join([*RANDOM, 'grid'])}, found {kind!r}")
    return RANDOM[kind](heads, patch_size, seed, flips, swap, gain)


def validation_patches(
    heads: Sequence[Prepared], kind: str, patch_size: int | Sequence[int], seed: int
) -> RandomPatches:
    """The fixed patches on which a stage of `training_patches` of this kind is judged."""
    return RANDOM.get(kind, RandomPatches)(heads, patch_size, seed, flips=False)


def run_plan(path: Path, report: Report | None = None) -> pd.DataFrame:
    """Run a plan in this process, in the run's folder in ``runs/<profile>/``; a killed run goes on."""
    plan = json.loads(Path(path).read_text(encoding="utf-8"))
    root = repo_root()
    runs, start = root / "runs" / plan["profile"], root / plan["start"] if plan["start"] else None
    heads, held_out = (load_prepared(runs / "prepared", split) for split in ("train", "validation"))
    train, validation = training_patches(heads, **plan["patches"]), plan["validation"]
    fabric, out = make_fabric(plan["device"], plan["precision"]), runs / plan.get("folder", plan["stage"])
    if plan["stage"] == "gan":
        settings = GanSettings(**plan["settings"])
        return train_gan(start, train, held_out, out, settings, fabric, validation["crop"], report)
    settings = PretrainSettings(**plan["settings"])
    kind, size = plan["patches"]["kind"], validation["patch_size"]
    cubes = validation_patches(held_out, kind, size, validation["seed"])
    return pretrain(train, cubes, validation["patches"], out, settings, fabric, report, start)


def train(plan: dict[str, Any], processes: int = 1, report: Report | None = None) -> pd.DataFrame:
    """Write a plan and run it, in this process or in several; returns the history.

    Args:
        report: called with the history as it grows (a live curve).

    Raises:
        RuntimeError: one of several processes failed or was killed; all have ended, and the last checkpoint
            stays.
    """
    runs, stage = repo_root() / "runs" / plan["profile"], plan.get("folder", plan["stage"])
    path = runs / f"{stage}_plan.json"  # not in the run's folder, which is moved aside when settings change
    write_json(path, plan)
    if processes == 1:
        return run_plan(path, report)
    log, history = runs / f"{stage}.log", runs / stage / "history.csv"
    command, environment = torchrun_command(path, processes)
    with log.open("w", encoding="utf-8") as output:
        training = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        _watch(training, history, report)
    finally:
        training.terminate()
        training.wait()
    if training.returncode:
        raise RuntimeError(
            f"{stage}: expected {processes} processes to finish, found one that failed or was killed: "
            f"see {log.relative_to(repo_root())}; started again, it goes on from the last checkpoint"
        )
    return pd.read_csv(history)


def _watch(training: subprocess.Popen, history: Path, report: Report | None) -> None:
    """Wait for the end of a process, and report the history whenever it has grown."""
    shown = None
    while training.poll() is None:
        time.sleep(1)
        if report and history.exists() and history.stat().st_mtime_ns != shown:
            shown = history.stat().st_mtime_ns
            report(pd.read_csv(history))


def torchrun_command(plan: Path, processes: int) -> tuple[list[str], dict[str, str]]:
    """The command, and its environment, that runs a plan in several processes of this machine."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    threads = str(max(1, cpu_count() // processes))
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path}
    return [sys.executable, "-m", *torchrun, "-m", "sprl_utils.extras.stages", str(plan)], environment


def main(plan: str) -> None:
    """Run a plan and print the last row of its history."""
    history = run_plan(Path(plan))
    if os.environ.get("RANK", "0") == "0":
        print(history.dropna(axis=1, how="all").tail(1).to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
