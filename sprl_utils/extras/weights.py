"""Weights that come with the package, and the card that says what they are.

For each reduction of k-space one generator for use, trained on all people, and one without each of the two
people, by which that recipe is judged. ``python -m sprl_utils.extras.weights`` takes them from the
study's runs.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sprl_utils.evaluation import CONSISTENT
from sprl_utils.files import atomic_write, sha256, write_atomically
from sprl_utils.networks import load_generator
from sprl_utils.provenance import repo_root, write_json
from sprl_utils.volumes import read_volume, voxels_sha256

FOLDER = Path(__file__).with_name("weights")
#: Profile of the study -> the name that its generator is shipped by.
STUDIES = {
    "study_all": "mDCSRN_4x4",
    "study_colin27": "mDCSRN_4x4_without_colin27",
    "study_bb": "mDCSRN_4x4_without_bb",
    "study_all_2x2": "mDCSRN_2x2",
    "study_colin27_2x2": "mDCSRN_2x2_without_colin27",
    "study_bb_2x2": "mDCSRN_2x2_without_bb",
}
#: Whose scores on people held out the card tells: the network as it is, and with the measured k-space.
METHODS = ("mDCSRN", "mDCSRN" + CONSISTENT)
#: Method under which rows of the study's weights, without that person, stand beside those of another run.
LONG = "mDCSRN, long training"
#: dB by which zero-filling may differ where HR and LR are the same but for another processor's rounding.
SAME_LR = 1e-3
CARD = """# Model card

Made by `python -m sprl_utils.extras.weights` from the study's runs; not written by hand.

PSNR and SSIM are those on heads held out, minus what zero-filled LR scores there; the weights for use were
trained on everybody, so nobody is left to judge them: read those without one person.

| weights | trained on | synthetic heads | steps | held out | the same, measured k-space put back |
|---|---|---|---|---|---|
{rows}

**Recipe.** mDCSRN b4u4 (411,648 parameters), L1; cubes, commit and hardware in `card.json`, all settings in
the profile that `made_by` names there; data and their terms in `data_manifest/README.md`.

**Use.** `sprl super-resolve scan.nii.gz sharper.nii.gz` (or `python -m sprl_utils super-resolve ...`), and
`sprl_utils.networks.load_generator(sprl_utils.extras.weights.shipped("mDCSRN_4x4"))` in Python: one map
in and out, zero-filled LR on HR's grid, divided by the 99.5th percentile of its voxels above 0.

**Terms.** Those of the repository (MIT). It cannot speak for the images that they learned from:
`data_manifest/README.md` quotes what the packages say that carry them.

**Limits.** T1-weighted heads of adults at 1 mm. Learned from two people at most, group averages and
synthetic heads; one seed. The recipe was chosen while bb was trained on. Low resolution was simulated by
cutting k-space on two axes, on HR's intensity scale. Thick slices and scans coarse on one or three axes were
never shown to them; `results/thick/` compares them with a cubic spline there. What the network adds is a
guess: not for diagnosis.
"""


def shipped(name: str = "mDCSRN_4x4") -> Path:
    """Path of shipped weights.

    Raises:
        FileNotFoundError: none of that name; tells those that there are.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.safetensors"))) or "none, train your own"
        raise FileNotFoundError(f"shipped weights: there are {there}; found no {name!r}")
    return path


def find_weights(given: str | None, factors: Sequence[float] | None = None) -> Path:
    """Path of weights: one's own, shipped ones by name, or (None) the shipped ones for a scan.

    Args:
        factors: by which the scan's matrix exceeds what was measured; None, or 1 on all axes: not known.
            Below 3, the scan is for the weights that learned from half of k-space.

    Raises:
        FileNotFoundError: no such file, or none shipped by that name.
    """
    if given is None:
        return shipped("mDCSRN_2x2" if factors is not None and 1 < max(factors) < 3 else "mDCSRN_4x4")
    return shipped(given) if Path(given).name == given and not Path(given).suffix else Path(given)


def read_card(folder: Path = FOLDER) -> dict[str, dict]:
    """What `take_over` wrote of each file of shipped weights, by its name; empty where none are shipped."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def held_out_rows(scores: pd.DataFrame, results: Path, profile: str = "") -> pd.DataFrame:
    """What shipped weights score on the heads of ``scores``, from the study's run without that person.

    Args:
        scores: rows of `sprl_utils.evaluation.score`.
        results: the folder of all profiles' results.
        profile: whose scores they are; its own results are no news to it.

    Returns:
        Rows as in ``scores``, of `LONG` in place of mDCSRN, for those heads and regions on which
        zero-filling scores the same in both: there HR and LR are the same. ``source_run`` names the study,
        and ``seconds`` is NaN, because another machine took them. Empty where there are none.
    """
    keys = ["subject", "region"]
    lr = scores[scores["method"] == "zero-filled"].set_index(keys)["psnr"]
    found = [scores.head(0)]
    for study in STUDIES:
        path = results / study / "metrics.csv"
        if study == profile or not path.exists():
            continue
        theirs = pd.read_csv(path)
        apart = theirs[theirs["method"] == "zero-filled"].set_index(keys)["psnr"] - lr
        rows = theirs[theirs["method"].isin(METHODS)].set_index(keys, drop=False)
        same = apart.index[apart.abs() < SAME_LR]
        names = rows["method"].str.replace(METHODS[0], LONG, regex=False)
        rows = rows.assign(method=names, source_run=study, seconds=np.nan)
        found.append(rows[rows.index.isin(same)])
    return pd.concat(found, ignore_index=True)


def describe(profile: str, results: Path, weights: Path, known: Mapping[str, str] | None = None) -> dict:
    """One entry of the card, from what the run wrote into ``results/<profile>/``.

    Args:
        known: hashes of heads from an earlier card, for those of voxels whose files are not here.

    Raises:
        ValueError: the run left no results, or the weights are not those that it wrote.
    """
    folder = results / profile
    if not (folder / "02_environment.json").is_file():
        raise ValueError(f"profile {profile}: expected what its run wrote in {folder}, found nothing of it")
    files = (folder / f"{stage}_environment.json" for stage in ("01", "02"))
    prepared, trained = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    told, found = trained["outputs"][f"runs/{profile}/pretrain/generator.safetensors"], sha256(weights)
    if found != told:
        raise ValueError(f"{weights}: expected sha256 {told} of profile {profile}, found {found}")
    heads, settings, cpu = prepared["profile"]["heads"], trained["profile"], trained["cpu"]
    trained_on = [head for head, split in heads.items() if split == "train"]
    commit = trained["git"]["commit"] or "unknown"  # an archive without git
    return {
        "sha256": found,
        "made_by": f"make study, profile {profile}",
        "commit": commit + (" and changes" if trained["git"]["dirty"] else ""),
        "machine": trained["gpu"] or f"{cpu['threads']} threads, {cpu['model']}, {cpu['capability']}",
        "keep": prepared["profile"]["keep"],
        "trained_on": trained_on,
        "trained_on_sha256": _hashes(trained_on, prepared["inputs"], results.parent, known),
        "synthetic_heads": prepared["profile"]["synthetic_heads"],
        "steps": settings["steps"],
        "goes_on_from": [path for path in trained["inputs"] if path.endswith(".safetensors")],
        "cubes": f"{settings['batch_size']} of {settings['patch_size']} voxels",
        "seed": settings["seed"],
        "held_out": _held_out(folder / "metrics.csv"),
    }


def _hashes(
    heads: Sequence[str], inputs: Mapping[str, str], root: Path, known: Mapping[str, str] | None
) -> dict[str, str]:
    """Hash -> head: of the files that a run read, and of the voxels in them, which survive saving anew."""
    found = {told: head for told, head in (known or {}).items() if head in heads}
    for head in heads:
        files = {root / path: told for path, told in inputs.items() if Path(path).parent.name == head}
        found |= dict.fromkeys(files.values(), head)
        if files and all(path.is_file() for path in files):
            found[voxels_sha256(read_volume(list(files) if len(files) > 1 else next(iter(files))))] = head
    return found


def _held_out(scores: Path) -> list[dict]:
    """PSNR (dB) and SSIM of `METHODS` on each test head and region, and how far above zero-filled LR."""
    if not scores.exists():
        return []
    table = pd.read_csv(scores).set_index(["subject", "region"])
    lr = table[table["method"] == "zero-filled"]
    rows = []
    for method in METHODS:
        ours = table[table["method"] == method][["psnr", "ssim"]]
        over = (ours - lr[ours.columns]).add_suffix("_over_zero_filled")
        rows.append(ours.join(over).round(6).assign(method=method).loc[ours.index].reset_index())
    return pd.concat(rows).rename(columns={"subject": "head"}).to_dict("records")


def as_markdown(card: dict[str, dict]) -> str:
    """The model card for readers."""
    rows = []
    for name, entry in card.items():
        plain, consistent = (_told(r for r in entry["held_out"] if r["method"] == m) for m in METHODS)
        heads = ", ".join(entry["trained_on"])
        steps = f"{entry['steps']:,}" + "".join(f", from {Path(p).parts[1]}" for p in entry["goes_on_from"])
        rows.append(f"| {name} | {heads} | {entry['synthetic_heads']} | {steps} | {plain} | {consistent} |")
    return CARD.format(rows="\n".join(rows))


def _told(rows: Iterable[dict]) -> str:
    told = (
        f"{row['head']}, {row['region']}: {row['psnr_over_zero_filled']:+.2f} dB, "
        f"{row['ssim_over_zero_filled']:+.3f}"
        for row in rows
    )
    return "; ".join(told) or "nobody"


def take_over(root: Path, folder: Path = FOLDER) -> dict[str, dict]:
    """Copy the generators of the study's finished runs into the package, and write the card; returns it.

    Weights that are there stay where their run is not (a fresh clone).

    Raises:
        ValueError: as `describe`; nothing was copied of that run.
    """
    card, before = {}, read_card(folder)
    folder.mkdir(exist_ok=True)
    for profile, name in STUDIES.items():
        source = root / "runs" / profile / "pretrain" / "generator.safetensors"
        target = folder / f"{name}.safetensors"
        known = before.get(target.name, {}).get("trained_on_sha256")
        if source.exists():
            load_generator(source)
            card[target.name] = describe(profile, root / "results", source, known)
            with atomic_write(target) as beside:
                shutil.copyfile(source, beside)
        elif target.exists():
            card[target.name] = describe(profile, root / "results", target, known)
    write_json(folder / "card.json", card)
    write_atomically(folder / "README.md", as_markdown(card))
    return card


if __name__ == "__main__":
    try:
        print(f"{len(take_over(repo_root()))} weights and their card are in {FOLDER}")
    except ValueError as error:
        sys.exit(str(error))
