"""Shipped weights: taken from finished runs, described by what those runs wrote."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from sprl_utils import weights
from sprl_utils.networks import Generator, load_generator, save_weights
from sprl_utils.provenance import sha256

DEMO = Path(__file__).parents[1] / "results" / "demo"


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository in which the run without colin27 is finished (with the demo's numbers)."""
    torch.manual_seed(0)
    save_weights(Generator(), tmp_path / "runs/study_colin27/pretrain/generator.safetensors")
    (tmp_path / "results").mkdir()
    shutil.copytree(DEMO, tmp_path / "results/study_colin27")
    return tmp_path


def test_the_card_says_what_the_run_wrote(root, tmp_path):
    folder = tmp_path / "weights"
    card = weights.take_over(root, folder)
    (entry,) = card.values()
    file = folder / "mDCSRN_4x4_without_colin27.safetensors"
    assert json.loads((folder / "card.json").read_text()) == card and list(card) == [file.name]
    assert entry["sha256"] == sha256(file) and entry["trained_on"] == ["oasis", "cn200"]
    load_generator(file)

    scores = pd.read_csv(DEMO / "metrics.csv").set_index(["subject", "region", "method"])["psnr"]
    told = {(row["head"], row["region"]): row for row in entry["held_out"]}
    assert len(told) == 6
    for (head, region), row in told.items():
        assert row["psnr"] == round(scores[head, region, "mDCSRN"], 4)
        gain = scores[head, region, "mDCSRN"] - scores[head, region, "zero-filled"]
        assert row["psnr_over_zero_filled"] == pytest.approx(gain, abs=1e-4)
    brain = told["colin27", "brain"]["psnr_over_zero_filled"]
    assert f"colin27, brain: {brain:+.2f} dB" in (folder / "README.md").read_text()


def test_weights_whose_run_is_elsewhere_stay(root, tmp_path):
    card = weights.take_over(root, tmp_path / "weights")
    shutil.rmtree(root / "runs")
    assert weights.take_over(root, tmp_path / "weights") == card


def test_a_name_that_is_not_there_tells_those_that_are(monkeypatch, root, tmp_path):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="expected one of none, found 'mDCSRN_4x4'"):
        weights.shipped()
    weights.take_over(root, tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="expected one of mDCSRN_4x4_without_colin27, found 'mine'"):
        weights.shipped("mine")
    assert weights.shipped("mDCSRN_4x4_without_colin27").is_file()
