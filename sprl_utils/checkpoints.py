"""A training run's folder: checkpoint, history and lock, and how a stopped run goes on.

A run is known by its fingerprint: what changes its result, and nothing else. A folder that holds a checkpoint
of another run is moved aside. A checkpoint holds everything that is no function of (settings, step): weights,
optimiser state, random state and history.
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import BaseFileLock, FileLock, Timeout
from lightning_fabric import Fabric
from torch import Tensor, nn
from tqdm import tqdm

from sprl_utils.files import sha256, write_atomically
from sprl_utils.networks import save_weights
from sprl_utils.patches import Patches, Prepared

Report = Callable[[pd.DataFrame], None]
Scores = dict[str, float]
#: Facts of a prepared subject that no voxel depends on.
LABELS = ("id", "split", "group", "kind")
#: Changes whenever a checkpoint's parts do; part of the fingerprint, so other formats are moved aside.
FORMAT = 2


def fingerprint(settings: Any, fabric: Fabric, train: Patches, start: Path | None) -> dict[str, Any]:
    """What a run's result depends on.

    Args:
        settings: a dataclass. How often a run is validated changes no weight, and neither do more steps
            where no step depends on how many there are.
        train: patches that training draws from.
        start: file of the weights that training begins with; None: random ones.
    """
    return settings_that_matter(settings) | {
        "processes": fabric.world_size,
        "precision": fabric.strategy.precision.precision,
        "training patches": digest(train),
        "start weights": sha256(start) if start else None,
        "checkpoint format": FORMAT,
    }


def settings_that_matter(settings: Any) -> dict[str, Any]:
    """The settings on which the weights after a step depend."""
    without = {"every", "validate_every"}
    if getattr(settings, "rate_schedule", "constant") == "constant":
        without |= {"steps", "restarts"}
    return {name: value for name, value in asdict(settings).items() if name not in without}


def digest(source: Patches | Sequence[Prepared]) -> str:
    """Hash of how patches are drawn and of the heads that they come from; or of heads alone."""
    drawn = {}
    if is_dataclass(source):
        names = [f.name for f in fields(source) if not f.name.startswith("_") and f.name != "subjects"]
        drawn = {name: getattr(source, name) for name in names} | {"kind": type(source).__name__}
    heads = getattr(source, "subjects", source)
    drawn["heads"] = [{k: v for k, v in head.meta.items() if k not in LABELS} for head in heads]
    return hashlib.sha256(json.dumps(drawn, sort_keys=True).encode()).hexdigest()


class Run:
    """The folder of one training run, kept from other processes for as long as this object lives.

    Args:
        out: the folder.
        settings, train, start: as for `fingerprint`.
        validated_on: the validation settings, on which the history's columns ``scores`` depend.
        report: called with the history at each checkpoint (a live curve).
    """

    def __init__(
        self,
        out: Path,
        fabric: Fabric,
        settings: Any,
        train: Patches,
        start: Path | None,
        validated_on: dict[str, Any],
        scores: Sequence[str],
        report: Report | None = None,
    ):
        self.out, self.fabric, self.report = Path(out), fabric, report
        self.settings, self.validated_on, self.scores = settings, validated_on, scores
        self.fingerprint = fingerprint(settings, fabric, train, start)
        self.checkpoint = self.out / "checkpoint.pt"
        self.first, self.history, self.parts = 0, [], {}
        self._noted: dict[str, list[Tensor]] = {}
        self.out.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.out) if fabric.is_global_zero else None

    def resume(self, parts: dict[str, Any], validate: Callable[[int], Scores]) -> None:
        """Restore all ``parts`` (modules, optimisers) from the checkpoint, if there is one of this run.

        Args:
            validate: gives the scores of the restored weights after a step; it is called where those of the
                checkpoint were measured with other validation settings.
        """
        self.parts = parts
        with self.fabric.rank_zero_first():  # it may move the folder aside
            state = read_checkpoint(self.checkpoint) if self.checkpoint.exists() else None
            if state and (differs := self._differences(state)):
                self._move_aside(differs)
                state = None
        if state is None:
            return
        for name, part in parts.items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["random_state"])
        self.first, self.history = state["step"] + 1, state["history"]
        if state["validated_on"] != self.validated_on:
            self._score_anew(validate, state["validated_on"])

    def _differences(self, state: dict[str, Any]) -> list[str]:
        """What a checkpoint was made with that changes the result and is not so in this run."""
        # A checkpoint that is older than a setting was made with the setting's default.
        found = settings_that_matter(type(self.settings)(steps=0)) | state["fingerprint"]
        done, asked = state["step"] + 1, self.settings.steps
        found, here = (_with_cycles(settings, done) for settings in (found, self.fingerprint))
        names = here | found  # a setting that has disappeared counts, too
        differs = [name for name in names if found.get(name) != here.get(name)]
        return differs or ([f"{done} steps done, {asked} asked for"] if done > asked else [])

    def _move_aside(self, differs: Sequence[str]) -> None:
        aside = _free_name(self.out.with_name(self.out.name + ".before"))
        os.replace(self.out, aside)
        self.out.mkdir()
        print(
            f"{self.out.name}: found a run with other settings ({', '.join(differs)}); "
            f"moved it to {aside.name} and starting anew"
        )

    def _score_anew(self, validate: Callable[[int], Scores], found: dict[str, Any]) -> None:
        """Score the restored weights, and drop the scores of earlier rows, which were measured elsewhere."""
        if self.fabric.is_global_zero:
            changed = ", ".join(k for k, v in self.validated_on.items() if found.get(k) != v)
            warnings.warn(
                f"{self.out.name}: found scores measured with another choice of {changed}; training is kept, "
                "its weights are scored anew, and earlier rows of the history lose their scores",
                stacklevel=4,
            )
            if (examples := self.out / "examples").exists():  # pictures of other patches
                os.replace(examples, _free_name(self.out / "examples.before"))
        kept = [{k: v for k, v in row.items() if k not in self.scores} for row in self.history]
        self.history = [*kept[:-1], kept[-1] | validate(self.first - 1)]
        self._show()
        self.save(self.first - 1)

    def steps(self, title: str) -> Iterable[int]:
        """The steps still to do, with a progress bar that counts them all."""
        total = self.settings.steps
        return tqdm(
            range(self.first, total),
            desc=title,
            total=total,
            initial=self.first,
            mininterval=2,
            # None: a bar in a terminal alone; executed notebooks and logs would keep each of its lines
            disable=not self.fabric.is_global_zero or self.first >= total or (False if self.report else None),
            ncols=90,
        )

    def is_due(self, step: int, every: int) -> bool:
        """After every ``every`` steps, and after the last."""
        return (step + 1) % every == 0 or step + 1 == self.settings.steps

    def note(self, step: int, **values: Tensor) -> None:
        """Keep a step's losses (the mean over all processes) for the mean in the next row.

        Raises:
            FloatingPointError: a loss is not finite.
        """
        if self.fabric.world_size > 1:
            values = self.fabric.all_reduce(values, reduce_op="mean")
        for name, value in values.items():
            if not bool(torch.isfinite(value)):
                raise FloatingPointError(
                    f"{self.out.name}: step {step}: expected a finite {name}, found {value}; "
                    f"the last checkpoint is {self.checkpoint}"
                )
            self._noted.setdefault(name, []).append(value.float().cpu())

    def record(self, step: int, **values: float) -> None:
        """Add a row to the history: means of what was noted since the last one, and ``values``."""
        means = {name: float(torch.stack(noted).mean()) for name, noted in self._noted.items()}
        self.history.append({"step": step + 1, **means, **values})
        self._noted = {}
        self._show()

    def _show(self) -> None:
        """Write the history, and hand it to who watches."""
        if self.fabric.is_global_zero:
            write_atomically(self.out / "history.csv", self.table().to_csv(index=False))
            if self.report:
                self.report(self.table())

    def save(self, step: int) -> None:
        """Replace the checkpoint, right after a row of the history."""
        if not self.fabric.is_global_zero:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()} | {
            "step": step,
            "random_state": torch.get_rng_state(),
            "history": self.history,
            "fingerprint": self.fingerprint,
            "validated_on": self.validated_on,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomically(self.checkpoint, buffer.getbuffer())

    def save_network(self, network: nn.Module, name: str, metadata: dict[str, str] | None = None) -> None:
        """Write a network's weights as ``<name>.safetensors``.

        ``metadata`` may have one entry: safetensors writes several in any order, so hashes would differ.
        """
        if self.fabric.is_global_zero:
            save_weights(network, self.out / f"{name}.safetensors", metadata)

    def table(self) -> pd.DataFrame:
        """The history as a table, one row per checkpoint."""
        return pd.DataFrame(self.history)


def _with_cycles(fingerprint: dict[str, Any], done: int) -> dict[str, Any]:
    """Of a cosine with restarts, only the ends of those cycles that the steps done have begun."""
    if "steps" not in fingerprint:
        return fingerprint
    ends = [*fingerprint.get("restarts", ()), fingerprint["steps"]]  # older checkpoints have no restarts
    return fingerprint | {"steps": ends[: 1 + sum(end < done for end in ends)], "restarts": None}


def lock_folder(out: Path) -> BaseFileLock:
    """Keep other processes out of a run's folder while the returned lock lives; it ends with the process.

    A file system without locks is no reason not to train: there is a warning.

    Raises:
        RuntimeError: another process trains there.
        PermissionError: the folder, or the lock in it, belongs to somebody else.
    """
    path = out.resolve().with_name(f".{out.name}.lock")
    # One lock per process, since a cell that was stopped may keep its own alive. No soft lock: on a cluster
    # it would outlive a killed process, and nobody could tell.
    lock = FileLock(path, timeout=0, thread_local=False, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(f"run {out}: expected nobody training there, found another process") from None
    except PermissionError:
        raise
    except OSError as error:
        warnings.warn(
            f"run {out}: expected a file system with locks, found one without ({error.strerror}); "
            "training goes on, and nothing keeps a second process out of this run",
            stacklevel=3,
        )
    return lock


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a training checkpoint; nothing in it is executed.

    Raises:
        ValueError: cut off, damaged, or not one of ours.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state["step"], state["fingerprint"], state["history"]
    except Exception as error:
        raise ValueError(
            f"checkpoint {path}: expected a training checkpoint, found one that cannot be read "
            f"({type(error).__name__}); delete it to start anew"
        ) from error
    return state


def _free_name(path: Path) -> Path:
    """``path`` with the first number that is not taken."""
    return next(p for i in range(1, 10_000) if not (p := path.with_name(f"{path.name}-{i}")).exists())
