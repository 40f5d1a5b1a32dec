"""The rubric on this repository, and on copies of it that are broken on purpose."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sprl_utils.grading import grade
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import Subject, write_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.networks import Generator, save_weights
from sprl_utils.prepare import CLIP

WEIGHTS = "sprl_utils/extras/weights"


def check(words: str) -> Callable[[Path], str]:
    """The check of the criterion that matches these words."""
    (found,) = [check for criterion, _, check in (*grade.ITEMS, *grade.LONG) if re.search(words, criterion)]
    return found


@pytest.fixture
def copy(tmp_path, committed) -> Path:
    return Path(shutil.copytree(committed, tmp_path / "copy", symlinks=True))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def change_a_digit(path: Path) -> None:
    """The second decimal of the last score."""
    text = path.read_text()
    place = [m.end() for m in re.finditer(r"\d\.\d(?=\d\d)", text)][-1]
    path.write_text(text[:place] + str((int(text[place]) + 5) % 10) + text[place + 1 :])


def change_a_summary(root: Path) -> None:
    path = root / "results/study_4x4/summary.csv"
    table = pd.read_csv(path)
    table.loc[0, "psnr_mean"] += 0.1
    table.to_csv(path, index=False)


def leak(root: Path) -> None:
    """One scan of the test person trains, in the manifest and in the run."""
    path = root / "results/demo/01_environment.json"
    facts = json.loads(path.read_text())
    facts["profile"]["heads"]["bb1"] = "train"
    path.write_text(json.dumps(facts))


def change_notebook(root: Path, name: str, change: Callable[[dict], object]) -> None:
    path = root / name
    note = json.loads(path.read_text())
    for cell in note["cells"]:
        if cell["cell_type"] == "code":
            change(cell)
    path.write_text(json.dumps(note))


def without_pictures(cell: dict) -> None:
    for output in cell["outputs"]:
        output.get("data", {}).pop("image/png", None)


def swap_weights(root: Path) -> None:
    torch.manual_seed(0)
    save_weights(Generator(), root / WEIGHTS / "mDCSRN_4x4.safetensors")


def empty_tests(root: Path) -> None:
    for path in (root / "tests").glob("test_*.py"):
        path.unlink()


EVALUATE, PREPARE = "results/demo/04_evaluate.ipynb", "notebooks/01_prepare_data.ipynb"
NUMPY = "numpy==" + np.__version__
BROKEN = {
    "a score per head": (lambda r: change_a_digit(r / "results/demo/metrics.csv"), "Tables follow"),
    "a summary": (
        change_a_summary,
        "Tables follow",
    ),
    "an effect": (
        lambda r: replace(r / "results/ablations/ablation_effects.csv", "GAN,24.0", "GAN,25.0"),
        "Tables follow",
    ),
    "a shown number": (lambda r: change_a_digit(r / "results/demo/table.md"), "table of results"),
    "a leak in the run": (leak, "Splits"),
    "a leak in the manifest": (
        lambda r: replace(r / "data_manifest/demo.csv", ",bb,test", ",bb,train"),
        "Splits",
    ),
    "no hash": (lambda r: replace(r / "data_manifest/demo.csv", "a3d28a3397", ""), "downloaded"),
    "a loose pin": (lambda r: replace(r / "environment.yml", NUMPY, "numpy"), "Dependencies"),
    "another version": (lambda r: replace(r / "environment.yml", NUMPY, "numpy==1.0.0"), "Dependencies"),
    "swapped weights": (swap_weights, "Trained weights$"),
    "a verdict touched up": (
        lambda r: replace(r / "results/study/claims.md", "not supported", "supported    "),
        "Each claim",
    ),
    "a table behind a claim": (
        lambda r: replace(r / "results/bench/networks.csv", "SRResNet,", "SRResNet,1"),
        "Each claim",
    ),
    "no outputs": (
        lambda r: change_notebook(r, EVALUATE, lambda c: c.update(outputs=[])),
        "notebooks execute",
        "holds an error or no output",
    ),
    "no pictures": (
        lambda r: change_notebook(r, PREPARE, without_pictures),
        "notebooks execute",
        "holds no picture",
    ),
    "another order": (
        lambda r: change_notebook(r, PREPARE, lambda c: c.update(execution_count=7)),
        "notebooks execute",
        "was not executed in order",
    ),
    "another source": (
        lambda r: replace(r / "notebooks/01_prepare_data.py", "keep = 0.25", "keep = 0.5"),
        "notebooks execute",
        "is not of its",
    ),
    "no tests": (empty_tests, "tested", "pytest collects no tests"),
}


def test_this_repository_passes(committed):
    table = grade.grade(committed)
    failed = table[table["verdict"] == grade.FAIL]
    assert failed.empty, failed[["criterion", "evidence"]].to_string()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_fails(copy, name):
    break_it, words, *reason = BROKEN[name]
    item = check(words)
    break_it(copy)
    with pytest.raises((grade.Failed, ValueError), match=reason[0] if reason else None):
        item(copy)


def test_a_cached_head_that_is_another_file_fails(copy):
    (copy / "runs/cache/colin27").mkdir(parents=True)
    (copy / "runs/cache/colin27/ch2.nii.gz").write_bytes(b"another head")
    with pytest.raises(grade.Failed, match="ch2.nii.gz of colin27 is not the file of the manifest"):
        check("downloaded")(copy)


@pytest.mark.filterwarnings("ignore:brain mask")
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_weights_are_run_again_on_heads_they_have_not_seen(tmp_path, error):
    """Weights that return their input score what zero-filling scores: scikit-image says how much."""
    ball = np.linalg.norm(np.indices((24, 32, 28)) - np.array([12, 16, 14])[:, None, None, None], axis=0) < 9
    head = (1000 * ball * (1 + 0.2 * np.random.default_rng(0).random(ball.shape))).astype(np.float32)
    nib.save(nib.Nifti1Image(head, np.eye(4)), tmp_path / "anna.nii.gz")
    (tmp_path / "data_manifest").mkdir()
    anna = Subject("anna", "local", str(tmp_path / "anna.nii.gz"), group="anna", split="test", kind="person")
    write_manifest([anna], tmp_path / "data_manifest/people.csv")

    hr = np.minimum(head / np.float32(intensity_scale(head)), CLIP)
    lr = truncate_kspace(hr, [None, 0.5, 0.5])
    psnr, ssim = (f(hr, lr, data_range=1) for f in (peak_signal_noise_ratio, structural_similarity))
    row = {"head": "anna", "region": "whole", "data_consistency": False, "psnr": psnr + error, "ssim": ssim}
    save_weights(Generator(init="identity"), tmp_path / WEIGHTS / "same.safetensors")
    card = {"same.safetensors": {"keep": 0.5, "held_out": [row]}}
    (tmp_path / WEIGHTS / "card.json").write_text(json.dumps(card))
    item = check("stated metrics")
    if not error:
        assert "1 weights on one head" in item(tmp_path)
        return
    with pytest.raises(grade.Failed, match="same.safetensors: differs from card.json by {'psnr': 0.1"):
        item(tmp_path)


def test_the_command_prints_writes_and_says_by_its_status(copy, monkeypatch, capsys):
    """The quick items alone."""
    quick = (check("Tables follow"), check("Trained weights$"))
    monkeypatch.setattr(grade, "ITEMS", [item for item in grade.ITEMS if item[2] in quick])
    monkeypatch.chdir(copy)
    assert grade.main([]) == 0
    assert "PASS           Tables follow" in capsys.readouterr().out
    change_a_digit(copy / "results/demo/metrics.csv")
    assert grade.main([]) == 1
    written = pd.read_json(copy / "results/grade/grade.json").set_index("criterion")["verdict"]
    assert written["Tables follow from the scores per head"] == grade.FAIL
    assert "| FAIL" in (copy / "results/grade/grade.md").read_text()
