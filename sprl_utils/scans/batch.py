"""Which scans are to be done, where each result goes, and whether it can be written there."""

import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any

from sprl_utils.scans import bids
from sprl_utils.scans.dicom import dicom_facts
from sprl_utils.scans.formats import ENDINGS, check_target, ending, is_dicom, is_voxels_of, stem
from sprl_utils.scans.headers import is_result

#: Reason of files that are read together with a scan and need no word.
ALONGSIDE = "read with its scan"


@dataclass(frozen=True)
class Inputs:
    """What was found: scans, and names of other files by the reason why they are left out.

    Attributes:
        several: the results go into a folder, even of one scan.
        root: of the BIDS data set that the scans belong to, or None.
    """

    scans: list[Path]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    several: bool = True
    root: Path | None = None

    @property
    def left_out_lines(self) -> list[str]:
        """One line per reason."""
        return [f"skipped, {reason}: {', '.join(names)}" for reason, names in self.left_out.items()]


@dataclass(frozen=True)
class Job:
    """One scan and the files that are made of it.

    Attributes:
        spread: where the SD over mirror images goes, or None.
        source_name: what the JSON sidecars name as the source; empty: no sidecars.
    """

    source: Path
    result: Path
    spread: Path | None = None
    source_name: str = ""

    @property
    def outputs(self) -> list[Path]:
        """All files: the images and their sidecars."""
        images = [self.result, *filter(None, [self.spread])]
        return [*images, *map(sidecar_of, images if self.source_name else [])]


def sidecar_of(image: Path) -> Path:
    """The JSON file beside an image."""
    return image.with_name(f"{stem(image)}.json")


def scan_facts(scan: Path) -> dict[str, Any]:
    """What DICOM's header or the JSON file beside a scan says of it, in BIDS's words.

    Empty where there is none; with a warning where it cannot be read.
    """
    if is_dicom(scan):
        return dicom_facts(scan)
    path = sidecar_of(scan)
    facts = bids.read_facts(path)
    if facts is None and path.exists():
        warnings.warn(f"{path.name}: expected JSON with names and values, found something else", stacklevel=2)
    return facts or {}


# ---- what is to be done -------------------------------------------------------------------------------


def find(given: Sequence[str]) -> Inputs:
    """The scans among files, folders and glob patterns, or those of a BIDS data set or its subjects.

    Raises:
        FileNotFoundError: none at all.
    """
    paths = [path for text in given for path in _expand(text)]
    roots = {bids.root_of(path) if path.is_dir() else None for path in paths}
    root = roots.pop() if len(roots) == 1 else None
    if paths == [Path(given[0])] and not paths[0].is_dir():
        return Inputs(paths, several=False)
    if root:
        files = [file for path in paths for file in bids.anatomical_files(path)]
        wanted = "sub-*/[ses-*/]anat/*_T1w.nii.gz, as it is a BIDS data set"
    else:
        files = [file for path in paths for file in (path.iterdir() if path.is_dir() else [path])]
        wanted = "scans ending in .nii, .nii.gz, .mgz or the like"
    inputs = _sort_out(files, root)
    if not inputs.scans and len(paths) == 1 and is_dicom(paths[0]):
        return Inputs(paths, several=False)
    if not inputs.scans:
        found = "; ".join(inputs.left_out_lines) or "none"
        raise FileNotFoundError(f"{' '.join(given)}: expected {wanted}, found {found}")
    return inputs


def _expand(text: str) -> list[Path]:
    path = Path(text)
    is_pattern = not os.path.lexists(path) and any(c in text for c in "*?[")
    return sorted(map(Path, glob(text, recursive=True))) if is_pattern else [path]


def _sort_out(files: Iterable[Path], root: Path | None) -> Inputs:
    files = sorted({path for path in files if not path.name.startswith(".")})  # macOS hides files beside each
    listed = {str(path).lower() for path in files}
    inputs = Inputs([], root=root)
    for path in files:
        reason = _why_not(path, listed) or (bids.why_not(stem(path)) if root else "")
        if not reason:
            inputs.scans.append(path)
        elif reason is not ALONGSIDE:
            inputs.left_out.setdefault(reason, []).append(path.name)
    return inputs


def _why_not(path: Path, listed: set[str]) -> str:
    """Why a file is no scan to be done; ``listed`` holds all files' paths in small letters."""
    base = str(path.with_name(stem(path))).lower()
    if path.is_dir():
        return "folders, which are not searched"
    if is_voxels_of(path, listed):
        return ALONGSIDE
    if path.suffix.lower() in (".json", ".mat") and any(base + e in listed for e in ENDINGS if e != ".mat"):
        return ALONGSIDE  # its JSON sidecar, or SPM's file with its place
    if not ending(path):
        return "no scans by their ending"
    return "results of sprl" if is_result(path) else ""


# ---- where it goes ------------------------------------------------------------------------------------


def place(inputs: Inputs, output: str, uncertainty: bool = False, sidecars: bool = False) -> list[Job]:
    """Where the results of each scan go.

    That of one scan goes to ``output``, which is the name of a file, or a folder: one that is there, or a
    name with ``/`` at its end or without an ending. Those of several go to a folder, as ``<scan>_sr.nii.gz``;
    those of a BIDS data set to `sprl_utils.scans.bids.derivatives` of it, with sidecars.

    Raises:
        ValueError: the name of a file where a folder is needed, or an ending that cannot be written.
    """
    target = Path(output)
    is_folder = target.is_dir() or output.endswith(("/", os.sep)) or not target.suffix
    if inputs.several and not is_folder and ending(target):
        raise ValueError(
            f"{output}: expected a folder for {len(inputs.scans)} results, found the name of a file"
        )
    if not inputs.several and not is_folder:
        check_target(target)
    jobs = []
    for scan in inputs.scans:
        if inputs.root:
            dataset = bids.derivatives(target)
            folder = dataset / scan.parent.relative_to(inputs.root)
            result, spread = (folder / bids.result_name(stem(scan), what) for what in ("sr", "srSD"))
            source_name = bids.source(inputs.root, dataset, scan)
        else:
            result = target / f"{stem(scan)}_sr.nii.gz" if inputs.several or is_folder else target
            spread = result.with_name(f"{stem(result)}_uncertainty{ending(result)}")
            source_name = scan.name if sidecars else ""
        jobs.append(Job(scan, result, spread if uncertainty else None, source_name))
    return jobs


def check(jobs: Sequence[Job], force: bool = False, skip_existing: bool = False) -> list[Job]:
    """The jobs that are left to do, once all that they write is known to be writable; nothing is changed.

    Args:
        force: files that are there may be overwritten.
        skip_existing: jobs are left out whose files are all there; the others are done anew.

    Raises:
        ValueError, OSError: as `check_outputs`.
    """
    if skip_existing:
        jobs = [job for job in jobs if not all(path.exists() for path in job.outputs)]
    outputs = [path for job in jobs for path in job.outputs]
    inputs = [path for job in jobs for path in (job.source, sidecar_of(job.source))]
    hint = "--force overwrites, --skip-existing goes on without"
    check_outputs(outputs, inputs, force or skip_existing, hint)
    return list(jobs)


def check_outputs(
    outputs: Sequence[Path],
    inputs: Sequence[Path] = (),
    force: bool = False,
    hint: str = "--force overwrites it",
) -> None:
    """Refuse places that cannot be written, before any work is done.

    Raises:
        ValueError: two outputs of one name, or one that would replace an input.
        OSError: no folder there, or one that cannot be written to.
        FileExistsError: files that are there, unless ``force``.
    """
    places = {}
    sources = {os.path.realpath(path) for path in inputs}
    for path in outputs:
        real = os.path.realpath(path)
        if real in sources:
            raise ValueError(f"{path}: expected another name than the input's, found the same file")
        if real in places:
            raise ValueError(
                f"{path}: expected inputs of different names, found two with this one result; do each folder "
                "with an output folder of its own"
            )
        if os.path.isdir(real):
            raise IsADirectoryError(f"{path}: expected the name of a file, found a folder")
        places[real] = path
    there = [path for real, path in places.items() if os.path.exists(real)]
    if there and not force:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FileExistsError(f"{there[0]}: expected no file there, found one{more} ({hint})")
    for folder in {os.path.dirname(real) for real in places}:
        _check_folder(Path(folder))


def _check_folder(folder: Path) -> None:
    """Try to write in a folder, or in the nearest one above it that is there already."""
    there = next(p for p in (folder, *folder.parents) if os.path.exists(p))
    if not there.is_dir():
        raise NotADirectoryError(f"{there}: expected a folder for the results, found a file")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        reason = f"{there}: expected a folder that can be written to, found {error.strerror}"
        raise type(error)(reason) from None
