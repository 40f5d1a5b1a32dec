"""A rubric for the whole study: what a machine can check, with the file or command that shows it.

Criteria after the ML Reproducibility Checklist (Pineau et al.), the ML Code Completeness Checklist (Papers
with Code) and the ACM's badges "artifacts evaluated: functional, reusable".

``python -m sprl_utils.grading.grade`` (`make grade`) is quick; ``--full`` (`make
grade FULL=1`) also runs the demo again and compares.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import yaml

from sprl_utils import evaluation, manifest, metrics
from sprl_utils.extras import streaming  # noqa: F401  the engine of the paper's generator
from sprl_utils.fetch import fetch_all
from sprl_utils.files import sha256
from sprl_utils.grading import claims
from sprl_utils.grading.reproduction import SPREAD, committed, verdict
from sprl_utils.networks import channels_last, load_generator
from sprl_utils.prepare import Recipe, prepare_all
from sprl_utils.provenance import repo_root, write_json

PASS, FAIL, NOT_APPLICABLE = "PASS", "FAIL", "NOT APPLICABLE"
NUMBER = re.compile(r"-?\d+\.\d+")
REPRODUCIBILITY, COMPLETENESS, ACM = "ML Reproducibility", "ML Code Completeness", "ACM"


class Failed(Exception):
    """Why an item does not hold."""


class NotApplicable(Exception):
    """Why an item cannot be asked here."""


@dataclass(frozen=True)
class Item:
    """One line of the rubric; ``check`` returns what shows that it holds, or raises one of the above."""

    criterion: str
    source: str
    check: Callable[[Path], str]


def _require(holds: object, why: str) -> None:
    if not holds:
        raise Failed(why)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _json(path: Path) -> dict:
    return json.loads(_text(path))


def _mentions(path: Path, *words: str) -> None:
    text = _text(path).lower()
    missing = [word for word in words if word.lower() not in text]
    _require(not missing, f"{path.name} does not mention {', '.join(missing)}")


# ---- the method ---------------------------------------------------------------------------------------


def _method(root: Path) -> str:
    for name in ("01_prepare_data", "02_pretrain_generator", "03_train_gan"):
        _require("$$" in _text(root / "notebooks" / f"{name}.py"), f"{name} has no formula")
    return "notebooks/01, 02, 03: formulas beside the code; docstrings name the paper's sections"


def _complexity(root: Path) -> str:
    table = pd.read_csv(root / "results/demo/summary.csv")
    if "source_run" in table:  # seconds of other runs are not this machine's
        table = table[table["source_run"] == "demo"]
    networks = table[table["method"].str.startswith("mDCSRN")]
    columns = ["parameters", "multiply_adds", "seconds"]
    _require(len(networks) and (networks[columns] > 0).all(axis=None), f"{columns} not all stated")
    return "results/demo/summary.csv: parameters, multiply-adds, seconds"


# ---- data ---------------------------------------------------------------------------------------------


def _splits(root: Path) -> str:
    subjects = manifest.read_manifest(root / "data_manifest/demo.csv")  # refuses a group in two splits
    unassigned = [s.id for s in subjects if not s.split]
    _require(not unassigned, f"no split for {', '.join(unassigned)}")
    used = _json(root / "results/demo/01_environment.json")["profile"]["heads"]
    splits = {s.id: s.split for s in subjects}
    moved = [head for head, split in used.items() if splits.get(head) != split]
    _require(not moved, f"results/demo was made with another split of {', '.join(moved)}")
    sides = defaultdict(set)
    for subject in subjects:
        if subject.id in used:
            sides[subject.group].add(used[subject.id])
    torn = [group for group, found in sides.items() if len(found) > 1]
    _require(not torn, f"leakage group in two splits: {', '.join(torn)}")
    return "data_manifest/demo.csv; results/demo/01_environment.json: the same, no leakage group torn"


def _data_hashes(root: Path) -> str:
    subjects = manifest.read_manifest(root / "data_manifest/demo.csv")
    bare = [s.id for s in subjects if not all(s.hashes)]
    _require(not bare, f"no sha256 for {', '.join(bare)}")
    found = _json(root / "results/demo/01_environment.json")["inputs"]
    used = _json(root / "results/demo/01_environment.json")["profile"]["heads"]
    listed = {h for s in subjects if s.id in used for h in s.hashes}
    _require(set(found.values()) == listed, "the demo read other files than the manifest lists")
    return "data_manifest/demo.csv: a sha256 each, the same that results/demo/01_environment.json read"


def _data_terms(root: Path) -> str:
    subjects = manifest.read_manifest(root / "data_manifest/demo.csv")
    bare = [s.id for s in subjects if not s.licence or s.source == "local"]
    _require(not bare, f"no licence or public source for {', '.join(bare)}")
    _mentions(root / "data_manifest/README.md", "licence", "limits", "leakage")
    return "data_manifest/demo.csv, data_manifest/README.md: source, terms, limits of each head"


# ---- code ---------------------------------------------------------------------------------------------


def _pins(root: Path) -> str:
    listed = yaml.safe_load(_text(root / "environment.yml"))["dependencies"]
    pins = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    loose = [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==\d[\w.]*", pin)]
    _require(not loose, f"not pinned to a version: {', '.join(loose)}")
    wrong = [pin for pin in pins if not _installed(*pin.split("=="))]
    _require(not wrong, f"this environment does not have {', '.join(wrong)}")
    return f"environment.yml: {len(pins)} exact versions, all of them in this environment"


def _installed(name: str, version: str) -> bool:
    try:
        return importlib.metadata.version(name).split("+")[0] == version
    except importlib.metadata.PackageNotFoundError:
        return False


def _commands(root: Path) -> str:
    _mentions(root / "README.md", "make reproduce", "make test", "sprl super-resolve")
    makefile = _text(root / "Makefile")
    for target in ("reproduce", "test", "bench", "study", "claims"):
        _require(re.search(rf"^{target}:", makefile, re.MULTILINE), f"Makefile has no target {target}")
    return "README.md and Makefile: a command for training, evaluation, tests, speed, the long study"


def _notebooks(root: Path) -> str:
    for folder in ("notebooks", "results/demo"):
        found = sorted((root / folder).glob("0[0-9]_*[a-z].ipynb"))  # and no -Copy1
        _require(len(found) >= 4, f"{folder}: expected four executed notebooks, found {len(found)}")
        for path in found:
            cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source]
            failed = any(o.output_type == "error" for c in cells for o in c.outputs)
            _require(not failed, f"{folder}/{path.name} holds an error")
            _require(
                all(c.execution_count for c in cells), f"{folder}/{path.name} was not executed to the end"
            )
    return "notebooks/*.ipynb, results/demo/*.ipynb: executed to the end without error, as `make test` does"


def _tests(root: Path) -> str:
    count = sum(_text(p).count("\ndef test_") for p in (root / "tests").glob("test_*.py"))
    _require(count > 100 and (root / ".ci/run").exists(), f"only {count} tests, or no .ci/run")
    return f"tests/: {count} test functions; .ci/run runs them on a fresh clone"


def _licence(root: Path) -> str:
    _require("MIT" in _text(root / "LICENSE"), "LICENSE is not the licence that the README names")
    cited = yaml.safe_load(_text(root / "CITATION.cff"))
    _require(cited.get("title") and cited.get("authors"), "CITATION.cff names no title or authors")
    return "LICENSE, CITATION.cff"


def _docs(root: Path) -> str:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data_manifest/README.md"):
        _require((root / name).exists(), f"{name} is missing")
    return "README.md, CONTRIBUTING.md (how and why), CHANGELOG.md, data_manifest/README.md"


def _weights(root: Path) -> str:
    folder = root / "sprl_utils" / "weights"
    files, card = sorted(folder.glob("*.safetensors")), folder / "card.json"
    if not files:
        raise NotApplicable("no weights are shipped yet; `make reproduce` makes the demo's")
    told = _json(card) if card.exists() else {}
    for path in files:
        _require(path.name in told, f"{path.name} does not stand in card.json")
        _require(
            sha256(path) == told[path.name]["sha256"], f"{path.name} is not the file that card.json describes"
        )
        load_generator(path)
    return f"sprl_utils/extras/weights/: {len(files)} files load, and are those of card.json"


# ---- results ------------------------------------------------------------------------------------------


def _provenance(root: Path) -> str:
    for path in sorted((root / "results/demo").glob("*environment.json")):
        facts = _json(path)
        if facts["git"]["commit"] is None:
            raise NotApplicable(f"{path.name}: the commit is unknown, since the run had no git")
        _require(facts["git"]["dirty"] is False, f"{path.name}: not of a clean commit")
        _require("seed" in facts["profile"], f"{path.name}: no seed")
        _require(
            facts["cpu"]["model"] and facts["packages"]["torch"], f"{path.name}: no hardware or versions"
        )
    return "results/demo/*environment.json: clean commit, seeds, versions, hardware, hashes"


def _numbers(root: Path) -> str:
    demo = root / "results/demo"
    told = _json(demo / "environment.json")["outputs"]["results/demo/metrics.csv"]
    _require(sha256(demo / "metrics.csv") == told, "metrics.csv is not the file that the run wrote")
    scores = pd.read_csv(demo / "metrics.csv")
    table = evaluation.as_markdown(evaluation.results_table(scores, "whole"))
    _require(_text(demo / "table.md") == table, "table.md does not follow from metrics.csv")
    _require(
        _shows(_text(root / "README.md"), table),
        f"README.md shows other numbers than table.md, allowed is {SPREAD}",
    )
    means = metrics.summarise(scores, ["region", "method"]).set_index(["region", "method"]).sort_index()
    kept = pd.read_csv(demo / "summary.csv").set_index(["region", "method"]).sort_index()[list(means.columns)]
    same = np.allclose(kept, means, rtol=0, atol=1e-9, equal_nan=True)
    _require(same, "summary.csv does not follow from metrics.csv")
    return "metrics.csv (hash in environment.json) -> table.md -> README.md, summary.csv: recomputed"


def _shows(page: str, table: str) -> bool:
    """Whether a page holds the table, word by word, and its numbers within what a rerun may differ by."""
    lines, rows = page.splitlines(), table.strip().splitlines()
    first = lines.index(rows[0]) if rows[0] in lines else len(lines)
    shown = "\n".join(lines[first : first + len(rows)])
    if NUMBER.sub("", shown) != NUMBER.sub("", table.strip()):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(table), itertools.cycle(SPREAD.values()))
    return all(abs(float(a) - float(b)) <= allowed for a, b, allowed in pairs)


def _spread(root: Path) -> str:
    table = pd.read_csv(root / "results/demo/summary.csv")
    _require({f"{m}_sd" for m in metrics.METRICS} <= set(table.columns), "summary.csv states no SD")
    _mentions(root / "README.md", "one run, one seed")
    return "results/demo/summary.csv: mean and SD over heads; README.md states the number of runs and seeds"


def _time_and_machine(root: Path) -> str:
    _mentions(root / "README.md", "minutes", "two AVX2 cores")
    return "README.md: minutes and machine; results/demo/*environment.json: processor, threads, versions"


def _selection(root: Path) -> str:
    _mentions(root / "CONTRIBUTING.md", "how the demo's training was chosen", "validation head")
    return "CONTRIBUTING.md: what was tried, on which head it was chosen"


def _claims(root: Path) -> str:
    _require(
        _text(root / "results/study/claims.md") == claims.ledger(root / "results"),
        "claims.md does not follow from the tables in results/",
    )
    return "results/study/claims.md: generated from the committed tables, the same again"


def _human_subjects(_: Path) -> str:
    raise NotApplicable("no experiment with people; faces are cut from published figures")


ITEMS = (
    Item("Mathematical setting, algorithm and model are described", REPRODUCIBILITY, _method),
    Item("Complexity is stated: space, time, sample size", REPRODUCIBILITY, _complexity),
    Item("Splits are given, and nobody stands on two sides", REPRODUCIBILITY, _splits),
    Item("Data can be downloaded and checked", REPRODUCIBILITY, _data_hashes),
    Item("Sources, licences and limits of the data are stated", REPRODUCIBILITY, _data_terms),
    Item("How settings were chosen is stated", REPRODUCIBILITY, _selection),
    Item("Numbers follow from committed files", REPRODUCIBILITY, _numbers),
    Item("Central tendency, variation, number of runs", REPRODUCIBILITY, _spread),
    Item("Time and computing infrastructure", REPRODUCIBILITY, _time_and_machine),
    Item("Each claim has its evidence", REPRODUCIBILITY, _claims),
    Item("Human subjects", REPRODUCIBILITY, _human_subjects),
    Item("Dependencies are specified", COMPLETENESS, _pins),
    Item("Training and evaluation code, with the command for each", COMPLETENESS, _commands),
    Item("Trained weights", COMPLETENESS, _weights),
    Item("Functional: documented", ACM, _docs),
    Item("Functional: exercisable, the notebooks execute", ACM, _notebooks),
    Item("Functional: results can be traced", ACM, _provenance),
    Item("Reusable: tested", ACM, _tests),
    Item("Reusable: licence and citation", ACM, _licence),
)


def _rerun(root: Path) -> str:
    """The demo on a fresh clone; its numbers against the committed ones."""
    try:
        told = committed(root, "demo")
    except LookupError as reason:
        raise NotApplicable(str(reason)) from None
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        if (root / "runs" / "cache").exists():
            shutil.copytree(root / "runs" / "cache", clone / "runs" / "cache")
        (clone / "results" / "demo" / "metrics.csv").unlink()
        done = subprocess.run(["make", "reproduce", f"PYTHON={sys.executable}"], cwd=clone)
        _require(done.returncode == 0, "`make reproduce` fails on a fresh clone")
        found = pd.read_csv(clone / "results/demo/metrics.csv")
    reproduced, sentence = verdict(told, found)
    _require(reproduced, sentence)
    return f"`make reproduce` on a fresh clone: {sentence}"


def _stated_metrics(root: Path) -> str:
    """Shipped weights run anew on the heads of which the card tells their PSNR and SSIM."""
    folder = root / "sprl_utils" / "weights"
    path = folder / "card.json"
    card = _json(path) if path.exists() else {}
    card = {name: entry for name, entry in card.items() if entry["held_out"]}
    if not card:
        raise NotApplicable("no shipped weights with metrics of their own")
    listed = {s.id: s for s in manifest.read_manifest(root / "data_manifest/demo.csv")}
    apart: dict[str, list[pd.Series]] = {"psnr": [], "ssim": []}
    for name, entry in card.items():
        generators = {"mDCSRN": channels_last(load_generator(folder / name))}
        told = pd.DataFrame(entry["held_out"]).set_index(["head", "region", "method"])
        subjects = [listed[head] for head in told.index.unique("head")]
        files = fetch_all(subjects, root / "runs" / "cache", stop_at_failure=True)
        with tempfile.TemporaryDirectory() as out:
            for head in prepare_all(subjects, files, Path(out), Recipe(entry["keep"]), stop_at_failure=True):
                images, seconds = evaluation.reconstruct(head, generators)
                found = evaluation.score(head, images, seconds, generators)
                found = found.set_index(["subject", "region", "method"]).rename_axis(told.index.names)
                for metric, values in apart.items():
                    here = told[metric].xs(head.meta["id"], drop_level=False)
                    values.append((found[metric].reindex(here.index) - here).abs())
        off = {m: round(float(pd.concat(values).max(skipna=False)), 5) for m, values in apart.items()}
        _require(all(off[m] <= SPREAD[m] for m in off), f"{name}: differs from card.json by {off}")
    return f"{len(card)} weights on the heads they have not seen: largest differences {off}, allowed {SPREAD}"


LONG = (
    Item("The demo's numbers come out again", REPRODUCIBILITY, _rerun),
    Item("Trained weights give their stated metrics", COMPLETENESS, _stated_metrics),
)


def grade(root: Path, full: bool = False) -> pd.DataFrame:
    """The rubric: criterion, source, verdict, and what shows it."""
    rows = []
    for item in (*ITEMS, *(LONG if full else ())):
        try:
            outcome, evidence = PASS, item.check(root)
        except NotApplicable as reason:
            outcome, evidence = NOT_APPLICABLE, str(reason)
        except (Failed, OSError, ValueError, KeyError, RuntimeError, subprocess.SubprocessError) as error:
            # a broken or missing file, or no network, fails its item
            outcome, evidence = FAIL, " ".join(str(error).split()) or type(error).__name__
        rows.append(
            {"criterion": item.criterion, "source": item.source, "verdict": outcome, "evidence": evidence}
        )
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame) -> str:
    """The rubric as Markdown."""
    counts = table["verdict"].value_counts()
    total = ", ".join(f"{counts[v]} {v}" for v in (PASS, FAIL, NOT_APPLICABLE) if v in counts)
    lines = ["# Rubric", "", f"Made by `make grade`: {total}.", ""]
    lines += ["| criterion | source | verdict | what shows it |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |" for row in table.to_numpy()]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rubric and write ``results/grade/grade.md``; 1 if an item fails."""
    parser = argparse.ArgumentParser(prog="python -m sprl_utils.grading.grade", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also run the demo again, twenty minutes")
    root, table = repo_root(), grade(repo_root(), parser.parse_args(arguments).full)
    for row in table.itertuples():
        print(f"{row.verdict:<15}{row.criterion}\n{'':15}{row.evidence}")
    out = root / "results" / "grade"
    out.mkdir(parents=True, exist_ok=True)
    (out / "grade.md").write_text(as_markdown(table), encoding="utf-8")
    write_json(out / "grade.json", table.to_dict("records"))
    return int((table["verdict"] == FAIL).any())


if __name__ == "__main__":
    sys.exit(main())
