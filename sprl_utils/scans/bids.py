"""BIDS: the T1w images of a data set, and its derivatives with what they were made by.

Per https://bids-specification.readthedocs.io, "Derivatives": ``dataset_description.json``, and a JSON sidecar
per image.
"""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sprl_utils import __version__
from sprl_utils.files import sha256
from sprl_utils.provenance import write_json
from sprl_utils.scans.apply import Plan

VERSION = "1.10.0"
PIPELINE = Path("derivatives", "sprl")
GENERATED_BY = {"Name": "sprl", "Version": __version__}


def root_of(folder: Path) -> Path | None:
    """The data set that a folder is, or of which it is one subject; None: neither."""
    if (folder / "dataset_description.json").is_file() or any(p.is_dir() for p in folder.glob("sub-*")):
        return folder
    is_subject = folder.name.startswith("sub-") and any((*folder.glob("anat"), *folder.glob("ses-*/anat")))
    return folder.parent if is_subject else None


def anatomical_files(folder: Path) -> list[Path]:
    """All files in the folders anat/ of a data set, or of one of its subjects; no derivatives."""
    subjects = [folder] if folder.name.startswith("sub-") else sorted(folder.glob("sub-*"))
    return [p for s in subjects for pattern in ("anat/*", "ses-*/anat/*") for p in s.glob(pattern)]


def why_not(name: str) -> str:
    """Why an image is no magnitude image of T1w, by its name without the ending; empty: it is one."""
    if not name.lower().endswith("_t1w"):
        return "no T1w image"
    part = re.search("_(part-(?:phase|real|imag))_", name.lower())
    return f"no magnitude image ({part[1]})" if part else ""


def derivatives(output: Path) -> Path:
    """Where results go in the folder asked for: its ``derivatives/sprl``, unless it is that already."""
    parts = Path(os.path.abspath(output)).parts
    if parts[-2:] == PIPELINE.parts:
        return output
    return output / PIPELINE.name if parts[-1] == PIPELINE.parts[0] else output / PIPELINE


def result_name(name: str, description: str) -> str:
    """``sub-1_desc-sr_T1w.nii.gz`` for ``sub-1_T1w``; a description that it had gives way."""
    return re.sub("(?i)(_desc-[a-z0-9]+)?_T1w$", f"_desc-{description}_T1w.nii.gz", name)


def _holds(root: Path, dataset: Path) -> bool:
    """Whether the results lie within the data set, so that one can be named from the other."""
    return Path(os.path.realpath(dataset)).is_relative_to(os.path.realpath(root))


def source(root: Path, dataset: Path, file: Path) -> str:
    """BIDS URI of a raw file, or its path within its data set where the results do not lie in that."""
    name = file.relative_to(root).as_posix()
    return f"bids:raw:{name}" if _holds(root, dataset) else name


def read_facts(path: Path) -> dict[str, Any] | None:
    """Names and values of a JSON file; None where there is none, or none that can be read."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, TypeError, RecursionError):
        return None


def describe_dataset(dataset: Path, root: Path) -> None:
    """Write ``dataset_description.json`` of the results, once. No path leads out of the raw data set."""
    path = dataset / "dataset_description.json"
    if path.exists():
        return
    raw = read_facts(root / path.name) or {}
    facts: dict[str, Any] = {
        "Name": f"{raw.get('Name') or 'T1w images'}, super-resolved",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [GENERATED_BY],
    }
    if doi := raw.get("DatasetDOI"):
        facts["SourceDatasets"] = [{"DOI": doi}]
    if _holds(root, dataset):
        facts["DatasetLinks"] = {"raw": Path(os.path.relpath(root.resolve(), dataset.resolve())).as_posix()}
    write_json(path, facts)


def sidecar(
    description: str,
    source: str,
    weights: Path,
    plan: Plan,
    engine: str,
    precision: str,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """How a result was made, for the JSON file beside it."""
    return {
        "Description": description,
        "Sources": [source],
        "GeneratedBy": [GENERATED_BY],
        "Weights": weights.stem,
        "WeightsSHA256": sha256(weights),
        "CoarseAxes": list(plan.axes),
        "UpsamplingFactors": [round(float(f), 6) for f in plan.factors],
        "MeasuredSamples": list(plan.measured),
        "SliceAxis": plan.slice_axis,
        "DataConsistency": True,
        "Engine": engine,
        "Precision": precision,
        "Warnings": list(warnings),
    }
