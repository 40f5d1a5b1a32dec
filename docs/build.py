"""One static site of all runs in results/, which opens without a server and a network (`make site`).

``python docs/build.py [REPOSITORY [SITE [OPTION OF SPHINX ...]]]``. Sphinx reads copies of the executed
notebooks and of the text pages, and a front page and one page per run that are rendered from ``pages/``.
No notebook is executed.
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
TEXTS = ["README.md", "data_manifest/README.md", "sprl_utils/extras/weights/README.md"]
TEXTS += ["CONTRIBUTING.md", "DECISIONS.md", "CHANGELOG.md"]
SMOKE = "smoke"  # its numbers are no results


def build(root: Path, site: Path, *options: str) -> int:
    """Write the site of a repository's results; returns Sphinx's exit status."""
    work = root / "runs" / "site"
    shutil.rmtree(work / "source", ignore_errors=True)
    shutil.rmtree(site, ignore_errors=True)
    stage(root, work / "source")
    return build_main(["-q", "-j", "auto", "-d", f"{work}/doctrees", *options, f"{work}/source", str(site)])


def stage(root: Path, source: Path) -> None:
    """Fill the folder that Sphinx reads.

    Raises:
        FileNotFoundError: there are no executed notebooks.
    """
    runs, texts = find_runs(root), [name for name in TEXTS if (root / name).exists()]
    if not runs:
        expected = "expected executed notebooks, found none; run `make reproduce`"
        raise FileNotFoundError(f"site: {root / 'results'}: {expected}")
    shutil.copytree(HERE / "_static", source / "_static")
    copy(HERE / "conf.py", source / "conf.py")
    for path in [root / name for name in texts] + [path for run in runs for path in run["files"]]:
        copy(path, source / path.relative_to(root))
    pages = Environment(loader=FileSystemLoader(HERE / "pages"), trim_blocks=True, lstrip_blocks=True)
    front = pages.get_template("index.md").render(runs=runs, texts=texts)
    (source / "index.md").write_text(front, encoding="utf-8")
    for run in runs:
        page = pages.get_template("run.md").render(run=run)
        (source / "results" / run["name"] / "index.md").write_text(page, encoding="utf-8")


def copy(path: Path, place: Path) -> None:
    """A copy with the file's own time, by which Sphinx sees whether it changed."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, place)


def find_runs(root: Path) -> list[dict[str, Any]]:
    """What is known of each run that has pages: the first is the demo; what a run did not write is empty."""
    runs = []
    for folder in (p for p in root.glob("results/*/") if p.name != SMOKE):
        notebooks = sorted(
            p for p in folder.glob("[0-9][0-9]_*.ipynb") if "." not in p.stem
        )  # no .failed.ipynb
        pages = notebooks + sorted(p for p in folder.glob("*.md") if p.name not in ("table.md", "index.md"))
        if not pages:
            continue
        tables, pictures = sorted(folder.glob("*.csv")), sorted(folder.glob("*/*.png"))
        comment = re.match(r"(#.*\n)*", read(root / "notebooks" / "profiles" / f"{folder.name}.yaml"))[0]
        run = {"name": folder.name, "pages": [p.stem for p in pages], "tables": [p.name for p in tables]}
        run["files"] = [*pages, *tables, *pictures]
        run["about"] = re.sub(r"^# ?(make .*)?", "", comment, flags=re.MULTILINE)
        run["record"] = json.loads(
            read(max(folder.glob("*environment.json"), default=folder / "none")) or "{}"
        )
        run["heads"] = json.loads(read(folder / "slices" / "index.json") or "{}")
        run["table"] = read(folder / "table.md")
        run["bars"] = (folder / "figures" / "bars.png").exists()
        runs.append(run)
    return sorted(runs, key=lambda run: (run["name"] != "demo", run["pages"][0], run["name"]))


def read(path: Path) -> str:
    """The text of a file, empty where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def main(arguments: list[str]) -> int:
    """Build the site of the repository that is named first (this one)."""
    root = Path(arguments[0] if arguments else HERE.parent).resolve()
    site = Path(arguments[1] if len(arguments) > 1 else root / "results" / "site").resolve()
    try:
        status = build(root, site, *arguments[2:])
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"open {site / 'index.html'}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
