"""What the shipped weights never saw, or saw too well: warnings about one scan, as sentences.

The weights learned from T1-weighted heads at 1 mm. On another image the network still runs and its result
looks plausible all the same, so a reader has to be warned.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sprl_utils.files import sha256
from sprl_utils.scans.dicom import is_dicom
from sprl_utils.scans.formats import stem
from sprl_utils.scans.headers import description
from sprl_utils.volumes import Volume, voxels_sha256

#: Words that name a T1-weighted image, and words that name another one (BIDS suffixes and scanners' terms).
T1 = {"t1", "t1w", "mprage", "mpr", "mp2rage", "unit1", "spgr", "fspgr", "bravo"}
OTHER = {
    "stir", "pd", "pdw", "pdt2", "t1map", "r1map", "bold", "fmri", "epi", "sbref", "dwi", "dti", "adc", "asl",
    "m0scan", "swi", "swan", "tof", "mra", "angio", "ct", "cta", "pet", "phase", "phase1", "phase2",
    "phasediff", "magnitude1", "magnitude2", "inplanet2", "mtw", "fieldmap", "mask", "seg", "dseg", "probseg",
    "aseg", "label", "labels",
}  # fmt: skip
#: Beginnings of words that name another one: T2w, T2starw, T2tse, FLAIR3D.
OTHER_BEGINNINGS = ("t2", "flair")
#: Edges in mm by which a result's voxels are near the 1 mm of the training heads.
NEAR_1_MM = (0.65, 1.5)
#: Labels of the finest parcellations, and some more.
MOST_LABELS = 3000
#: With fewer voxels along an axis than the network sees (17 to each side), it sees the border everywhere.
TINY = 35


def unfamiliar(
    scan: Volume,
    path: Path,
    facts: Mapping,
    shape: Sequence[int],
    entry: Mapping,
    card: Mapping[str, Mapping],
) -> list[str]:
    """Warnings about a scan and the weights that are to be used on it.

    Args:
        scan: as it was read.
        path: its file, whose name and header may say what it shows.
        facts: of `sprl_utils.scans.batch.scan_facts`.
        shape: matrix of the result.
        entry: of the weights in ``card``.
        card: of all shipped weights.

    Returns:
        Full sentences, none where the scan is of the kind that the weights learned from.
    """
    found = [_contrast(path, facts), _values(scan.data), _voxel_size(scan, shape), _matrix(shape)]
    found.append(_seen(scan, path, entry, card))
    return [sentence for sentence in found if sentence]


def origin(scan: Volume) -> str:
    """For the header of a degraded copy: by which `unfamiliar` knows it again."""
    return f"of voxels {voxels_sha256(scan)[:16]}"


def _contrast(path: Path, facts: Mapping) -> str:
    name = stem(path)
    if name.startswith("sub-"):  # in BIDS the suffix alone says what it is
        name = name.rsplit("_", 1)[-1]
    described = " ".join(str(facts.get(key, "")) for key in ("Modality", "SeriesDescription", "ProtocolName"))
    for where, text in (("name", name), ("header" if is_dicom(path) else "JSON sidecar", described)):
        words = {word.lower(): word for word in re.split("[^A-Za-z0-9]+", text)}
        if words.keys() & T1:
            return ""
        if other := sorted(word for word in words if word in OTHER or word.startswith(OTHER_BEGINNINGS)):
            return f"its {where} says {words[other[0]]}, and the weights learned from T1-weighted heads."
    return ""


def _values(data: np.ndarray) -> str:
    if ((data > -1100) & (data < -900)).mean() > 0.1:
        return "its values are those of a CT (air near -1000), and the weights learned from MRI."
    some = data[::4, ::4, ::4]
    bright = np.percentile(np.abs(some), 99.5)
    if np.percentile(some, 1) > 0.2 * bright:
        return "its darkest values are far above 0, and the weights learned from images whose air is near 0."
    below = float((data < -0.01 * bright).mean())
    if below > 0.01:
        return f"{below:.0%} of its values are below 0, and the weights learned from magnitude images."
    if _is_label_map(data):
        return "its values are those of a mask or a label map, and the weights learned from images."
    return ""


def _is_label_map(data: np.ndarray) -> bool:
    """Few different numbers, most of which have their like as neighbours."""
    first, second = data[:-1], data[1:]
    inside = first != 0
    alike = (first == second)[inside].mean() if inside.any() else 0
    return bool(alike > 0.5 and len(np.unique(data)) <= MOST_LABELS)


def _voxel_size(scan: Volume, shape: Sequence[int]) -> str:
    edges = np.multiply(scan.voxel_size, np.divide(scan.data.shape, shape))
    if NEAR_1_MM[0] <= edges.min() and edges.max() <= NEAR_1_MM[1]:
        return ""
    size = " x ".join(f"{edge:.2f}" for edge in edges)
    return f"the result has voxels of {size} mm, and the weights learned from heads at 1 mm."


def _matrix(shape: Sequence[int]) -> str:
    if min(shape) >= TINY:
        return ""
    size = " x ".join(map(str, shape))
    return f"the result has {size} voxels, fewer along an axis than the network sees around each."


def _seen(scan: Volume, path: Path, entry: Mapping, card: Mapping[str, Mapping]) -> str:
    """Whether it is one of the training heads, a copy of one, or one that `sprl degrade` degraded."""
    heads = entry.get("trained_on_sha256", {})
    marks = [*re.findall("of voxels ([0-9a-f]{16})", description(path)), voxels_sha256(scan)]
    marks += [sha256(path)] if path.is_file() else []
    head = next((heads[known] for mark in marks for known in heads if known.startswith(mark)), None)
    if head is None:
        return ""
    unseen = [n for n, e in card.items() if e["keep"] == entry["keep"] and head not in e["trained_on"]]
    instead = f" {Path(unseen[0]).stem} did not learn from it." if unseen else ""
    return f"the weights learned from this very head ({head}): it is no measure of other heads.{instead}"
