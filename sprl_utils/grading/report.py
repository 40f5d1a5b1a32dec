"""A static site of one run for people who run nothing: ``results/<profile>/site/index.html``.

Made of committed files alone (executed notebooks, tables, slices, the ledger); it needs no server and no
network. ``python -m sprl_utils.grading.report PROFILE`` (`make report`).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
from jinja2 import Environment, PackageLoader, select_autoescape
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from pygments.formatters import HtmlFormatter

from sprl_utils.provenance import repo_root

MATH = re.compile(r"\$\$(.+?)\$\$|(?<![\\$\w])\$([^$\n]+(?:\n[^$\n]+)?)\$(?![\w$])", re.DOTALL)
FIGURES = {
    "bars.png": "PSNR and SSIM of each method against zero-filled LR, on each test head.",
    "shell_correlation.png": "Correlation with HR by spatial frequency; k-space was cut at the dashed line.",
}


def build(profile: str, root: Path | None = None) -> Path:
    """Write the site of a profile's results; returns its front page.

    Raises:
        FileNotFoundError: there are no results of that profile.
    """
    root = root or repo_root()
    results = root / "results" / profile
    notebooks = sorted(results.glob("[0-9][0-9]_*.ipynb"))
    if not notebooks:
        raise FileNotFoundError(
            f"report: {results}: expected executed notebooks, found none; "
            f"run `make reproduce PROFILE={profile}`"
        )
    site = results / "site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir()
    (site / "style.css").write_text(_style(), encoding="utf-8")
    loader = PackageLoader("sprl_utils.grading", "site")
    templates = Environment(loader=loader, autoescape=select_autoescape())
    shared = {
        "profile": profile,
        "pages": [("Overview", "index.html"), *((n.stem, f"{n.stem}.html") for n in notebooks)],
        "origin": _origin(results),
    }
    page = templates.get_template("page.html")
    for notebook in notebooks:
        body, target = notebook_html(notebook), f"{notebook.stem}.html"
        html = page.render(shared, title=notebook.stem, body=body, here=target)
        (site / target).write_text(html, encoding="utf-8")
    front = templates.get_template("front.html").render(
        shared, title=f"Sharper brain MRI: {profile}", here="index.html", **_front(root, results, site)
    )
    (site / "index.html").write_text(front, encoding="utf-8")
    return site / "index.html"


def notebook_html(path: Path) -> str:
    """The body of an executed notebook as HTML: pictures inside, formulas as MathML, no stderr."""
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_filter("markdown2html", lambda source: _markdown(source))
    notebook = nbformat.read(path, as_version=4)
    for cell in (c for c in notebook.cells if c.cell_type == "code"):  # hundreds of progress bars
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    body, _ = exporter.from_notebook_node(notebook)
    return body


def _markdown(source: str) -> str:
    """Markdown as HTML; formulas pass through untouched and come back as MathML, which needs no script."""
    formulas: list[str] = []

    def keep(found: re.Match) -> str:
        block, inline = found.groups()
        formulas.append(convert(block or inline, display="block" if block else "inline"))
        return f"FORMULA{len(formulas) - 1}ENDS"

    html = markdown2html(MATH.sub(keep, source))
    return re.sub(r"FORMULA(\d+)ENDS", lambda found: formulas[int(found[1])], html)


def _front(root: Path, results: Path, site: Path) -> dict[str, Any]:
    """What the front page shows; what this profile did not write is left out."""
    sections = []
    if (table := results / "table.md").exists():
        note = "Whole volume, test heads, one run: PSNR (dB) / 3D SSIM / NRMSE."
        sections.append(("Results", "results", markdown2html(table.read_text(encoding="utf-8")), note))
    if (detail := results / "detail.csv").exists():
        note = (
            "In the brain. <code>band_power</code>: share of HR's power in the part of k-space that was cut; "
            "<code>band_correlation</code>: how much of it is right; <code>told_from_hr</code>: how often a "
            "small classifier tells a patch from HR's (0.5: it cannot)."
        )
        table = pd.read_csv(detail).round(3).to_html(index=False, border=0)
        sections.append(("Sharp, or right?", "detail", table, note))
    if (ledger := root / "results" / "study" / "claims.md").exists():
        tables = ledger.read_text(encoding="utf-8")
        note = "Generated from the tables of all committed runs."
        sections.append(("Claims", "claims", markdown2html(tables[tables.index("|") :]), note))
    heads = _copy_slices(results / "slices", site)
    networks = [name for images in heads.values() for name in images if name not in ("LR", "HR")]
    figures = []
    for name, text in FIGURES.items():
        if (results / "figures" / name).exists():
            shutil.copyfile(results / "figures" / name, site / name)
            figures.append((name, text))
    return {
        "heads": heads,
        "first_network": networks[0] if networks else "HR",
        "sections": sections,
        "figures": figures,
    }


def _copy_slices(slices: Path, site: Path) -> dict[str, dict[str, str]]:
    """Head -> image -> file of the site; LR first, HR last, networks between."""
    heads: dict[str, dict[str, str]] = {}
    index = slices / "index.json"
    for head, images in (json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}).items():
        for name, file in images.items():
            shutil.copyfile(slices / file, site / file)
            heads.setdefault(head, {})["LR" if name == "zero-filled" else name] = file
    return heads


def _origin(results: Path) -> str:
    """Commit and machine of the run."""
    try:
        facts = json.loads((results / "environment.json").read_text(encoding="utf-8"))
        commit, cpu = facts["git"]["commit"] or "unknown", facts["cpu"]
    except (OSError, ValueError, KeyError):
        return ""
    where = facts["gpu"] or f"{cpu['threads']} threads of {cpu['model']}, {cpu['capability']}"
    return f"Commit {commit[:12]}; {where}; torch {facts['packages']['torch']}."


def _style() -> str:
    """The page's style, and colours of code for light and dark."""
    own = (Path(__file__).with_name("site") / "style.css").read_text(encoding="utf-8")
    light, dark = (HtmlFormatter(style=s).get_style_defs(".highlight") for s in ("default", "github-dark"))
    plain = "\n.highlight { background: transparent !important; }\n"
    return f"{own}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}{plain}"


def main(arguments: Sequence[str]) -> None:
    """Build the site of the profile named first (demo)."""
    try:
        print(f"open {build(arguments[0] if arguments else 'demo')}")
    except FileNotFoundError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main(sys.argv[1:])
