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

from sprl_utils.evaluation import (
    mean_differences,
    over_zero_filled,
    reconstruct,
    results_table,
    score,
    summary,
)
from sprl_utils.fetch import fetch_all
from sprl_utils.grading import grade
from sprl_utils.grading.reproduction import SPREAD
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import Subject, read_manifest, write_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.networks import Generator, load_generator, save_weights
from sprl_utils.prepare import CLIP, Recipe, prepare_all
from sprl_utils.provenance import repo_root

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


def change_the_first(path: Path, column: str) -> None:
    table = pd.read_csv(path)
    table.loc[0, column] += 0.1
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
        lambda r: change_the_first(r / "results/study_4x4/summary.csv", "psnr_mean"),
        "Tables follow",
    ),
    "an effect": (
        lambda r: change_the_first(r / "results/ablations/ablation_effects.csv", "psnr"),
        "Tables follow",
    ),
    "a shown number": (lambda r: change_a_digit(r / "results/demo/table.md"), "Tables of results"),
    "a difference": (
        lambda r: change_a_digit(r / "results/study_4x4/differences.csv"),
        "Tables follow",
    ),
    "a number of the README": (
        lambda r: replace(r / "README.md", "| 4x4 | ds002748 | 10 | 2", "| 4x4 | ds002748 | 10 | 3"),
        "Pages show",
        "README.md: numbers are not the ledger's",
    ),
    "a missing picture": (
        lambda r: (r / "results/study_4x4/figures/zoom.png").unlink(),
        "Pages show",
        "zoom.png is missing",
    ),
    "a loss that is always 0": (
        lambda r: replace(r / "sprl_utils/losses.py", "    return ", "    return 0 * "),
        "tests of the method",
        "pytest fails",
    ),
    "a leak in the run": (leak, "Splits"),
    "a leak in the manifest": (
        lambda r: replace(r / "data_manifest/demo.csv", ",bb,test", ",bb,train"),
        "Splits",
    ),
    "no hash": (lambda r: replace(r / "data_manifest/demo.csv", "a3d28a3397", ""), "hashes and terms"),
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
        "notebooks were executed",
        "holds an error or no output",
    ),
    "no pictures": (
        lambda r: change_notebook(r, PREPARE, without_pictures),
        "notebooks were executed",
        "holds no picture",
    ),
    "another order": (
        lambda r: change_notebook(r, PREPARE, lambda c: c.update(execution_count=7)),
        "notebooks were executed",
        "was not executed in order",
    ),
    "another source": (
        lambda r: replace(r / "notebooks/01_prepare_data.py", "keep = 0.25", "keep = 0.5"),
        "notebooks were executed",
        "is not of its",
    ),
    "no tests": (empty_tests, "each part has tests", "pytest collects no tests"),
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
    (copy / "runs/cache/colin27").mkdir(parents=True, exist_ok=True)
    (copy / "runs/cache/colin27/ch2.nii.gz").write_bytes(b"another head")
    with pytest.raises(grade.Failed, match="ch2.nii.gz of colin27 is not the file of the manifest"):
        check("hashes and terms")(copy)


@pytest.fixture
def anna(tmp_path) -> tuple[Path, np.ndarray]:
    """A repository with one head of one's own that tests, and the head: a ball of noise."""
    root = tmp_path / "root"
    ball = np.linalg.norm(np.indices((24, 32, 28)) - np.array([12, 16, 14])[:, None, None, None], axis=0) < 9
    head = (1000 * ball * (1 + 0.2 * np.random.default_rng(0).random(ball.shape))).astype(np.float32)
    nib.save(nib.Nifti1Image(head, np.eye(4)), tmp_path / "anna.nii.gz")
    (root / "data_manifest").mkdir(parents=True)
    subject = Subject(
        "anna", "local", str(tmp_path / "anna.nii.gz"), group="anna", split="test", kind="person"
    )
    write_manifest([subject], root / "data_manifest/people.csv")
    (root / WEIGHTS).mkdir(parents=True)
    return root, head


def write_card(root: Path, name: str, rows: list[dict]) -> None:
    card = {name: {"keep": 0.5, "held_out": rows}}
    (root / WEIGHTS / "card.json").write_text(json.dumps(card))


@pytest.mark.filterwarnings("ignore:brain mask")
@pytest.mark.parametrize("error", [0.0, 0.1])
def test_weights_are_run_again_on_heads_they_have_not_seen(anna, error):
    """Weights that return their input score what zero-filling scores: scikit-image says how much."""
    root, head = anna
    hr = np.minimum(head / np.float32(intensity_scale(head)), CLIP)
    lr = truncate_kspace(hr, [None, 0.5, 0.5])
    psnr, ssim = (f(hr, lr, data_range=1) for f in (peak_signal_noise_ratio, structural_similarity))
    row = {"head": "anna", "region": "whole", "data_consistency": False, "psnr": psnr + error, "ssim": ssim}
    write_card(root, "same.safetensors", [row])
    save_weights(Generator(init="identity"), root / WEIGHTS / "same.safetensors")
    for words, told in (
        ("stated metrics", "1 weights on one head"),
        ("one head", "same.safetensors on anna"),
    ):
        if not error:
            assert told in check(words)(root)
            continue
        with pytest.raises(
            grade.Failed, match="same.safetensors on anna: differs from card.json by {'psnr': 0.1"
        ):
            check(words)(root)


GUTTED = {
    "nothing": ("", ""),
    "the network": ("inference.py", "def super_resolve(volume, *args, **kwargs):\n    return volume\n"),
    "the degradation": ("kspace.py", "def truncate_kspace(volume, keep):\n    return volume\n"),
    "the data consistency": ("kspace.py", "def data_consistency(sr, lr, keep):\n    return sr\n"),
    "the scores": ("metrics.py", "def psnr(image, hr, mask=None):\n    return 40.0\n"),
}


GRADE_ONE = (
    "import pathlib, sys; from sprl_utils.grading import grade; grade._one_head(pathlib.Path(sys.argv[1]))"
)


@pytest.mark.filterwarnings("ignore:brain mask")
@pytest.mark.parametrize("gutted", GUTTED)
def test_a_gutted_package_does_not_give_the_numbers_of_the_card(anna, committed, tmp_path, gutted):
    """Shipped weights, run by a copy of the package in which one function does nothing."""
    root, _ = anna
    name = "EDSR_2x2.safetensors"
    shutil.copy(repo_root() / WEIGHTS / name, root / WEIGHTS)
    (subject,) = read_manifest(root / "data_manifest/people.csv")
    files = fetch_all([subject], tmp_path / "cache")
    (head,) = prepare_all([subject], files, tmp_path / "prepared", Recipe(0.5))
    made = reconstruct(head, {"EDSR": load_generator(root / WEIGHTS / name)})
    rows = score(head, made).query("network == 'EDSR'").rename(columns={"subject": "head"})
    columns = ["head", "region", "data_consistency", "psnr", "ssim"]
    write_card(root, name, rows[columns].to_dict("records"))

    package = Path(shutil.copytree(committed / "sprl_utils", tmp_path / "copy" / "sprl_utils"))
    module, function = GUTTED[gutted]
    if module:
        with (package / module).open("a") as source:
            source.write(f"\n\n{function}")
    run = grade._python(package.parent, "-c", GRADE_ONE, str(root), cwd=package.parent)
    assert (run.returncode == 0) == (gutted == "nothing"), run.stderr
    assert gutted == "nothing" or "differs from card.json by" in run.stderr


def test_a_rerun_on_another_machine_passes(copy):
    """The demo's scores moved by less than the stated spread, and what follows from them was written anew."""
    folder = copy / "results/demo"
    scores = pd.read_csv(folder / "metrics.csv")
    ours = scores["source_run"] == "demo"
    moved = np.random.default_rng(0).uniform(-0.9, 0.9, len(scores))
    for metric, spread in SPREAD.items():
        scores.loc[ours, metric] += moved[ours] * spread
    scores.to_csv(folder / "metrics.csv", index=False)
    summary(scores).to_csv(folder / "summary.csv", index=False)
    mean_differences(over_zero_filled(scores)).to_csv(folder / "differences.csv", index=False)
    table = results_table(scores, "whole").to_markdown(index=False)
    (folder / "table.md").write_text(f"{table}\n", encoding="utf-8")
    run = grade._python(copy, "notebooks/07_claims.py", cwd=copy)
    assert run.returncode == 0, run.stderr
    for words in ("Tables follow", "Tables of results", "Each claim"):
        check(words)(copy)


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
