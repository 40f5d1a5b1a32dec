"""The ledger says what the tables say, and nothing where there is no table."""

import pandas as pd
import pytest

from sprl_utils import claims
from sprl_utils.provenance import repo_root


def row(results, words):
    (found,) = [line for line in claims.ledger(results).splitlines() if words in line]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_committed_ledger_is_what_the_committed_tables_give():
    results = repo_root() / "results"
    assert (results / "study/claims.md").read_text() == claims.ledger(results)


def test_without_tables_no_claim_has_a_verdict_from_here(tmp_path):
    verdicts = {row(tmp_path, claim.text)[-1] for claim in claims.CLAIMS}
    assert verdicts == {"not measured yet", "cannot be tested here"}


@pytest.mark.parametrize(("seconds", "verdict"), [(12.0, "supported"), (11.0, "not supported")])
def test_six_times_is_six_times(tmp_path, seconds, verdict):
    (tmp_path / "bench").mkdir()
    table = pd.DataFrame({"model": ["mDCSRN", "SRResNet"], "seconds": [2.0, seconds]})
    table["multiply_adds"] = [1, 9]
    table.to_csv(tmp_path / "bench/networks.csv")
    cells = row(tmp_path, "6x faster")
    assert cells[-1] == verdict and f"{seconds / 2:.1f} times faster" in cells[2]


def test_one_head_that_gets_worse_is_enough_not_to_support_restoration(tmp_path):
    (tmp_path / "demo").mkdir()
    table = pd.DataFrame(
        [
            ("a", "brain", "zero-filled", 30.0),
            ("a", "brain", "mDCSRN", 31.0),
            ("b", "brain", "zero-filled", 30.0),
            ("b", "brain", "mDCSRN", 29.9),
        ],
        columns=["subject", "region", "method", "psnr"],
    )
    table.to_csv(tmp_path / "demo/metrics.csv")
    cells = row(tmp_path, "restores more")
    assert cells[2] == "against zero-filling: a +1.00 dB, b -0.10 dB" and cells[-1] == "not supported"
    table["psnr"] = table["psnr"].where(table["method"] != "mDCSRN", 31)
    table.to_csv(tmp_path / "demo/metrics.csv")
    assert row(tmp_path, "restores more")[-1] == "supported"
