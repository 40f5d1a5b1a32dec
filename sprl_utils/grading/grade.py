"""A rubric for the whole study: what a machine checks by running or computing it again.

Criteria follow the ML Reproducibility Checklist (Pineau et al.), the ML Code Completeness Checklist (Papers
with Code) and the ACM's badges. What only a reader can judge is not in it.

``python -m sprl_utils.grading.grade`` (`make grade`) takes less than a minute; ``--full``
(`make grade FULL=1`) also runs the tests, the demo and the shipped weights.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import jupytext
import numpy as np
import pandas as pd
import yaml

from sprl_utils.comparison import ablation
from sprl_utils.evaluation import (
    METHOD,
    data_set,
    mean_differences,
    over_zero_filled,
    reconstruct,
    results_table,
    score,
    summary,
)
from sprl_utils.extras.weights import network_of
from sprl_utils.fetch import SourceUnavailable, fetch_all
from sprl_utils.files import sha256, write_atomically
from sprl_utils.grading.reproduction import SPREAD, committed, verdict
from sprl_utils.manifest import file_name, read_manifest
from sprl_utils.networks import channels_last, load_generator
from sprl_utils.prepare import Recipe, prepare_all
from sprl_utils.profiles import study_notebooks
from sprl_utils.provenance import repo_root, write_json

PASS, FAIL, NOT_APPLICABLE = "PASS", "FAIL", "NOT APPLICABLE"
#: What a row of summary.csv is of.
IMAGE = ["region", *METHOD]
WEIGHTS, PEOPLE = Path("sprl_utils/extras/weights"), Path("data_manifest/people.csv")
#: Tests that take seconds: k-space, networks, losses, metrics.
METHOD_TESTS = [f"tests/test_{name}.py" for name in ("kspace", "networks", "losses", "metrics")]


class Failed(Exception):
    """Why an item does not hold."""


class NotApplicable(Exception):
    """Why an item cannot be asked here."""


def _require(holds: object, why: str) -> None:
    if not holds:
        raise Failed(why)


def _json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _splits(root: Path) -> str:
    subjects = {s.id: s for s in read_manifest(root / "data_manifest/demo.csv")}  # refuses a torn group
    used = _json(root / "results/demo/01_environment.json")["profile"]["heads"]
    moved = [head for head, split in used.items() if subjects[head].split != split]
    _require(not moved, f"results/demo was made with another split of {', '.join(moved)}")
    return (
        f"data_manifest/demo.csv: no group of {len(subjects)} heads in two splits; results/demo has the same"
    )


def _downloads(root: Path) -> str:
    subjects = read_manifest(root / "data_manifest/demo.csv")
    bare = [s.id for s in subjects if not all(s.hashes) or not s.licence]
    _require(not bare, f"no sha256 or licence for {', '.join(bare)}")
    known = {h for s in subjects for h in s.hashes}
    read = set(_json(root / "results/demo/01_environment.json")["inputs"].values())
    _require(read <= known, "results/demo read files that the manifest does not list")
    cached = 0
    for s in subjects:
        files = [root / "runs/cache" / s.id / file_name(member) for member in s.members]
        for file, expected in zip(files, s.hashes, strict=True):
            if file.exists():
                _require(sha256(file) == expected, f"{file.name} of {s.id} is not the file of the manifest")
                cached += 1
    checked = f"{cached} cached files have theirs" if cached else "no file is cached here to be checked"
    return f"data_manifest/demo.csv: a sha256 per file and terms per head; {checked}"


def _tables(root: Path) -> str:
    runs = [path.parent for path in sorted((root / "results").glob("*/summary.csv"))]
    _require(runs, "no results/*/summary.csv")
    for run in runs:
        scores, stated, differences = (
            pd.read_csv(run / f"{name}.csv") for name in ("metrics", "summary", "differences")
        )
        found = summary(scores).set_index(IMAGE)
        _follows(stated.set_index(IMAGE), found, f"{run.name}/summary.csv", "metrics.csv")
        found = mean_differences(over_zero_filled(scores)).set_index(IMAGE)
        _follows(differences.set_index(IMAGE), found, f"{run.name}/differences.csv", "metrics.csv")
    for path in sorted((root / "results").glob("*/ablation_effects.csv")):
        found = ablation.effects(pd.read_csv(path.with_name("ablations.csv")))
        stated = pd.read_csv(path, index_col="variant")
        _follows(stated, found, f"{path.parent.name}/{path.name}", "ablations.csv")
    return f"summaries of {len(runs)} runs and effects of ablations: computed again from the scores per head"


def _follows(stated: pd.DataFrame, found: pd.DataFrame, table: str, source: str) -> None:
    same = found.index.equals(stated.index) and np.allclose(
        stated, found[stated.columns], rtol=1e-12, atol=1e-9, equal_nan=True
    )
    _require(same, f"{table} does not follow from {source}")


def _shown(root: Path) -> str:
    runs = [path.parent for path in sorted((root / "results").glob("*/table.md"))]
    for run in runs:
        expected = results_table(pd.read_csv(run / "metrics.csv"), "whole").to_markdown(index=False)
        text = (run / "table.md").read_text(encoding="utf-8")
        _require(text.strip() == expected, f"{run.name}/table.md does not show the numbers of metrics.csv")
    return f"table.md of {len(runs)} runs: each cell is that of metrics.csv"


def _pages(root: Path) -> str:
    """Tables that README.md and results/README.md share with the ledger, and their pictures."""
    ledger = markdown_tables((root / "results/study/claims.md").read_text(encoding="utf-8"))
    shared = pictures = 0
    for page in ("README.md", "results/README.md"):
        text = (root / page).read_text(encoding="utf-8")
        for table in markdown_tables(text):
            for stated in (one for one in ledger if set(table) <= set(one)):
                rows = set(stated[list(table)].itertuples(index=False, name=None))
                _require(
                    set(table.itertuples(index=False, name=None)) <= rows,
                    f"{page}: numbers are not the ledger's",
                )
                shared += 1
        for link in re.findall(r"!\[[^]]*\]\(([^):]+)\)", text):
            _require((root / page).parent.joinpath(link).is_file(), f"{page}: {link} is missing")
            pictures += 1
    _require(
        shared and pictures, "README.md and results/README.md: found no table of the ledger or no picture"
    )
    return f"README.md and results/README.md: {shared} tables are the ledger's, {pictures} pictures are there"


def markdown_tables(text: str) -> list[pd.DataFrame]:
    """The Markdown tables of a page, as text."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        found.append(pd.DataFrame(lines[2:], columns=lines[0]))
    return found


def _claims(root: Path) -> str:
    """Run the notebook of claims on a copy of the tables."""
    ledger, notebook = Path("results/study/claims.md"), root / "notebooks/07_claims.py"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        (copy / "notebooks").mkdir()
        (copy / "sprl_utils").mkdir()
        (copy / "sprl_utils/__init__.py").touch()
        large = shutil.ignore_patterns("*.ipynb", "*.png", "site")
        shutil.copytree(root / "results", copy / "results", ignore=large)
        run = _python(root, str(notebook), cwd=copy)
        _require(run.returncode == 0, f"07_claims fails: {run.stderr.strip().splitlines()[-1:]}")
        same = (root / ledger).read_bytes() == (copy / ledger).read_bytes()
    _require(same, f"{ledger} does not follow from the tables in results/; run `make claims`")
    return f"{ledger}: notebooks/07_claims.py writes the same from the committed tables"


def _python(root: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run this Python on the package of ``root``."""
    variables = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, encoding="utf-8")


def _notebooks(root: Path) -> str:
    sources = study_notebooks(root / "notebooks")
    _require(sources, "notebooks/: found none")
    for source in sources:
        pair = source.with_suffix(".ipynb")
        _require(pair.exists(), f"{pair.name} is missing; run `make notebooks`")
        here, there = ([(c.cell_type, c.source) for c in jupytext.read(p).cells] for p in (source, pair))
        _require(here == there, f"{pair.name} is not of its {source.name}; run `make notebooks`")
        _executed(pair)
    runs = sorted((root / "results").glob("*/[0-9][0-9]_*[a-z].ipynb"))
    for notebook in runs:
        _executed(notebook)
    return f"{len(sources)} notebooks with their source, {len(runs)} of full runs: executed in order"


def _executed(path: Path) -> None:
    name = "/".join(path.parts[-3:] if path.parts[-3] == "results" else path.parts[-2:])
    cells = [c for c in jupytext.read(path).cells if c.cell_type == "code" and c.source]
    counts = [c.execution_count for c in cells]
    _require(counts == list(range(1, len(cells) + 1)), f"{name} was not executed in order to its end")
    outputs = [o for c in cells for o in c.outputs]
    _require(
        outputs and all(o.output_type != "error" for o in outputs), f"{name} holds an error or no output"
    )
    draws = any(re.search(r"\bfigures\.(?!banner)\w+\(", c.source) for c in cells)
    seen = any("image/png" in o.get("data", {}) for o in outputs)
    _require(seen or not draws, f"{name} draws figures and holds no picture")


def _pins(root: Path) -> str:
    text = (root / "environment.yml").read_text(encoding="utf-8")
    listed = yaml.safe_load(text)["dependencies"]
    pins = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    wrong = [pin for pin in pins if not _installed(pin)]
    _require(not wrong, f"not an exact version, or not in this environment: {', '.join(wrong)}")
    return f"environment.yml: {len(pins)} exact versions, all of them in this environment"


def _installed(pin: str) -> bool:
    name, _, version = pin.partition("==")
    try:
        return importlib.metadata.version(name).split("+")[0] == version
    except importlib.metadata.PackageNotFoundError:
        return False


def _tests(root: Path) -> str:
    run = _python(root, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", cwd=root)
    _require(
        run.returncode == 0, f"pytest collects no tests or fails: {run.stdout.strip().splitlines()[-1:]}"
    )
    collected = [line.partition("::")[0] for line in run.stdout.splitlines() if "::" in line]
    empty = {f"tests/{p.name}" for p in (root / "tests").glob("test_*.py")} - set(collected)
    _require(not empty, f"no test in {', '.join(sorted(empty))}")
    return f"tests/: pytest collects {len(collected)} tests in {len(set(collected))} files"


def _tests_pass(root: Path, *files: str) -> str:
    run = _python(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files, cwd=root)
    last = run.stdout.strip().splitlines()[-1:]
    _require(run.returncode == 0, f"pytest fails: {last}")
    return f"{' '.join(files) or 'tests/'}: {last[0]}"


def _weights(root: Path) -> str:
    card = _json(root / WEIGHTS / "card.json")
    files = {p.name: sha256(p) for p in (root / WEIGHTS).glob("*.safetensors")}
    stated = {name: entry["sha256"] for name, entry in card.items()}
    _require(files and files == stated, "the files of the shipped weights are not those of card.json")
    for name in files:
        load_generator(root / WEIGHTS / name)
    return f"{WEIGHTS}/: {len(files)} files load, and are those of card.json"


def _again(root: Path) -> str:
    """The numbers of one's own run of the demo against the committed ones."""
    if not (root / "runs/demo").is_dir():
        raise NotApplicable("the demo was not run here; `make reproduce` runs it")
    return f"results/demo: {_reproduced(_stated_demo(root), root)}"


def _rerun(root: Path) -> str:
    """The demo on a fresh clone; its numbers against the committed ones."""
    stated = _stated_demo(root)
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(root), str(clone)], check=True)
        if (root / "runs" / "cache").exists():
            shutil.copytree(root / "runs" / "cache", clone / "runs" / "cache")
        (clone / "results" / "demo" / "metrics.csv").unlink()
        done = subprocess.run(["make", "reproduce", f"PYTHON={sys.executable}"], cwd=clone)
        _require(done.returncode == 0, "`make reproduce` fails on a fresh clone")
        return f"`make reproduce` on a fresh clone: {_reproduced(stated, clone)}"


def _stated_demo(root: Path) -> pd.DataFrame:
    try:
        stated = committed(root, "demo")
    except LookupError as reason:
        raise NotApplicable(str(reason)) from None
    if stated is None:
        raise NotApplicable("the demo has no committed scores")
    return stated


def _reproduced(stated: pd.DataFrame, root: Path) -> str:
    reproduced, sentence = verdict(stated, pd.read_csv(root / "results/demo/metrics.csv"), "demo")
    _require(reproduced, sentence)
    return sentence


def _stated_metrics(root: Path) -> str:
    """Shipped weights run anew on one head of each data set of which the card tells PSNR and SSIM."""
    card = _stated(root)
    for name, entry in card.items():
        heads = [row["head"] for row in entry["held_out"]]
        _run_weights(root, name, entry, {data_set(head): head for head in reversed(heads)}.values())
    return f"{len(card)} weights on one head of each data set that they have not seen: within {SPREAD}"


def _one_head(root: Path) -> str:
    """The first weights of the card on one of its heads, of a package index if there is one: that is near."""
    name, entry = next(iter(_stated(root).items()))
    https = {s.id: s.source.startswith("https") for s in read_manifest(root / PEOPLE)}
    head = min((row["head"] for row in entry["held_out"]), key=https.__getitem__)
    try:
        off = _run_weights(root, name, entry, [head])
    except SourceUnavailable as reason:
        raise NotApplicable(f"{head} is not here and cannot be downloaded: {reason}") from None
    return f"{name} on {head}, run again: differs from card.json by {off}"


def _stated(root: Path) -> dict[str, dict]:
    """Entries of the card that tell PSNR and SSIM."""
    card = {name: entry for name, entry in _json(root / WEIGHTS / "card.json").items() if entry["held_out"]}
    if not card:
        raise NotApplicable("no shipped weights with metrics of their own")
    return card


def _run_weights(root: Path, name: str, entry: dict, heads: Collection[str]) -> dict[str, float]:
    """By how much weights that run again on ``heads`` differ from their entry of the card, by metric."""
    stated = pd.DataFrame(entry["held_out"])
    stated = stated[stated["head"].isin(heads)]
    subjects = [s for s in read_manifest(root / PEOPLE) if s.id in heads]
    files = fetch_all(subjects, root / "runs" / "cache", stop_at_failure=True)
    generator, network = channels_last(load_generator(root / WEIGHTS / name)).eval(), network_of(name)
    with tempfile.TemporaryDirectory() as out:
        prepared = prepare_all(subjects, files, Path(out), Recipe(entry["keep"]), stop_at_failure=True)
        regions = list(stated["region"].unique())
        found = pd.concat(score(h, reconstruct(h, {network: generator}), "", regions) for h in prepared)
    found = found[found["network"] == network].rename(columns={"subject": "head"})
    both = stated.merge(found, "left", ["head", "region", "data_consistency"], suffixes=("", "_again"))
    off = {m: float((both[f"{m}_again"] - both[m]).abs().max(skipna=False)) for m in ("psnr", "ssim")}
    off = {m: round(value, 5) for m, value in off.items()}
    within = all(off[m] <= SPREAD[m] for m in off)
    _require(within, f"{name} on {', '.join(heads)}: differs from card.json by {off}")
    return off


REPRODUCIBILITY, COMPLETENESS, ACM = "ML Reproducibility", "ML Code Completeness", "ACM"
Item = tuple[str, str, Callable[[Path], str]]
#: Criterion, its source, and the check: it returns what shows that the criterion holds, or raises.
ITEMS: tuple[Item, ...] = (
    ("Splits are given, and nobody is in two of them", REPRODUCIBILITY, _splits),
    ("Data have hashes and terms", REPRODUCIBILITY, _downloads),
    ("Tables follow from the scores per head", REPRODUCIBILITY, _tables),
    ("Tables of results show the scores", REPRODUCIBILITY, _shown),
    ("Pages show the tables and pictures", REPRODUCIBILITY, _pages),
    ("Each claim has its evidence", REPRODUCIBILITY, _claims),
    ("Dependencies are specified", COMPLETENESS, _pins),
    ("The demo's numbers are those that were committed", REPRODUCIBILITY, _again),
    ("Trained weights", COMPLETENESS, _weights),
    ("Trained weights restore one head as stated", COMPLETENESS, _one_head),
    ("Functional: the notebooks were executed", ACM, _notebooks),
    ("Functional: the tests of the method pass", ACM, lambda root: _tests_pass(root, *METHOD_TESTS)),
    ("Reusable: each part has tests", ACM, _tests),
)
LONG: tuple[Item, ...] = (
    ("The demo's numbers come out again", REPRODUCIBILITY, _rerun),
    ("Trained weights give their stated metrics", COMPLETENESS, _stated_metrics),
    ("The tests pass", ACM, _tests_pass),
)


def grade(root: Path, full: bool = False) -> pd.DataFrame:
    """The rubric: one row per criterion with its source, verdict, and what shows it."""
    rows = []
    for criterion, source, check in (*ITEMS, *(LONG if full else ())):
        try:
            outcome, evidence = PASS, check(root)
        except NotApplicable as reason:
            outcome, evidence = NOT_APPLICABLE, str(reason)
        except (Failed, OSError, ValueError, KeyError, RuntimeError, subprocess.SubprocessError) as error:
            # a broken or missing file, or no network, fails its item
            outcome, evidence = FAIL, " ".join(str(error).split()) or type(error).__name__
        rows.append((criterion, source, outcome, evidence))
    return pd.DataFrame(rows, columns=["criterion", "source", "verdict", "evidence"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the rubric and write ``results/grade/grade.md``; 1 if an item fails."""
    parser = argparse.ArgumentParser(prog="python -m sprl_utils.grading.grade", description=__doc__)
    parser.add_argument("--full", action="store_true", help="also run the tests, the demo and all weights")
    root, table = repo_root(), grade(repo_root(), parser.parse_args(arguments).full)
    for row in table.itertuples():
        print(f"{row.verdict:<15}{row.criterion}\n{'':15}{row.evidence}")
    out = root / "results" / "grade"
    rubric = f"# Rubric\n\nMade by `make grade`.\n\n{table.to_markdown(index=False)}\n"
    write_atomically(out / "grade.md", rubric)
    write_json(out / "grade.json", table.to_dict("records"))
    return int((table["verdict"] == FAIL).any())


if __name__ == "__main__":
    sys.exit(main())
