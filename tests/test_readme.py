"""The numbers of the pages that people read are those of the committed tables."""

import re

import pandas as pd
import pytest

MEASURED = {
    "whole volume, 256x320x320": ("inference", "256x320x320"),
    "the same, air skipped": ("inference, air skipped", "256x320x320"),
    "whole volume, 128x128x128": ("inference", "128x128x128"),
    "pretraining step, 2 x 64-cube": ("pretraining step", "2 x 64-cube"),
    "G step of the GAN": ("G step", "2 x 64-cube"),
    "D step (ours with the gradient penalty, the original's without)": ("D step", "2 x 64-cube"),
    "LR of a 256x320x320 volume": ("LR", "256x320x320"),
}


def tables(text: str) -> dict[tuple, list[list[str]]]:
    """Rows of each Markdown table, by its first two headings and its number of columns."""
    found = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines())
        head, _, *rows = lines
        found[(*head[:2], len(head))] = rows
    return found


def test_the_table_of_results_shows_the_demos_scores(committed):
    shown = (committed / "results/README.md").read_text()
    assert (committed / "results/demo/table.md").read_text().strip() in shown
    scores = pd.read_csv(committed / "results/demo/metrics.csv")
    whole = scores.loc[scores["region"] == "whole", ["psnr", "ssim", "nrmse"]]
    expected = sorted("{:.2f} / {:.4f} / {:.4f}".format(*row) for row in whole.to_numpy())
    assert sorted(re.findall(r"\d+\.\d+ / 0\.\d+ / 0\.\d+", shown)) == expected


def test_the_studys_tables_are_those_of_the_ledger(committed):
    """What is shown of people held out, of the second scan, and of other networks."""
    ledger = tables((committed / "results/study/claims.md").read_text())
    shown = tables((committed / "results/README.md").read_text())
    shared = set(ledger) & set(shown)
    assert {head[:2] for head in shared} >= {
        ("k-space", "head held out"),
        ("head", "region"),
        ("network", "parameters"),
    }
    for head in shared:
        assert shown[head] == ledger[head]
    (held_out,) = (head for head in shared if head[0] == "k-space")
    first_page = tables((committed / "README.md").read_text())[held_out]
    assert first_page and all(row in ledger[held_out] for row in first_page)


@pytest.mark.parametrize("named", MEASURED)
def test_a_row_on_speed_is_the_benchmarks(named, committed):
    page = (committed / "results/bench/README.md").read_text()
    found = re.search(rf"^\| {re.escape(named)} \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) \|$", page, re.M)
    assert found, f"results/bench/README.md: expected a row {named!r} in the table on speed, found none"
    ratios = pd.read_csv(committed / "results/bench/ratios.csv").set_index(["task", "size"])
    columns = ("original_seconds", "ours_seconds", "times_faster")
    for text, column in zip(found.groups(), columns, strict=True):
        decimals = len(text.partition(".")[2])
        assert float(text) == round(float(ratios.loc[MEASURED[named], column]), decimals), (
            f"{named}: {column}"
        )
