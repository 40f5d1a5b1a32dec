"""The site, in a real browser, from the file system and with no network."""

import json
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pytest
from conftest import make_head, write_prepared
from playwright.sync_api import sync_playwright

from sprl_utils import figures
from sprl_utils.grading import report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
FLAGS += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (Debian's package chromium)")
LONG = "a_long_name_without_a_place_to_break_" * 4


@pytest.fixture
def site(tmp_path) -> Path:
    """The site of a run with everything in it: formulas, code, a wide table, a picture, slices, a ledger."""
    results = tmp_path / "results" / "demo"
    results.mkdir(parents=True)
    note = nbformat.v4.new_notebook()
    picture = nbformat.v4.new_output("display_data", {"image/png": png(tmp_path)})
    table = "<table><tr>" + "<td>1234567890</td>" * 30 + "</tr></table>"
    note.cells = [
        nbformat.v4.new_markdown_cell("# Whole\n\n$$\\frac{a}{b} = F^{-1}$$\n\nwith $F$, costs $5 and `$x`."),
        nbformat.v4.new_code_cell(f"{LONG} = 1", outputs=[picture]),
        nbformat.v4.new_code_cell(
            "table", outputs=[nbformat.v4.new_output("display_data", {"text/html": table})]
        ),
    ]
    nbformat.write(note, results / "04_evaluate.ipynb")
    heads = [
        write_prepared(tmp_path / "prepared", name, "test", make_head(seed=i)) for i, name in enumerate("ab")
    ]
    images = {
        h.meta["id"]: {"zero-filled": h.lr, "mDCSRN": (h.lr + h.hr) / 2, "mDCSRN-GAN": h.hr, "HR": h.hr}
        for h in heads
    }
    figures.save_slices(images, heads, results / "slices")
    (results / "table.md").write_text("| method | a: PSNR |\n|---|---|\n| mDCSRN | 28.02 |\n")
    (results / "detail.csv").write_text("subject,method,hfen\na,mDCSRN,0.42\n")
    ledger = tmp_path / "results" / "study" / "claims.md"
    ledger.parent.mkdir()
    ledger.write_text("# Claims\n\n| claim | verdict |\n|---|---|\n| six times | not supported |\n")
    return report.build("demo", tmp_path)


def png(folder: Path) -> str:
    import base64

    figures.plt.imsave(folder / "p.png", np.eye(300))
    return base64.b64encode((folder / "p.png").read_bytes()).decode()


@pytest.fixture
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


def open_page(browser, file: Path, **options):
    """A page, and everything that went wrong or left the file system while it loaded."""
    page, wrong = browser.new_page(**options), []
    page.on(
        "console",
        lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on("request", lambda r: wrong.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
    page.goto(file.as_uri(), wait_until="load")
    return page, wrong


PICTURES = "[...document.images].map(i => i.complete && i.naturalWidth > 0)"
SCHEMES = [("light", 1200), ("dark", 1200), ("light", 375), ("dark", 375)]


@needs_browser
@pytest.mark.parametrize(("scheme", "width"), SCHEMES)
@pytest.mark.parametrize("name", ["index.html", "04_evaluate.html"])
def test_a_page_is_whole_quiet_and_readable(site, browser, name, scheme, width, tmp_path):
    page, wrong = open_page(
        browser, site.parent / name, viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    pictures = page.evaluate(PICTURES)
    assert pictures and all(pictures) and wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page is wider than the screen"
    text, ground = (
        page.evaluate(f"getComputedStyle(document.body).{what}") for what in ("color", "backgroundColor")
    )
    assert contrast(text, ground) >= 7  # WCAG's AAA
    assert (luminance(ground) < 0.1) == (scheme == "dark")


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
def test_the_slider_uncovers_one_image_or_the_other(site, browser, tmp_path):
    page, wrong = open_page(browser, site, viewport={"width": 800, "height": 900})
    compare = page.locator(".compare").first
    stage, edge = compare.locator(".stage"), compare.locator("input")

    def seen(position: int) -> bytes:
        edge.fill(str(position))
        return stage.screenshot()

    left, middle, right = seen(0), seen(50), seen(100)
    assert len({left, middle, right}) == 3
    after = compare.locator("select[data-side=after]")
    assert after.locator("option").all_inner_texts() == ["LR", "mDCSRN", "mDCSRN-GAN", "HR"]
    assert after.input_value() == "a_1.png"
    after.select_option(label="HR")
    page.wait_for_function("document.querySelector('.compare .after').complete")
    assert compare.locator(".after").get_attribute("src") == "a_3.png"
    assert seen(100) == right and seen(0) != left
    edge.focus()
    page.keyboard.press("ArrowRight")
    assert edge.input_value() == "1"
    assert wrong == []


@needs_browser
def test_formulas_are_drawn_without_a_script(site, browser):
    page, _ = open_page(browser, site.parent / "04_evaluate.html")
    assert page.locator("math").count() == 2 and page.locator("math[display=block] mfrac").count() == 1
    assert page.locator("math[display=block]").bounding_box()["height"] > 25  # a fraction stands on two lines
    text = page.inner_text("main")
    assert "costs $5" in text and "$x" in text and "FORMULA" not in text


def test_numbers_are_those_of_the_files(site):
    html = site.read_text()
    assert "28.02" in html and "0.42" in html and "not supported" in html


def test_what_a_profile_did_not_write_is_left_out(tmp_path):
    with pytest.raises(FileNotFoundError, match="demo: expected executed notebooks, found none"):
        report.build("demo", tmp_path)
    results = tmp_path / "results" / "mine"
    results.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(), results / "01_prepare_data.ipynb")
    html = report.build("mine", tmp_path).read_text()
    assert "Before and after" not in html and "Claims" not in html


@needs_browser
def test_the_committed_results_make_a_whole_site(tmp_path, browser):
    source = Path(__file__).parents[1] / "results"
    shutil.copytree(source / "demo", tmp_path / "results" / "demo", ignore=shutil.ignore_patterns("site"))
    shutil.copytree(source / "study", tmp_path / "results" / "study")
    front = report.build("demo", tmp_path)
    for file in sorted(front.parent.glob("*.html")):
        page, wrong = open_page(browser, file, viewport={"width": 375, "height": 800})
        assert all(page.evaluate(PICTURES)) and wrong == [], file.name
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, file.name
        page.close()
    assert len(json.loads((source / "demo" / "slices" / "index.json").read_text())) >= 1
