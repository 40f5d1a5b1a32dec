"""The README's numbers are those of the committed result files."""

import re

import pandas as pd
import pytest

from sprl_utils.grading import claims
from sprl_utils.provenance import repo_root

ROOT = repo_root()
README = (ROOT / "README.md").read_text()
MEASURED = {
    "whole volume, 256x320x320": ("inference", "256x320x320"),
    "the same, air skipped": ("inference, air skipped", "256x320x320"),
    "whole volume, 128x128x128": ("inference", "128x128x128"),
    "pretraining step, 2 x 64-cube": ("pretraining step", "2 x 64-cube"),
    "G step of the GAN": ("G step", "2 x 64-cube"),
    "D step (ours with the gradient penalty, the original's without)": ("D step", "2 x 64-cube"),
    "LR of a 256x320x320 volume": ("LR", "256x320x320"),
    "PSNR, 3D SSIM and NRMSE of it": ("metrics", "256x320x320"),
}


def test_the_table_of_results_is_the_demos(committed):
    assert (committed / "results/demo/table.md").read_text().strip() in (committed / "README.md").read_text()


@pytest.mark.parametrize("make", [claims.held_out, claims.rescans, claims.networks])
def test_the_studys_tables_are_those_of_the_long_runs(make):
    assert make(ROOT / "results") in README


@pytest.mark.parametrize("named", MEASURED)
def test_a_row_on_speed_is_the_benchmarks(named):
    found = re.search(rf"^\| {re.escape(named)} \| ([\d.]+) s \| ([\d.]+) s \| ([\d.]+) \|$", README, re.M)
    assert found, f"README: expected a row {named!r} in the table on speed, found none"
    ratios = pd.read_csv(ROOT / "results/bench/ratios.csv").set_index(["task", "size"]).loc[MEASURED[named]]
    for text, column in zip(
        found.groups(), ("original_seconds", "ours_seconds", "times_faster"), strict=True
    ):
        decimals = len(text.partition(".")[2])
        assert float(text) == round(float(ratios[column]), decimals), f"{named}: {column}"


def test_what_choices_are_worth_is_what_the_ablations_say():
    change = pd.read_csv(ROOT / "results/ablations/ablation_effects.csv", index_col="variant")["psnr_change"]
    for told in (
        f"LR by its own maximum costs {-change['LR of another gain']:.1f} dB",
        f"instead of near the identity {-change['start at noise']:.1f} dB",
        f"start from edges by {-change['start as the identity']:.2f} dB",
        f"lower rates for some layers by {-change['one learning rate']:.2f}",
        f"synthetic heads by {-change['no synthetic heads']:.2f}",
    ):
        assert told in " ".join(README.split())


def test_the_outlook_is_the_rehearsals():
    days = pd.read_csv(ROOT / "results/rehearsal/outlook.csv")
    prepare, pretrain, gan = days["this machine"]
    for told in (
        f"{prepare:.1f} days to prepare",
        f"{pretrain:.0f} days for 500,000",
        f"{gan:.0f} days for 550,000",
    ):
        assert told in " ".join(README.split())
    assert all(f"{gpu:.1f}" == "0.1" for gpu in days["one GPU"].dropna())
    assert "would need 0.1 days for either" in " ".join(README.split())


def test_every_file_that_the_readme_links_to_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links and [link for link in links if not (ROOT / link).exists()] == []
