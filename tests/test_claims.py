"""The ledger's verdicts follow from the tables: those committed give these, and another table another one."""

import runpy
import shutil
from pathlib import Path

import pandas as pd
import pytest

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "07_claims.py"


@pytest.fixture
def study(tmp_path, committed, monkeypatch) -> Path:
    """A copy of the committed tables, in which the notebook finds itself at home."""
    for name in ("sprl_utils", "notebooks"):
        (tmp_path / name).mkdir()
    (tmp_path / "sprl_utils" / "__init__.py").touch()
    leave = shutil.ignore_patterns("*.ipynb", "*.png")
    shutil.copytree(committed / "results", tmp_path / "results", ignore=leave)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results"


def ledger() -> pd.DataFrame:
    return runpy.run_path(str(NOTEBOOK))["ledger"]


def verdict(words: str) -> str:
    table = ledger()
    (found,) = table.loc[table["claim"].str.contains(words, regex=False), "verdict"]
    return found


def change(table: Path, column: str, by: float, **where) -> None:
    """Add ``by`` to a column of the rows that have these values."""
    rows = pd.read_csv(table)
    chosen = pd.concat([rows[key] == value for key, value in where.items()], axis=1).all(axis=1)
    assert chosen.any()
    rows.loc[chosen, column] += by
    rows.to_csv(table, index=False)


def test_the_committed_tables_give_these_verdicts(study):
    table = ledger().set_index("claim")
    verdicts = table["verdict"]
    assert (
        verdicts[verdicts.index.str.contains("outperforms")].item()
        == "supported at this scale for FSRCNN, SRResNet; not for DCSRN"
    )
    assert verdicts[verdicts.index.str.contains("6x faster")].item() == "not supported"
    gan = verdicts[verdicts.index.str.contains("GAN training")]
    assert len(gan) == 2 and gan.str.startswith("cannot be tested here").all()
    assert verdicts[verdicts.index.str.contains("margin of 3")].item() == "supported"
    people = verdicts[verdicts.index.str.contains("on people it has not seen")]
    assert len(people) == 4 and set(people) == {"supported, by one seed alone"}
    # what another program does is read, and no run of ours can give that verdict
    original = table[table["source"] == "original project"]
    assert set(original["how"]) == {"by reading"}
    untrained = table["how"] == "measured with untrained weights"
    assert untrained[table["where"] == "results/bench/networks.csv"].all()


@pytest.mark.parametrize(
    ("words", "table", "column", "by", "where", "expected"),
    [
        (
            "outperforms",
            "comparison/ablations.csv",
            "psnr",
            1.0,
            {"variant": "FSRCNN", "seed": 2},
            "supported at this scale for SRResNet;",
        ),
        ("6x faster", "bench/networks.csv", "seconds", 0.5, {"model": "SRResNet"}, "supported"),
        (
            "margin of 3",
            "ablations/ablations.csv",
            "psnr",
            1.0,
            {"variant": "cubes with a margin of 3"},
            "not",
        ),
        (
            "EDSR restores more than zero-filling, on people it has not seen (4x4)",
            "study_4x4/metrics.csv",
            "ssim",
            -0.5,
            {"network": "EDSR", "region": "brain", "data_consistency": False, "subject": "colin27"},
            "not",
        ),
        (
            "several times as fast",
            "bench/ratios.csv",
            "times_faster",
            -6,
            {"task": "inference", "size": "256x320x320"},
            "not",
        ),
        ("exact computation", "bench/agreement.csv", "ours to HR", 0.1, {"size": "64x64x64"}, "not"),
    ],
)
def test_another_table_gives_another_verdict(study, words, table, column, by, where, expected):
    before = verdict(words)
    change(study / table, column, by, **where)
    assert verdict(words) != before and verdict(words).startswith(expected)


def test_few_updates_of_g_refute_nothing_and_many_do(study):
    path = study / "study_4x4" / "gan_history.csv"
    history = pd.read_csv(path)
    history.assign(g_steps=history["g_steps"] + 60_000).to_csv(path, index=False)
    assert verdict("original HR images (4x4)") == "not supported"
