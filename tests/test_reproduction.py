"""The verdict at the end of `make reproduce`."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from sprl_utils.grading import reproduction

SCORES = pd.DataFrame(
    [(s, n, False, "demo", "whole", 28.0, 0.9, 0.1) for s in ("a", "b") for n in ("cubic", "mDCSRN")],
    columns=[*reproduction.KEYS, *reproduction.SPREAD],
)


def changed(row: int, **by: float) -> pd.DataFrame:
    found = SCORES.copy()
    for metric, change in by.items():
        found.loc[row, metric] += change
    return found


@pytest.mark.parametrize(
    ("found", "reproduced", "words"),
    [
        (SCORES[::-1], True, "0.0000 dB PSNR, 0.0000 SSIM"),
        (changed(3, ssim=-1e-4, psnr=0.03), True, "0.0300 dB PSNR, 0.0001 SSIM"),
        (changed(3, psnr=0.3), False, "0.3000 dB PSNR, 0.0000 SSIM"),
        (changed(1, ssim=-0.01), False, "see SSIM of a, mDCSRN, False, demo, whole"),
        (changed(1, psnr=float("nan")), False, "see dB PSNR of a, mDCSRN, False, demo, whole"),
        (SCORES[:3], False, "1 rows are in one table alone, first b, mDCSRN, False, demo, whole"),
        (SCORES.replace("b", "c"), False, "4 rows are in one table alone"),
        (SCORES.assign(data_consistency=True), False, "8 rows are in one table alone"),
    ],
)
def test_a_run_is_reproduced_within_what_is_stated_or_not(found, reproduced, words):
    told, sentence = reproduction.verdict(SCORES, found, "demo")
    assert told == reproduced and words in sentence
    assert sentence.startswith("reproduced within 0.05 dB" if reproduced else "not reproduced: ")


def test_rows_that_were_read_from_another_run_do_not_count():
    """The study's weights may have been trained anew since the demo was committed."""
    both = pd.concat([SCORES, SCORES.assign(source_run="study_4x4")])
    newer = pd.concat([SCORES, changed(2, psnr=9).assign(source_run="study_4x4")])
    assert reproduction.verdict(both, newer, "demo")[0] and reproduction.verdict(both, SCORES, "demo")[0]


def test_what_is_alike_beyond_measure_is_alike():
    exact = SCORES.assign(psnr=float("inf"))
    assert reproduction.verdict(exact, exact, "demo")[0]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A checkout whose results a run has overwritten since the commit."""
    tables = [f"results/{profile}/metrics.csv" for profile in ("demo", "mine")]
    for name in ("sprl_utils/__init__.py", "notebooks/a.py", *tables):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(SCORES.to_csv(index=False))
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "sprl_utils", "notebooks", "results/demo"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "m"], check=True)
    changed(0, psnr=0.2).to_csv(tmp_path / "results/demo/metrics.csv", index=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_mark_is_the_committed_table_and_no_other(root, capsys):
    pd.testing.assert_frame_equal(reproduction.committed(root, "demo"), SCORES)
    reproduction.main("demo")
    assert "Reproduction: not reproduced: the largest differences are 0.2000" in capsys.readouterr().out
    reproduction.main("mine")  # nobody has committed numbers of it
    assert capsys.readouterr().out == ""


def test_an_archive_has_no_mark_and_says_so(root, monkeypatch, capsys):
    (root / ".git").rename(root / "elsewhere")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
    reproduction.main("demo")
    assert "Reproduction: unknown" in capsys.readouterr().out
