"""BIDS: the T1w images of a data set, and its derivatives with what they were made by.

Per https://bids-specification.readthedocs.io, "Derivatives": ``dataset_description.json``, a JSON sidecar per
image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sprl_utils import __version__
from sprl_utils.provenance import write_json

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
    return [p for s in subjects for pattern in ("anat/*", "ses-*/anat/*") for p in sorted(s.glob(pattern))]


def why_not(name: str) -> str:
    """Why an image is not taken, by its name without the ending; empty: it is."""
    if not name.endswith("_T1w"):
        return "not T1w"
    return "part of a complex image, no magnitude" if re.search("_part-(phase|real|imag)_", name) else ""


def derivatives(output: Path) -> Path:
    """Where results go in the folder asked for: its ``derivatives/sprl``, unless it is that already."""
    parts = Path(os.path.abspath(output)).parts
    if parts[-2:] == PIPELINE.parts:
        return output
    return output / PIPELINE.name if parts[-1] == PIPELINE.parts[0] else output / PIPELINE


def result_name(name: str, description: str = "sr") -> str:
    """``sub-1_desc-sr_T1w`` for ``sub-1_T1w``; a description that it had gives way."""
    return re.sub("(_desc-[A-Za-z0-9]+)?_T1w$", f"_desc-{description}_T1w", name)


def holds(root: Path, dataset: Path) -> bool:
    """Whether the results lie within the data set, so that one can be named from the other."""
    return Path(os.path.realpath(dataset)).is_relative_to(os.path.realpath(root))


def source(root: Path, dataset: Path, file: Path) -> str:
    """BIDS URI of a raw file, or its path within its data set where the results do not lie in that."""
    name = file.relative_to(root).as_posix()
    return f"bids:raw:{name}" if holds(root, dataset) else name


def describe_dataset(dataset: Path, root: Path) -> None:
    """Write ``dataset_description.json`` of the results, once. No path leads out of the raw data set."""
    path = dataset / "dataset_description.json"
    if path.exists():
        return
    raw = _read(root / path.name)
    told: dict[str, Any] = {
        "Name": f"{raw.get('Name') or 'T1w images'}, super-resolved",
        "BIDSVersion": VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [GENERATED_BY],
    }
    if doi := raw.get("DatasetDOI"):
        told["SourceDatasets"] = [{"DOI": doi}]
    if holds(root, dataset):
        told["DatasetLinks"] = {"raw": Path(os.path.relpath(root.resolve(), dataset.resolve())).as_posix()}
    write_json(path, told)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def sidecar(
    description: str,
    source: str,
    weights: Path,
    weights_sha256: str,
    axes: Sequence[int],
    factors: Sequence[float],
    measured: Sequence[int],
    precision: str,
    warnings: Sequence[str],
) -> dict[str, Any]:
    """How a result was made, for the JSON file beside it."""
    return {
        "Description": description,
        "Sources": [source],
        "GeneratedBy": [GENERATED_BY],
        "Weights": weights.stem,
        "WeightsSHA256": weights_sha256,
        "CoarseAxes": list(axes),
        "UpsamplingFactors": [round(float(f), 6) for f in factors],
        "MeasuredSamples": list(measured),
        "DataConsistency": True,
        "Precision": precision,
        "Warnings": list(warnings),
    }
