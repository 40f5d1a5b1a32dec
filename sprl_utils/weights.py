"""Weights that come with the package, and the card that says what they are.

For each reduction of k-space one generator for use, trained on all people, and one without each of the two
people, by which that recipe is judged. ``python -m sprl_utils.weights`` takes them from the study's runs.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd

from sprl_utils.networks import load_generator
from sprl_utils.provenance import repo_root, sha256, write_json

FOLDER = Path(__file__).with_name("weights")
#: Profile of the study -> the name that its generator is shipped by.
STUDIES = {
    "study_all": "mDCSRN_4x4",
    "study_colin27": "mDCSRN_4x4_without_colin27",
    "study_bb": "mDCSRN_4x4_without_bb",
}
CARD = """# Model card

Made by `python -m sprl_utils.weights` from the study's runs; not written by hand.

| weights | trained on | synthetic heads | steps | held out: PSNR and SSIM over zero-filled LR |
|---|---|---|---|---|
{rows}

**Recipe.** mDCSRN b4u4 (411,648 parameters), L1; cubes, commit and hardware in `card.json`, all settings in
the profile that `made_by` names there; data and their terms in `data_manifest/README.md`.

**Limits.** T1-weighted heads of adults at 1 mm. Learned from two people at most, group averages and
synthetic heads; one seed. Low resolution was simulated by cutting k-space on two axes, on HR's intensity
scale. What the network adds is a guess: not for diagnosis.
"""


def shipped(name: str = "mDCSRN_4x4") -> Path:
    """Path of shipped weights.

    Raises:
        FileNotFoundError: none of that name; tells those that there are.
    """
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in FOLDER.glob("*.safetensors"))) or "none"
        raise FileNotFoundError(f"shipped weights: expected one of {there}, found {name!r}")
    return path


def describe(profile: str, results: Path, weights: Path) -> dict:
    """One entry of the card, from what the run wrote into ``results/<profile>/``."""
    folder = results / profile
    prepared, trained = (
        json.loads((folder / f"{stage}_environment.json").read_text()) for stage in ("01", "02")
    )
    heads, settings, cpu = prepared["profile"]["heads"], trained["profile"], trained["cpu"]
    return {
        "sha256": sha256(weights),
        "made_by": f"make reproduce PROFILE={profile}",
        "commit": trained["git"]["commit"],
        "machine": trained["gpu"] or f"{cpu['threads']} threads, {cpu['model']}, {cpu['capability']}",
        "keep": prepared["profile"]["keep"],
        "trained_on": [head for head, split in heads.items() if split == "train"],
        "synthetic_heads": prepared["profile"]["synthetic_heads"],
        "steps": settings["steps"],
        "cubes": f"{settings['batch_size']} of {settings['patch_size']} voxels",
        "seed": settings["seed"],
        "held_out": _held_out(folder / "metrics.csv"),
    }


def _held_out(scores: Path) -> list[dict]:
    """PSNR (dB) and SSIM of mDCSRN on each test head and region, and how far above zero-filled LR."""
    if not scores.exists():
        return []
    table = pd.read_csv(scores).set_index(["subject", "region", "method"])[["psnr", "ssim"]]
    ours, lr = (table.xs(method, level="method") for method in ("mDCSRN", "zero-filled"))
    both = ours.join((ours - lr).add_suffix("_over_zero_filled")).round(4).reset_index()
    return both.rename(columns={"subject": "head"}).to_dict("records")


def as_markdown(card: dict[str, dict]) -> str:
    """The model card for readers."""
    rows = []
    for name, entry in card.items():
        held_out = "; ".join(
            f"{row['head']}, {row['region']}: {row['psnr_over_zero_filled']:+.2f} dB, "
            f"{row['ssim_over_zero_filled']:+.3f}"
            for row in entry["held_out"]
        )
        heads, held_out = ", ".join(entry["trained_on"]), held_out or "nobody: see those without one person"
        rows.append(f"| {name} | {heads} | {entry['synthetic_heads']} | {entry['steps']:,} | {held_out} |")
    return CARD.format(rows="\n".join(rows))


def take_over(root: Path, folder: Path = FOLDER) -> dict[str, dict]:
    """Copy the generators of the study's finished runs into the package, and write the card; returns it.

    Weights that are there stay where their run is not (a fresh clone).
    """
    card = {}
    folder.mkdir(exist_ok=True)
    for profile, name in STUDIES.items():
        source = root / "runs" / profile / "pretrain" / "generator.safetensors"
        target = folder / f"{name}.safetensors"
        if source.exists():
            load_generator(source)
            shutil.copyfile(source, target)
        if target.exists():
            card[target.name] = describe(profile, root / "results", target)
    write_json(folder / "card.json", card)
    (folder / "README.md").write_text(as_markdown(card))
    return card


if __name__ == "__main__":
    print(f"{len(take_over(repo_root()))} weights and their card are in {FOLDER.relative_to(repo_root())}")
