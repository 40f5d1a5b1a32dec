"""One static site of all runs in results/, which opens without a server and a network (`make site`).

``python docs/build.py [REPOSITORY [SITE [OPTION_OF_SPHINX ...]]]``. Sphinx reads copies of the executed
notebooks and text pages, and pages that are rendered from ``pages/``. No notebook is executed.
"""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from sphinx.cmd.build import build_main

HERE = Path(__file__).resolve().parent
TEXTS = ["README", "notebooks/glossary", "data_manifest/README", "sprl_utils/extras/weights/README"]
TEXTS += ["notebooks/exercises/README", "CONTRIBUTING", "DECISIONS", "CHANGELOG"]


def build(root: Path, site: Path, *options: str) -> int:
    """Write the site of a repository's results; returns Sphinx's exit status."""
    work = root / "runs" / "site"
    shutil.rmtree(site, ignore_errors=True)
    stage(root, work / "source")
    return build_main(["-q", "-j", "auto", "-d", f"{work}/doctrees", *options, f"{work}/source", str(site)])


def stage(root: Path, source: Path) -> None:
    """Fill the folder that Sphinx reads; copies keep the time by which it sees whether a file changed."""
    runs, texts = find_runs(root), [f"{name}.md" for name in TEXTS if (root / f"{name}.md").exists()]
    if not runs:
        sys.exit(f"site: {root}/results: expected executed notebooks, found none; run `make reproduce`")
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source, ignore=shutil.ignore_patterns("build.py", "pages", "__pycache__"))
    for path in [*(root / name for name in texts), *(path for run in runs for path in run["files"])]:
        place = source / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place)
    # The links of one page lead out of docs/, and the badges of the other need the Internet.
    for name, what, instead in (("read_first.md", r"\]\(\.\./", "]("), ("README.md", r"^\[!\[.*\n", "")):
        if (page := source / name).exists():
            page.write_text(re.sub(what, instead, read(page), flags=re.MULTILINE), encoding="utf-8")
    pages = Environment(loader=FileSystemLoader(HERE / "pages"), trim_blocks=True, lstrip_blocks=True)
    front = pages.get_template("index.md").render(runs=runs, texts=texts)
    (source / "index.md").write_text(front, encoding="utf-8")
    for run in runs:
        page = pages.get_template("run.md").render(run=run)
        (source / "results" / run["name"] / "index.md").write_text(page, encoding="utf-8")


def find_runs(root: Path) -> list[dict[str, Any]]:
    """What is known of each run that has pages, study and demo first; smoke's numbers are no results."""
    runs = []
    for folder in (p for p in root.glob("results/*/") if p.name != "smoke"):
        pages = sorted(p for p in folder.glob("[0-9][0-9]_*.ipynb") if ".failed" not in p.name)
        pages += sorted(p for p in folder.glob("*.md") if p.name != "table.md")
        if pages:
            runs.append(describe(root, folder, pages))
    first = {"study_4x4": 0, "demo": 1}
    return sorted(runs, key=lambda run: (first.get(run["name"], 2), run["pages"][0], run["name"]))


def describe(root: Path, folder: Path, pages: list[Path]) -> dict[str, Any]:
    """What the templates show of a run; what the run did not write is empty."""
    tables, pictures = sorted(folder.glob("*.csv")), sorted(folder.glob("*/*.png"))
    comment = re.match(r"(#.*\n)*", read(root / "notebooks" / "profiles" / f"{folder.name}.yaml"))[0]
    record = max(folder.glob("*environment.json"), default=folder / "environment.json")
    return {
        "name": folder.name,
        "pages": [p.stem for p in pages],
        "tables": [p.name for p in tables],
        "files": [*pages, *tables, *pictures],
        "about": re.sub(r"^# ?(make .*)?", "", comment, flags=re.MULTILINE),
        "record": json.loads(read(record) or "{}"),
        "heads": json.loads(read(folder / "slices" / "index.json") or "{}"),
        "table": read(folder / "table.md"),
        "gains": folder / "figures" / "gains.png" in pictures,
    }


def read(path: Path) -> str:
    """The text of a file, empty where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


if __name__ == "__main__":
    repository = Path(sys.argv[1]).resolve() if sys.argv[1:] else HERE.parent
    target = Path(sys.argv[2]).resolve() if sys.argv[2:] else repository / "results" / "site"
    status = build(repository, target, *sys.argv[3:])
    print(f"open {target / 'index.html'}")
    sys.exit(status)
