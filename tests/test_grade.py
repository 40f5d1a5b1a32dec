"""The rubric on this repository, and on copies of it that are broken on purpose."""

import json
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sprl_utils import evaluation
from sprl_utils.files import sha256
from sprl_utils.grading import grade
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import Subject, write_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.networks import Generator, save_weights
from sprl_utils.prepare import CLIP

ROOT = Path(__file__).parents[1]


@pytest.fixture
def copy(tmp_path, committed) -> Path:
    return Path(shutil.copytree(committed, tmp_path / "copy", symlinks=True))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def failing(root: Path) -> dict[str, str]:
    table = grade.grade(root)
    failed = table[table["verdict"] == grade.FAIL]
    return dict(zip(failed["criterion"], failed["evidence"], strict=True))


def change_a_digit(path: Path) -> None:
    """The last digit of the last number of the last line."""
    text = path.read_text()
    place = [m.start() for m in re.finditer(r"\d(?=\D*$)", text)][-1]
    path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])


def leak(root: Path) -> None:
    """One scan of the test person trains, in the manifest and in the run."""
    path = root / "results/demo/01_environment.json"
    facts = json.loads(path.read_text())
    facts["profile"]["heads"]["bb1"] = "train"
    path.write_text(json.dumps(facts))


def add_weights(root: Path) -> Path:
    """Shipped weights and the card that describes them."""
    folder = root / "sprl_utils" / "weights"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    torch.manual_seed(0)
    save_weights(Generator(), folder / "mine.safetensors")
    card = {"mine.safetensors": {"sha256": sha256(folder / "mine.safetensors")}}
    (folder / "card.json").write_text(json.dumps(card))
    return folder / "mine.safetensors"


def swap_weights(root: Path) -> None:
    path = add_weights(root)
    torch.manual_seed(1)
    save_weights(Generator(), path)


def fail_a_notebook(root: Path) -> None:
    path = root / "results/demo/04_evaluate.ipynb"
    note = json.loads(path.read_text())
    cell = [c for c in note["cells"] if c["cell_type"] == "code"][-1]
    cell["outputs"] = [{"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}]
    path.write_text(json.dumps(note))


NUMBERS, SPLITS = "Numbers follow from committed files", "Splits are given, and nobody stands on two sides"
BROKEN = {
    "a number in metrics.csv": (lambda r: change_a_digit(r / "results/demo/metrics.csv"), NUMBERS),
    "a number in table.md": (lambda r: change_a_digit(r / "results/demo/table.md"), NUMBERS),
    "a number in summary.csv": (
        lambda r: replace(r / "results/demo/summary.csv", "whole,nearest,3,22.0", "whole,nearest,3,23.0"),
        NUMBERS,
    ),
    "a number in the README": (
        lambda r: replace(r / "README.md", "| mDCSRN | 28.", "| mDCSRN | 29."),
        NUMBERS,
    ),
    "a leaked subject in the run": (leak, SPLITS),
    "a leaked subject in the manifest": (
        lambda r: replace(r / "data_manifest/demo.csv", ",bb,test", ",bb,train"),
        SPLITS,
    ),
    "an unpinned package": (
        lambda r: replace(r / "environment.yml", "numpy==2.4.6", "numpy"),
        "Dependencies are specified",
    ),
    "another version": (
        lambda r: replace(r / "environment.yml", "numpy==2.4.6", "numpy==1.0.0"),
        "Dependencies are specified",
    ),
    "a swapped weight file": (swap_weights, "Trained weights"),
    "a notebook that failed": (fail_a_notebook, "Functional: exercisable, the notebooks execute"),
    "a claim touched up": (
        lambda r: replace(r / "results/study/claims.md", "not supported", "supported"),
        "Each claim has its evidence",
    ),
    "an uncommitted change": (
        lambda r: replace(r / "results/demo/environment.json", '"dirty": false', '"dirty": true'),
        "Functional: results can be traced",
    ),
}


def test_this_repository_passes():
    table = grade.grade(ROOT)
    assert len(table) >= 19 and failing(ROOT) == {}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_fails_in_its_item_alone(copy, name):
    break_it, criterion = BROKEN[name]
    break_it(copy)
    found = failing(copy)
    assert criterion in found
    beside = {"Data can be downloaded and checked", "Sources, licences and limits of the data are stated"}
    assert set(found) - {criterion} <= (beside if "manifest" in name else set()), found


def test_the_digits_of_another_machine_fail_nothing(copy):
    """A correct reproduction: all files of the run anew, with numbers that differ by less than is stated."""
    demo = copy / "results/demo"
    scores = pd.read_csv(demo / "metrics.csv")
    scores["ssim"] -= 0.0004
    scores["psnr"] += 0.02
    scores.to_csv(demo / "metrics.csv", index=False)
    table = evaluation.as_markdown(evaluation.results_table(scores, "whole"))
    assert table.strip() not in (copy / "README.md").read_text()
    (demo / "table.md").write_text(table)
    summary = pd.read_csv(demo / "summary.csv")
    for metric, change in (("ssim", -0.0004), ("psnr", 0.02)):
        summary[f"{metric}_mean"] += change
    summary.to_csv(demo / "summary.csv", index=False)
    facts = json.loads((demo / "environment.json").read_text())
    facts["outputs"]["results/demo/metrics.csv"] = sha256(demo / "metrics.csv")
    (demo / "environment.json").write_text(json.dumps(facts))
    assert failing(copy) == {}


def test_a_run_without_git_is_no_failure(copy):
    for path in (copy / "results/demo").glob("*environment.json"):
        facts = json.loads(path.read_text()) | {"git": {"commit": None, "dirty": None}}
        path.write_text(json.dumps(facts))
    table = grade.grade(copy).set_index("criterion")["verdict"]
    assert grade.FAIL not in set(table)
    assert table["Functional: results can be traced"] == grade.NOT_APPLICABLE


def test_weights_that_are_those_of_the_card_pass(copy):
    add_weights(copy)
    table = grade.grade(copy).set_index("criterion")
    assert table.loc["Trained weights", "verdict"] == grade.PASS


@pytest.mark.filterwarnings("ignore:brain mask")
@pytest.mark.parametrize(("dB", "verdict"), [(0.0, grade.PASS), (0.1, grade.FAIL)])
def test_weights_are_run_again_on_heads_they_have_not_seen(tmp_path, dB, verdict):
    """Weights that return their input score what zero-filling scores: scikit-image says how much."""
    ball = np.linalg.norm(np.indices((24, 32, 28)) - np.array([12, 16, 14])[:, None, None, None], axis=0) < 9
    head = (1000 * ball * (1 + 0.2 * np.random.default_rng(0).random(ball.shape))).astype(np.float32)
    nib.save(nib.Nifti1Image(head, np.eye(4)), tmp_path / "anna.nii.gz")
    (tmp_path / "data_manifest").mkdir()
    anna = Subject("anna", "local", str(tmp_path / "anna.nii.gz"), group="anna", split="test", kind="person")
    write_manifest([anna], tmp_path / "data_manifest/demo.csv")

    hr = np.minimum(head / np.float32(intensity_scale(head)), CLIP)
    lr = truncate_kspace(hr, [None, 0.5, 0.5])
    psnr, ssim = (f(hr, lr, data_range=1) for f in (peak_signal_noise_ratio, structural_similarity))
    told = {"head": "anna", "region": "whole", "method": "mDCSRN", "psnr": psnr + dB, "ssim": ssim}
    folder = tmp_path / "sprl_utils/weights"
    save_weights(Generator(init="identity"), folder / "same.safetensors")
    (folder / "card.json").write_text(json.dumps({"same.safetensors": {"keep": 0.5, "held_out": [told]}}))
    (item,) = [item for item in grade.LONG if "metrics" in item.criterion]
    if verdict == grade.PASS:
        assert "largest differences {'psnr': 0." in item.check(tmp_path)
    else:
        with pytest.raises(grade.Failed, match="same.safetensors: differs from card.json by {'psnr': 0.1"):
            item.check(tmp_path)


def test_the_command_prints_writes_and_says_by_its_status(copy, monkeypatch, capsys):
    monkeypatch.chdir(copy)
    assert grade.main([]) == 0
    written = (copy / "results/grade/grade.md").read_text()
    assert "| Numbers follow from committed files | ML Reproducibility | PASS |" in written
    assert "PASS           Numbers follow" in capsys.readouterr().out
    (copy / "LICENSE").unlink()
    assert grade.main([]) == 1
    assert "| Reusable: licence and citation | ACM | FAIL |" in (copy / "results/grade/grade.md").read_text()
