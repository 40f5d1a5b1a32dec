"""A training stage from its notebook's parameters: in this process, or in several that torchrun starts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from joblib import cpu_count

from sprl_utils.original.grid import GridPatches
from sprl_utils.patches import Patches, Prepared, RandomPatches
from sprl_utils.prepare import load_prepared
from sprl_utils.profiles import notebook_parameters
from sprl_utils.provenance import repo_root
from sprl_utils.training import (
    GanSettings,
    PretrainSettings,
    Report,
    make_fabric,
    pretrain,
    train_gan,
)

NOTEBOOKS = {"pretrain": "02_pretrain_generator.py", "gan": "03_train_gan.py"}
#: What stands before a setting's name in the parameters cell, tried in this order.
PREFIXES = {"pretrain": ("pretrain_", ""), "gan": ("gan_", "discriminator_", "")}
SETTINGS = {"pretrain": PretrainSettings, "gan": GanSettings}


def parameters_of(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a stage's notebook: its defaults, and what ``values`` puts in their place."""
    defaults = notebook_parameters(repo_root() / "notebooks" / NOTEBOOKS[stage])
    return {name: values.get(name, default) for name, default in defaults.items()}


def settings_of(stage: str, parameters: Mapping[str, Any]) -> PretrainSettings | GanSettings:
    """The settings that a stage's notebook makes of its parameters."""
    kind, found = SETTINGS[stage], {}
    for field in fields(kind):
        names = (prefix + field.name for prefix in PREFIXES[stage])
        if name := next((n for n in names if n in parameters), None):
            found[field.name] = parameters[name]
    return kind(**found)


def training_patches(heads: Sequence[Prepared], parameters: Mapping[str, Any], seed: int) -> Patches:
    """The patches that a stage draws from, random or the original project's grid."""
    p = parameters
    if p["patches"] == "grid":
        return GridPatches(heads, p["patch_size"], seed, p["usage"], p["leave_out"])
    return RandomPatches(heads, p["patch_size"], seed, p["flips"])


def run_stage(stage: str, parameters: Mapping[str, Any], report: Report | None = None) -> pd.DataFrame:
    """Train ``"pretrain"`` or ``"gan"`` as its notebook does, in ``runs/<profile>/``; a killed run goes on.

    Args:
        parameters: of the notebook, complete (`parameters_of`).

    Returns:
        The history, as `sprl_utils.training.pretrain` and `train_gan` return it.
    """
    p, runs = parameters, repo_root() / "runs" / parameters["profile"]
    heads, held_out = (load_prepared(runs / "prepared", split) for split in ("train", "validation"))
    fabric, settings = make_fabric(p["device"], p["precision"]), settings_of(stage, p)
    if stage == "pretrain":
        validation = RandomPatches(held_out, p["patch_size"], p["seed"] + 1, flips=False)
        train, count = training_patches(heads, p, p["seed"]), p["validation_patches"]
        start = repo_root() / p["start_weights"] if p["start_weights"] else None
        return pretrain(train, validation, count, runs / "pretrain", settings, fabric, report, start)
    train, start = training_patches(heads, p, p["seed"] + 2), runs / "pretrain" / "generator.safetensors"
    crop = p["validation_crop"]
    return train_gan(start, train, held_out, runs / "gan", settings, fabric, crop, report)


def processes_command(arguments: Sequence[str], processes: int) -> tuple[list[str], dict[str, str]]:
    """The command, and the environment, that runs ``sprl ARGUMENTS`` in several processes of this machine."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    threads = str(max(1, cpu_count() // processes))
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONPATH": path}
    return [sys.executable, "-m", *torchrun, "-m", "sprl_utils", *arguments], environment


def in_processes(
    stage: str, names: Mapping[str, Any], processes: int, report: Report | None = None
) -> pd.DataFrame:
    """`run_stage` in several processes, from a notebook: it waits, and shows the history as it grows.

    Args:
        names: holds the notebook's parameters among others (``globals()``).

    Raises:
        RuntimeError: a process failed or was killed; all have ended, and the last checkpoint stays.
    """
    parameters = parameters_of(stage, names)
    runs = repo_root() / "runs" / parameters["profile"]
    plan, log, history = runs / f"{runs.name}.yaml", runs / f"{stage}.log", runs / stage / "history.csv"
    plan.write_text(yaml.safe_dump(parameters, sort_keys=False), encoding="utf-8")
    command, environment = processes_command(["train", "--profile", str(plan), "--stage", stage], processes)
    with log.open("w", encoding="utf-8") as output:
        training = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    shown = None
    try:
        while training.poll() is None:
            time.sleep(1)
            if report and history.exists() and history.stat().st_mtime_ns != shown:
                shown = history.stat().st_mtime_ns
                report(pd.read_csv(history))
    finally:
        training.terminate()
        training.wait()
    if training.returncode:
        raise RuntimeError(
            f"{stage}: expected {processes} processes to finish, found one that failed or was killed: "
            f"see {log.relative_to(repo_root())}; started again, it goes on from the last checkpoint"
        )
    return pd.read_csv(history)
