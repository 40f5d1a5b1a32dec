"""One static site of all runs in results/, which opens without a server and without a network (`make site`).

``python docs/build.py [REPOSITORY [SITE]]``. Sphinx reads a folder of links to the executed notebooks and to the
text pages, with a front page and one page per run that are rendered from ``pages/``. No notebook is executed.
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
TEXTS = ("data_manifest/README.md", "sprl_utils/extras/weights/README.md", "CONTRIBUTING.md", "DECISIONS.md")
TEXTS += ("CHANGELOG.md",)
BESIDE = ("*.csv", "figures", "slices")  # what a run's page shows or offers beside its notebooks


def build(root: Path, site: Path) -> int:
    """Write the site of the results in a repository; returns Sphinx's exit status, warnings are errors.

    Raises:
        FileNotFoundError: there are no executed notebooks.
    """
    work = root / "runs" / "site"
    source = stage(root, work / "source")
    shutil.rmtree(site, ignore_errors=True)
    options = ["-q", "-W", "--keep-going", "-j", "auto", "-d", str(work / "doctrees")]
    return build_main([*options, str(source), str(site)])


def stage(root: Path, source: Path) -> Path:
    """A folder with Sphinx's sources: links, and pages that are rendered; returns it."""
    runs = find_runs(root)
    if not runs:
        raise FileNotFoundError(
            f"site: {root / 'results'}: expected executed notebooks, found none; run `make reproduce`"
        )
    shutil.rmtree(source, ignore_errors=True)
    templates = Environment(loader=FileSystemLoader(HERE / "pages"), trim_blocks=True, lstrip_blocks=True)
    texts = [name for name in TEXTS if (root / name).exists()]
    for path, name in [(HERE / n, n) for n in ("conf.py", "_static")] + [(root / n, n) for n in texts]:
        link(path, source / name)
    for run in runs:
        folder = root / "results" / run["name"]
        for path in [*run["pages"], *(p for pattern in BESIDE for p in folder.glob(pattern))]:
            link(path, source / path.relative_to(root))
        page = templates.get_template("run.md").render(run, folder="")
        (source / "results" / run["name"] / "index.md").write_text(page, encoding="utf-8")
    first = runs[0]
    front = templates.get_template("index.md").render(
        first, folder=f"results/{first['name']}/", runs=runs, texts=texts
    )
    (source / "index.md").write_text(front, encoding="utf-8")
    return source


def link(path: Path, place: Path) -> None:
    """A symbolic link, so that Sphinx sees when the file itself changes."""
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(path)


def find_runs(root: Path) -> list[dict[str, Any]]:
    """What is known of each run that has pages: the demo first, then by the first notebook. Smoke is no result."""
    runs = []
    for folder in (p for p in (root / "results").iterdir() if p.is_dir() and p.name != "smoke"):
        pages = sorted(p for p in folder.glob("[0-9][0-9]_*.ipynb") if "." not in p.stem)  # no .failed.ipynb
        pages += sorted(p for p in folder.glob("*.md") if p.name != "table.md")
        if pages:
            runs.append({"name": folder.name, "pages": pages, **describe(root, folder)})
    return sorted(runs, key=lambda run: (run["name"] != "demo", run["pages"][0].name, run["name"]))


def describe(root: Path, folder: Path) -> dict[str, Any]:
    """Profile's comment, origin, table, slices and figures of a run; what it did not write is empty."""
    profile, index, table = (
        root / "notebooks" / "profiles" / f"{folder.name}.yaml",
        folder / "slices" / "index.json",
        folder / "table.md",
    )
    comment = re.match(r"(?:#.*\n)*", profile.read_text(encoding="utf-8") if profile.exists() else "")[0]
    return {
        "about": re.sub(r"^# ?(make .*\n)?", "", comment, flags=re.MULTILINE),
        "origin": origin(folder),
        "table": table.read_text(encoding="utf-8") if table.exists() else "",
        "heads": json.loads(index.read_text(encoding="utf-8")) if index.exists() else {},
        "figures": {p.stem: p.name for p in folder.glob("figures/*.png")},
        "tables": sorted(p.name for p in folder.glob("*.csv")),
    }


def origin(folder: Path) -> str:
    """Commit and machine of the run, from its last provenance record."""
    records = sorted(folder.glob("*environment.json"))
    if not records:
        return ""
    facts = json.loads(records[-1].read_text(encoding="utf-8"))
    where = facts.get("gpu") or "{threads} threads of {model}".format(**facts["cpu"])
    return f"Commit `{(facts['git']['commit'] or 'unknown')[:12]}`, {where}, torch {facts['packages']['torch']}."


if __name__ == "__main__":
    given = [Path(argument).resolve() for argument in sys.argv[1:]]
    repository = given[0] if given else HERE.parent
    target = given[1] if len(given) > 1 else repository / "results" / "site"
    try:
        status = build(repository, target)
    except FileNotFoundError as error:
        sys.exit(str(error))
    print(f"open {target / 'index.html'}")
    sys.exit(status)
