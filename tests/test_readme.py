"""The numbers of the pages that people read are those of the committed tables."""

import re

import pandas as pd
import pytest

from sprl_utils.grading.grade import markdown_tables

MEASURED = {
    "whole volume, 256x320x320": ("inference", "256x320x320"),
    "the same, air skipped": ("inference, air skipped", "256x320x320"),
    "the same with EDSR at 4x4 in place of mDCSRN": ("inference, EDSR", "256x320x320"),
    "whole volume, 128x128x128": ("inference", "128x128x128"),
    "pretraining step, 2 x 64-cube": ("pretraining step", "2 x 64-cube"),
    "G step of the GAN": ("G step", "2 x 64-cube"),
    "D step (ours with the gradient penalty, the original's without)": ("D step", "2 x 64-cube"),
    "LR of a 256x320x320 volume": ("LR", "256x320x320"),
}


def test_the_table_of_results_shows_the_demos_scores(committed):
    shown = (committed / "results/README.md").read_text()
    assert (committed / "results/demo/table.md").read_text().strip() in shown
    scores = pd.read_csv(committed / "results/demo/metrics.csv")
    whole = scores.loc[scores["region"] == "whole", ["psnr", "ssim", "nrmse"]]
    expected = sorted("{:.2f} / {:.4f} / {:.4f}".format(*row) for row in whole.to_numpy())
    assert sorted(re.findall(r"\d+\.\d+ / 0\.\d+ / 0\.\d+", shown)) == expected


@pytest.mark.parametrize(
    ("page", "keys"),
    [
        ("README.md", ["k-space", "test heads"]),
        ("results/README.md", ["k-space", "test heads"]),
        ("results/README.md", ["set", "region", "reduction", "network"]),
        ("results/README.md", ["head", "region", "second scan, registered"]),
        ("results/README.md", ["network", "parameters"]),
        ("results/README.md", ["k-space", "correlation with HR"]),
    ],
)
def test_a_table_that_people_read_is_that_of_the_ledger(page, keys, committed):
    """Some of its rows and columns, with the same text."""
    (ledger,) = (
        t for t in markdown_tables((committed / "results/study/claims.md").read_text()) if set(keys) <= set(t)
    )
    (shown,) = (t for t in markdown_tables((committed / page).read_text()) if set(keys) <= set(t))
    assert len(shown) and set(shown) <= set(ledger)
    rows = ledger[list(shown)].apply(tuple, axis=1)
    assert set(shown.apply(tuple, axis=1)) <= set(rows)


@pytest.mark.parametrize("named", MEASURED)
def test_a_row_on_speed_is_the_benchmarks(named, committed):
    page = (committed / "results/bench/README.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| {re.escape(named)} \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) \|$", page, re.M)
    assert found, f"results/bench/README.md: expected a row {named!r} in the table on speed, found none"
    ratios = pd.read_csv(committed / "results/bench/ratios.csv").set_index(["task", "size"])
    columns = ("original_seconds", "ours_seconds", "times_faster")
    for text, column in zip(found.groups(), columns, strict=True):
        decimals = len(text.partition(".")[2])
        assert float(text) == round(float(ratios.loc[MEASURED[named], column]), decimals), (
            f"{named}: {column}"
        )
