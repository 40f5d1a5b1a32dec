"""Weights that come with the package, and the card that says what they are.

For each reduction of k-space there are mDCSRN and EDSR, and EDSR for thick slices. They learned from all
training people, and the test people have judged them. ``python -m sprl_utils.extras.weights`` takes them from
the study's runs.
"""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sprl_utils.evaluation import data_set
from sprl_utils.files import atomic_write, sha256, write_atomically
from sprl_utils.networks import load_generator
from sprl_utils.provenance import repo_root, write_json
from sprl_utils.volumes import read_volume, voxels_sha256

FOLDER = Path(__file__).with_name("weights")
#: The card without its table.
TEMPLATE = Path(__file__).with_name("card.md")
#: Name of the shipped weights -> profile of the study, and folder of the training run. The name begins with
#: the network's in the tables.
STUDIES = {
    "EDSR_4x4": ("study_4x4", "edsr"),
    "mDCSRN_4x4": ("study_4x4", "pretrain"),
    "EDSR_2x2": ("study_2x2", "edsr"),
    "mDCSRN_2x2": ("study_2x2", "pretrain"),
    "EDSR_slices": ("study_slices", "pretrain"),
}
#: dB by which zero-filling may differ where HR and LR are the same but for another processor's rounding.
SAME_LR = 1e-3


def shipped(name: str = "EDSR_4x4") -> Path:
    """Path of shipped weights.

    Raises:
        FileNotFoundError: none of that name; tells those that there are.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.safetensors"))) or "none, train your own"
        raise FileNotFoundError(f"shipped weights: there are {there}; found no {name!r}")
    return path


def find_weights(given: str) -> Path:
    """Path of weights: one's own, or shipped ones by name.

    Raises:
        FileNotFoundError: none shipped by that name.
    """
    return shipped(given) if Path(given).name == given and not Path(given).suffix else Path(given)


def read_card(folder: Path = FOLDER) -> dict[str, dict]:
    """What `take_over` wrote of each file of shipped weights, by its name; empty where none are shipped."""
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


# ---- scores on people held out ------------------------------------------------------------------------


def held_out_rows(scores: pd.DataFrame, results: Path, profile: str = "") -> pd.DataFrame:
    """What shipped weights score on the heads of ``scores``, from the study's runs.

    Args:
        scores: rows of `sprl_utils.evaluation.score`.
        results: the folder of all profiles' results.
        profile: whose scores they are; its own results are no news to it.

    Returns:
        Rows as in ``scores``, for those heads and regions on which zero-filling scores the same in both:
        there HR and LR are the same. ``source_run`` names the study, and ``seconds`` is NaN, because another
        machine took them. Empty where there are none.
    """
    lr = _psnr_of_lr(scores)
    found = [scores.head(0)]
    for study in sorted({study for study, _ in STUDIES.values()}):
        path = results / study / "metrics.csv"
        if study == profile or not path.exists():
            continue
        theirs = pd.read_csv(path)
        apart = (_psnr_of_lr(theirs) - lr).abs()
        same = pd.MultiIndex.from_frame(theirs[apart.index.names]).isin(apart.index[apart < SAME_LR])
        own = pd.concat([_own(theirs, name) for name in STUDIES], axis=1).any(axis=1)
        found.append(theirs[same & own].assign(seconds=np.nan))
    return pd.concat(found, ignore_index=True)


def _psnr_of_lr(scores: pd.DataFrame) -> pd.Series:
    """PSNR of zero-filled LR by subject and region."""
    return scores[scores["network"] == "zero-filled"].set_index(["subject", "region"])["psnr"]


def _own(scores: pd.DataFrame, name: str) -> pd.Series:
    """Rows of the shipped weights ``name``; a run's table also holds other methods and other runs."""
    profile, _ = STUDIES[name]
    return (scores["network"] == network_of(name)) & (scores["source_run"] == profile)


def network_of(name: str) -> str:
    """The network's name in the tables."""
    return name.split("_")[0]


def _held_out(path: Path, name: str) -> list[dict]:
    """PSNR (dB) and SSIM of weights on each test head and region, and how far above zero-filled LR."""
    if not path.exists():
        return []
    scores, keys = pd.read_csv(path), ["head", "region"]
    scores = scores.rename(columns={"subject": "head"})
    lr = scores[scores["network"] == "zero-filled"].set_index(keys)[["psnr", "ssim"]]
    rows = scores[_own(scores, name)].sort_values("data_consistency", kind="stable").set_index(keys)
    over = (rows[lr.columns] - lr.loc[rows.index]).add_suffix("_over_zero_filled")
    facts = rows[["network", "data_consistency"]]
    return pd.concat([rows[lr.columns], over, facts], axis=1).round(6).reset_index().to_dict("records")


# ---- the card -----------------------------------------------------------------------------------------


def describe(name: str, results: Path, weights: Path, known: Mapping[str, str] | None = None) -> dict:
    """One entry of the card, from what the run wrote into ``results/<profile>/``.

    Args:
        name: of the shipped weights.
        known: hashes of heads from an earlier card, for those of voxels whose files are not here.

    Raises:
        ValueError: the run left no results, or the weights are not those that it wrote.
    """
    profile, run = STUDIES[name]
    folder = results / profile
    if not (folder / "02_environment.json").is_file():
        raise ValueError(f"profile {profile}: expected what its run wrote in {folder}, found nothing of it")
    files = (folder / f"{stage}_environment.json" for stage in ("01", "02"))
    prepared, trained = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    expected, found = trained["outputs"][f"runs/{profile}/{run}/generator.safetensors"], sha256(weights)
    if found != expected:
        raise ValueError(f"{weights}: expected sha256 {expected} of profile {profile}, found {found}")
    heads, settings, cpu = prepared["profile"]["heads"], trained["profile"], trained["cpu"]
    if run == "edsr":
        plan = settings["edsr"]
        settings = settings | plan["settings"] | {"patch_size": plan["patches"]["patch_size"]}
    trained_on = [head for head, split in heads.items() if split == "train"]
    commit = trained["git"]["commit"] or "unknown"  # an archive without git
    return {
        "sha256": found,
        "made_by": f"make study, profile {profile}",
        "commit": commit + (" and changes" if trained["git"]["dirty"] else ""),
        "machine": trained["gpu"] or f"{cpu['threads']} threads, {cpu['model']}, {cpu['capability']}",
        "keep": prepared["profile"]["keep"] if settings["patches"] == "random" else None,
        "trained_on": trained_on,
        "trained_on_sha256": _hashes(trained_on, prepared["inputs"], results.parent, known or {}),
        "synthetic_heads": prepared["profile"]["synthetic_heads"],
        "steps": settings["steps"],
        "patches": f"{settings['batch_size']} of {settings['patch_size']} voxels",
        "seed": settings["seed"],
        "held_out": _held_out(folder / "metrics.csv", name),
    }


def _hashes(
    heads: Sequence[str], inputs: Mapping[str, str], root: Path, known: Mapping[str, str]
) -> dict[str, str]:
    """Hash -> head: of the files that a run read, and of the voxels in them, which survive saving anew."""
    found = {digest: head for digest, head in known.items() if head in heads}
    for head in heads:
        files = {root / path: digest for path, digest in inputs.items() if Path(path).parent.name == head}
        found |= dict.fromkeys(files.values(), head)
        if files and all(path.is_file() for path in files):
            found[voxels_sha256(read_volume(list(files)))] = head
    return found


def as_markdown(card: Mapping[str, dict]) -> str:
    """The model card for readers."""
    table = pd.DataFrame(
        {
            "weights": name,
            "trained on": _by_set(entry["trained_on"]),
            "synthetic heads": entry["synthetic_heads"],
            "steps": f"{entry['steps']:,}",
            "held out, in the brain": _gains(entry["held_out"], data_consistency=False),
            "held out, in the brain, with data consistency": _gains(entry["held_out"], data_consistency=True),
        }
        for name, entry in card.items()
    )
    rows = table.to_markdown(index=False, disable_numparse=True)
    return TEMPLATE.read_text(encoding="utf-8").format(table=rows)


def _by_set(heads: Sequence[str]) -> str:
    """Data sets and how many heads of each, as text."""
    return ", ".join(f"{name} ({n})" if n > 1 else name for name, n in Counter(map(data_set, heads)).items())


def _gains(rows: Sequence[dict], data_consistency: bool) -> str:
    """Mean PSNR and SSIM over zero-filled LR per data set, as text."""
    gains = pd.DataFrame([row for row in rows if row["data_consistency"] == data_consistency])
    if gains.empty:
        return "-"
    gains = gains[gains["region"] == "brain"]
    columns = ["psnr_over_zero_filled", "ssim_over_zero_filled"]
    means = gains.groupby(gains["head"].map(data_set), sort=False)[columns].mean()
    return "; ".join(f"{name}: {psnr:+.2f} dB, {ssim:+.3f}" for name, psnr, ssim in means.itertuples())


def take_over(root: Path, folder: Path = FOLDER) -> dict[str, dict]:
    """Copy the generators of the study's finished runs into the package, and write the card; returns it.

    Weights that are there stay where their run is not (a fresh clone).

    Raises:
        ValueError: as `describe`; nothing was copied of that run.
    """
    card, before = {}, read_card(folder)
    folder.mkdir(exist_ok=True)
    for name, (profile, run) in STUDIES.items():
        source = root / "runs" / profile / run / "generator.safetensors"
        target = folder / f"{name}.safetensors"
        known = before.get(target.name, {}).get("trained_on_sha256")
        if source.exists():
            load_generator(source)
            card[target.name] = describe(name, root / "results", source, known)
            with atomic_write(target) as beside:
                shutil.copyfile(source, beside)
        elif target.exists():
            card[target.name] = describe(name, root / "results", target, known)
    write_json(folder / "card.json", card)
    write_atomically(folder / "README.md", as_markdown(card))
    return card


if __name__ == "__main__":
    try:
        print(f"{len(take_over(repo_root()))} weights and their card are in {FOLDER}")
    except ValueError as error:
        sys.exit(str(error))
