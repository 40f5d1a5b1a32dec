"""The site: built by Sphinx without a warning, and read in a real browser without a network."""

import base64
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from browser import needs_browser, open_page
from conftest import make_head, write_prepared

from sprl_utils import figures

ROOT = Path(__file__).parents[1]
LONG = "a_long_name_without_a_place_to_break_" * 4
STORED = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"


def build(root: Path, site: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "docs" / "build.py", root, site, "-W", "--keep-going"]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site of two runs with all that a run can have, and of a text that names a file it has not."""
    root = tmp_path_factory.mktemp("made_up")
    write_run(root / "results" / "demo")
    (root / "results" / "study").mkdir()
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# Claims\n\nSix times: refuted.")]
    )
    nbformat.write(notebook, root / "results" / "study" / "07_claims.ipynb")
    nbformat.write(notebook, root / "results" / "study" / "07_claims.failed.ipynb")
    (root / "CHANGELOG.md").write_text(f"# Changelog\n\nSee [here](CITATION.cff) and `{LONG}`.\n")
    done = build(root, root / "site")
    assert done.returncode == 0, done.stderr
    return root / "site"


def write_run(results: Path) -> None:
    """A notebook with formulas, code, a wide table and a picture; slices of two heads; a table."""
    prepared = results.parents[1] / "prepared"
    heads = [write_prepared(prepared, name, "test", make_head(seed=i)) for i, name in enumerate("ab")]
    images = {
        h.meta["id"]: {"zero-filled": h.lr, "mDCSRN": (h.lr + h.hr) / 2, "mDCSRN-GAN": h.hr, "HR": h.hr}
        for h in heads
    }
    figures.save_slices(images, heads, results / "slices")
    table = "<table><tr>" + "<td>1234567890</td>" * 30 + "</tr></table>"
    picture = base64.b64encode((results / "slices" / "a_0.png").read_bytes()).decode()
    show = [
        nbformat.v4.new_output("display_data", data)
        for data in ({"image/png": picture}, {"text/html": table})
    ]
    bars = nbformat.v4.new_output("stream", name="stderr", text="100%|#####|")
    formulas = "# Whole\n\n$$\\frac{a}{b} = F^{-1}$$\n\nwith $F$, costs \\$5 and `$x`. Wasserstein."
    cells = [
        nbformat.v4.new_markdown_cell(formulas),
        nbformat.v4.new_code_cell(f"{LONG} = 1", outputs=[bars, *show]),
    ]
    language = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=language), results / "04_evaluate.ipynb")
    (results / "table.md").write_text("| method | a: PSNR |\n|---|---|\n| mDCSRN | 28.02 |\n")
    (results / "detail.csv").write_text("subject,method,hfen\na,mDCSRN,0.42\n")


@needs_browser
@pytest.mark.parametrize("width", [1200, 375])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_is_whole_quiet_and_readable(site, browser, scheme, width):
    for name in ("index", "results/demo/index", "results/demo/04_evaluate", "CHANGELOG", "search"):
        size = {"width": width, "height": 800}
        page, wrong = open_page(browser, site / f"{name}.html", viewport=size, color_scheme=scheme)
        page.wait_for_timeout(300)  # formulas are drawn after the page has loaded
        assert all(page.evaluate(STORED)) and wrong == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (
            f"{name} is wider than the screen"
        )
        text, ground = (
            page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("color", "backgroundColor")
        )
        assert contrast(text, ground) >= 7  # WCAG's AAA
        assert (luminance(ground) < 0.1) == (scheme == "dark")
        page.close()


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, after WCAG."""
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (float(v) / 255 for v in colour.removeprefix("rgb(").rstrip(")").split(",")[:3])
    ]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@needs_browser
def test_the_slider_opens_on_lr_against_hr_and_uncovers_one_or_the_other(site, browser):
    page, wrong = open_page(browser, site / "index.html", viewport={"width": 800, "height": 900})
    assert page.locator(".compare").count() == 2
    compare = page.locator(".compare").first
    stage, edge = compare.locator(".stage"), compare.locator("input")
    before, after = compare.locator("select").all()
    chosen = [s.evaluate("s => s.selectedOptions[0].text") for s in (before, after)]
    assert chosen == ["LR", "HR"]
    assert after.locator("option").all_inner_texts() == ["LR", "mDCSRN", "mDCSRN-GAN", "HR"]
    seen = compare.locator("img").evaluate_all(
        "all => all.filter(i => getComputedStyle(i).visibility == 'visible').map(i => i.alt)"
    )
    assert seen == ["a, LR", "a, HR"]

    def at(position: int) -> bytes:
        edge.fill(str(position))
        return stage.screenshot()

    hr, middle, lr = at(0), at(50), at(100)
    assert len({hr, middle, lr}) == 3
    after.select_option(label="mDCSRN")
    assert at(100) == lr and at(0) not in (hr, lr)
    edge.focus()
    page.keyboard.press("ArrowRight")
    assert edge.input_value() == "1"
    assert wrong == []


@needs_browser
def test_formulas_are_drawn(site, browser):
    page, wrong = open_page(browser, site / "results" / "demo" / "04_evaluate.html")
    page.wait_for_selector("mjx-container[display=true] svg")
    assert page.locator("mjx-container svg").count() == 2
    assert (
        page.locator("mjx-container[display=true] svg").bounding_box()["height"] > 25
    )  # a fraction, two lines
    text = page.inner_text("article")
    assert "costs $5" in text and "$x" in text and "100%" not in text and wrong == []


@needs_browser
def test_search_finds_the_page_with_the_word(site, browser):
    page, wrong = open_page(browser, site / "search.html")
    page.goto((site / "search.html").as_uri() + "?q=wasserstein")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a").all_inner_texts() == ["Whole"]
    page.locator("#search-results li a").click()
    assert page.url.split("?")[0].endswith("results/demo/04_evaluate.html") and wrong == []


@needs_browser
def test_a_reader_can_choose_the_dark_mode(site, browser):
    page, wrong = open_page(browser, site / "index.html", color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    assert luminance(page.evaluate(ground)) > 0.9
    page.locator(".theme-switch-container button").first.click()
    page.get_by_role("button", name="Dark").or_(page.get_by_text("Dark", exact=True)).first.click()
    assert luminance(page.evaluate(ground)) < 0.1 and wrong == []


def test_the_front_page_has_the_numbers_of_the_first_run_and_leads_to_all(site):
    html = (site / "index.html").read_text(encoding="utf-8")
    assert "28.02" in html and 'href="results/demo/04_evaluate.html"' in html
    assert 'href="results/study/index.html"' in html and "failed" not in html
    assert "Claims (study)" in (site / "results" / "study" / "07_claims.html").read_text(encoding="utf-8")
    assert 'alt="Figure of the section Whole"' in (site / "results" / "demo" / "04_evaluate.html").read_text(
        encoding="utf-8"
    )
    changes = (site / "CHANGELOG.html").read_text(encoding="utf-8")
    assert "See here and" in changes and "CITATION" not in changes  # no link that leads nowhere


def test_results_without_notebooks_are_refused_in_one_sentence(tmp_path):
    (tmp_path / "results" / "smoke").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "results" / "smoke" / "01_prepare_data.ipynb")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "expected executed notebooks, found none" in done.stderr


@needs_browser
def test_the_committed_results_make_a_whole_site(committed, browser, tmp_path):
    done = build(committed, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    page, wrong = open_page(browser, tmp_path / "site" / "index.html", viewport={"width": 375, "height": 800})
    pages = [p for p in sorted((tmp_path / "site").rglob("*.html")) if "_static" not in p.parts]
    assert len(pages) > 20
    for file in pages:
        page.goto(file.as_uri(), wait_until="load")
        assert all(page.evaluate(STORED)) and wrong == [], file.name
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, file.name
        paths = re.search(f"{committed}|{ROOT}|{tmp_path}|{Path.home()}/", file.read_text(encoding="utf-8"))
        assert not paths, f"{file.name} names a path of this machine, {paths}"
