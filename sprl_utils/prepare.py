"""One subject from its file to a folder from which patches can be read: HR, LR, masks, and what was done."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed, parallel_config

from sprl_utils.files import write_atomically
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import Subject
from sprl_utils.masks import head_masks, intensity_scale
from sprl_utils.patches import Prepared
from sprl_utils.provenance import known_sha256
from sprl_utils.volumes import Volume, check_pair, read_volume

#: HR is clipped here, at four times the brain's median: vessels and scalp fat would rule the loss.
CLIP = 2.0


@dataclass(frozen=True)
class Recipe:
    """How volumes are prepared; a folder made with another recipe is made again.

    Args:
        keep: share (float) or number (int) of k-space samples kept on each degraded axis.
        fixed_scale: divide intensities by this (4095 in the original project), or None for
            `sprl_utils.masks.intensity_scale`.
        crop: edges of a box around the brain's centre to which the head is cut (smoke runs), or None.
    """

    keep: float | int = 0.25
    #: ``"paper"``, or the name of a subclass's `make_lr`.
    lr_recipe: str = field(default="paper", init=False)
    fixed_scale: float | None = None
    crop: tuple[int, int, int] | None = None

    def make_lr(
        self, raw: np.ndarray, scaled: np.ndarray, axes: Sequence[int]
    ) -> tuple[np.ndarray, list | None]:
        """LR of a volume as the paper makes it: k-space cut on ``axes``, zero-filled, on HR's scale.

        Args:
            raw: ``(x, y, z)`` in the file's units.
            scaled: the same on its intensity scale, clipped.
            axes: array axes to degrade.

        Returns:
            LR ``(x, y, z)`` on the scale of ``scaled``, and what it kept of k-space, one entry per axis as in
            `sprl_utils.kspace.kept_samples`; None where that is unknown.
        """
        keep: list = [self.keep if axis in axes else None for axis in range(3)]
        return truncate_kspace(scaled, keep), keep

    def as_json(self) -> dict:
        """The recipe as ``meta.json`` notes it."""
        return json.loads(json.dumps(asdict(self)))


def prepare_subject(subject: Subject, files: Sequence[Path], out: Path, recipe: Recipe) -> Prepared:
    """Read a subject's HR (and its own LR, if it has one), make what training and evaluation need, write it.

    The folder ``out/<id>`` appears whole or not at all; one that was made from the same bytes with the same
    recipe is left as it is, wherever they lie now.

    Raises:
        ValueError, FileNotFoundError: as `sprl_utils.volumes.read_volume`; HR and own LR of different size.
    """
    folder = Path(out) / subject.id
    scans = [Path(f) for f in (*files, *filter(None, [subject.lr]))]
    hashes = [known_sha256(f) if f.is_file() else "missing" for f in scans]
    made_from = {"recipe": recipe.as_json(), "axes": list(subject.axes), "sha256": hashes}
    if not is_current(folder, made_from, subject):
        hr = read_volume(files, subject.id)
        write_prepared(folder, subject, *volume_arrays(subject, hr, recipe), made_from)
    return Prepared(folder)


def write_prepared(folder: Path, subject: Subject, arrays: dict, facts: dict, made_from: dict) -> None:
    """Write the folder of a prepared subject, whole or not at all, from what `volume_arrays` gave.

    Raises:
        OSError: the disk has no room for it.
    """
    beside = folder.with_name(f".{subject.id}.{os.getpid()}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        needed, free = sum(a.nbytes for a in arrays.values()), shutil.disk_usage(beside).free
        if free < needed:
            reason = f"subject {subject.id}: expected {needed} free bytes for {folder}, found {free}"
            raise OSError(errno.ENOSPC, reason)
        for name, array in arrays.items():
            np.save(beside / f"{name}.npy", array)
        meta = {**_labels(subject), **facts, "made_from": made_from}
        (beside / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(beside, folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def prepare_all(
    subjects: Sequence[Subject],
    files: dict[str, list[Path]],
    out: Path,
    recipe: Recipe,
    jobs: int = 1,
    stop_at_failure: bool = False,
    dask_address: str = "",
    log: Callable[[str], object] = print,
) -> list[Prepared]:
    """Prepare subjects, ``jobs`` at a time, and write ``out/index.json``, the list that later stages read.

    Subjects that cannot be prepared are left out, each with a line to ``log`` at the end.

    Args:
        files: subject id -> its HR files, as `sprl_utils.fetch.fetch_all` returns them.
        stop_at_failure: raise the first failure instead.
        dask_address: scheduler of a Dask cluster whose workers see the same folders; empty: this machine.

    Raises:
        ValueError: no subject at all could be prepared.
    """
    with contextlib.ExitStack() as cluster:
        if dask_address:
            from distributed import Client  # no one else needs it

            cluster.enter_context(Client(dask_address))
            cluster.enter_context(parallel_config("dask"))
        tries = Parallel(n_jobs=-1 if dask_address else jobs)(
            delayed(_try)(s, files[s.id], out, recipe, stop_at_failure) for s in subjects
        )
    for subject, result in zip(subjects, tries, strict=True):
        if isinstance(result, str):
            log(f"not prepared: {subject.id}: {result}")
    ready = [result for result in tries if isinstance(result, Prepared)]
    if not ready:
        raise ValueError(
            f"prepared heads: {out}: expected one at least, found none of {len(subjects)} usable"
        )
    write_atomically(out / "index.json", json.dumps([p.meta["id"] for p in ready]))
    return ready


def _try(subject: Subject, files: Sequence[Path], out: Path, recipe: Recipe, stop: bool) -> Prepared | str:
    """The prepared subject, or what is wrong with it."""
    try:
        return prepare_subject(subject, files, out, recipe)
    except (OSError, ValueError) as error:
        if stop or getattr(error, "errno", None) == errno.ENOSPC:  # a full disk is no fault of the subject
            raise
        return " ".join(str(error).split())


def load_prepared(out: Path, split: str) -> list[Prepared]:
    """The prepared subjects of one split, in the manifest's order.

    Raises:
        FileNotFoundError: nothing was prepared there.
        ValueError: none of the prepared subjects is in ``split``.
    """
    index = Path(out) / "index.json"
    if not index.is_file():
        raise FileNotFoundError(
            f"prepared heads: {index}: expected the list that 01_prepare_data writes, found none"
        )
    ready = [Prepared(Path(out) / name) for name in json.loads(index.read_text(encoding="utf-8"))]
    found = [p for p in ready if p.meta["split"] == split]
    if not found:
        splits = sorted({p.meta["split"] for p in ready})
        raise ValueError(f"prepared heads: {index}: expected heads of split {split!r}, found only {splits}")
    return found


def volume_arrays(subject: Subject, hr: Volume, recipe: Recipe) -> tuple[dict[str, np.ndarray], dict]:
    """HR, LR, masks and patch centres of a subject, and the facts to note with them."""
    scale = recipe.fixed_scale or intensity_scale(hr.data, hr.voxel_size)
    foreground, brain = head_masks(hr.data, hr.voxel_size)
    box = _box_around(brain, recipe.crop, subject.id) if recipe.crop else (slice(0, None),) * 3
    raw, foreground = hr.data[box], foreground[box]
    scaled = np.clip(raw / np.float32(scale), 0, CLIP)
    if subject.lr:
        own = read_volume(subject.lr, subject.id)
        check_pair(subject.id, hr, own)
        low, keep = own.data[box] / np.float32(scale), None
    else:
        low, keep = recipe.make_lr(raw, scaled, subject.axes)
    affine = hr.affine.copy()
    affine[:3, 3] = affine[:3, :3] @ [s.start for s in box] + affine[:3, 3]
    arrays = {
        "hr": scaled,
        "lr": low,
        "brain": brain[box],
        "foreground": foreground,
        "centres": (np.argwhere(foreground[::4, ::4, ::4]) * 4).astype(np.int32),
    }
    facts = {"scale": float(scale), "shape": list(raw.shape), "affine": affine.tolist(), "keep": keep}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}, facts


def _labels(subject: Subject) -> dict[str, str | float]:
    """What the manifest says of a subject, and no voxel depends on."""
    return {name: getattr(subject, name) for name in ("id", "split", "group", "kind", "draw")}


def is_current(folder: Path, made_from: dict, subject: Subject) -> bool:
    """Whether ``folder`` was made from just this; its labels are then those that the manifest has today."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if meta["made_from"] != made_from:
            return False
    except (OSError, ValueError, KeyError):
        return False
    if meta != meta | _labels(subject):
        write_atomically(folder / "meta.json", json.dumps(meta | _labels(subject), indent=1))
    return True


def _box_around(mask: np.ndarray, size: Sequence[int], name: str) -> tuple[slice, slice, slice]:
    """A box of ``size`` around the mask's centre of mass, moved to lie inside the volume."""
    if any(s > n for s, n in zip(size, mask.shape, strict=True)):
        raise ValueError(
            f"{name}: crop: expected at most the head's {mask.shape} voxels, found {tuple(size)}"
        )
    centre = np.argwhere(mask).mean(axis=0)
    low = np.clip(np.round(centre - np.array(size) / 2), 0, np.array(mask.shape) - size).astype(int)
    return tuple(slice(a, a + s) for a, s in zip(low.tolist(), size, strict=True))
