"""Shipped weights: taken from finished runs, described by what those runs wrote."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from sprl_utils.extras import weights
from sprl_utils.files import sha256
from sprl_utils.networks import Generator, load_generator, save_weights
from sprl_utils.scans.unfamiliar import voxels_sha256
from sprl_utils.volumes import read_volume

DEMO = Path(__file__).parents[1] / "results" / "demo"


@pytest.fixture
def root(tmp_path) -> Path:
    """A repository in which mDCSRN's run of the study is finished (with the demo's numbers)."""
    torch.manual_seed(0)
    made = "runs/study_4x4/pretrain/generator.safetensors"
    save_weights(Generator(), tmp_path / made)
    (tmp_path / "results").mkdir()
    results = Path(shutil.copytree(DEMO, tmp_path / "results/study_4x4"))
    scores = pd.read_csv(results / "metrics.csv")
    own = scores[scores["source_run"] == "demo"].assign(source_run="study_4x4")
    others = scores[scores["source_run"] != "demo"].assign(source_run="another")  # not this run's score
    pd.concat([others, own]).to_csv(results / "metrics.csv", index=False)
    facts = json.loads((results / "02_environment.json").read_text())
    facts["outputs"] = {made: sha256(tmp_path / made)}
    (results / "02_environment.json").write_text(json.dumps(facts))
    return tmp_path


def test_the_card_says_what_the_run_wrote(root, tmp_path):
    folder = tmp_path / "weights"
    card = weights.take_over(root, folder)
    (entry,) = card.values()
    file = folder / "mDCSRN_4x4.safetensors"
    assert json.loads((folder / "card.json").read_text()) == card and list(card) == [file.name]
    assert entry["sha256"] == sha256(file) and entry["trained_on"] == ["oasis", "cn200"]
    load_generator(file)

    scores = pd.read_csv(DEMO / "metrics.csv").query("source_run == 'demo'")
    scores = scores.set_index(["subject", "region", "network", "data_consistency"])["psnr"]
    rows = {(row["head"], row["region"], row["data_consistency"]): row for row in entry["held_out"]}
    heads = ("colin27", "bb1")
    assert set(rows) == {(h, r, c) for h in heads for r in ("whole", "brain") for c in (False, True)}
    for (head, region, consistent), row in rows.items():
        psnr = scores[head, region, "mDCSRN", consistent]
        assert row["psnr"] == round(psnr, 6) and row["network"] == "mDCSRN"
        gain = psnr - scores[head, region, "zero-filled", False]
        assert row["psnr_over_zero_filled"] == pytest.approx(gain, abs=1e-4)
    brain = rows["colin27", "brain", False]["psnr_over_zero_filled"]
    assert f"colin27: {brain:+.2f} dB" in (folder / "README.md").read_text()


def test_weights_whose_run_is_elsewhere_stay(root, tmp_path):
    card = weights.take_over(root, tmp_path / "weights")
    shutil.rmtree(root / "runs")
    assert weights.take_over(root, tmp_path / "weights") == card


def test_the_card_knows_a_training_head_by_its_voxels_also_where_its_file_is_not(root, tmp_path):
    file = root / "runs/cache/oasis/T_template0.nii.gz"
    file.parent.mkdir(parents=True)
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.eye(4)), file)
    (entry,) = weights.take_over(root, tmp_path / "weights").values()
    told = [digest for digest, head in entry["trained_on_sha256"].items() if head == "oasis"]
    assert len(told) == 2 and voxels_sha256(read_volume(file)) in told
    file.unlink()
    (later,) = weights.take_over(root, tmp_path / "weights").values()
    assert later["trained_on_sha256"] == entry["trained_on_sha256"]


def test_weights_of_another_run_get_no_card(root, tmp_path):
    torch.manual_seed(1)
    save_weights(Generator(), root / "runs/study_4x4/pretrain/generator.safetensors")
    with pytest.raises(ValueError, match="expected sha256 .* of profile study_4x4, found [0-9a-f]{64}"):
        weights.take_over(root, tmp_path / "weights")


def test_held_out_rows_stand_beside_the_same_heads_alone(root):
    scores = pd.read_csv(DEMO / "metrics.csv").query("source_run == 'demo'")
    moved = scores["subject"].eq("bb1")
    scores.loc[moved, "psnr"] += 0.01  # another LR
    rows = weights.held_out_rows(scores, root / "results")
    assert set(rows["subject"]) == {"colin27"}
    assert set(rows["network"]) == {"mDCSRN", "EDSR"} and set(rows["source_run"]) == {"study_4x4"}
    assert set(rows.columns) >= set(scores.columns) and rows["seconds"].isna().all()
    assert len(rows) == 8  # two networks, two regions, with and without data consistency
    own = scores.query("subject == 'colin27' and network == 'mDCSRN'")["psnr"]
    assert list(rows.query("network == 'mDCSRN'")["psnr"]) == list(own)
    assert weights.held_out_rows(scores, root / "results", "study_4x4").empty  # its own
    assert weights.held_out_rows(scores, root / "nowhere").empty


def test_a_name_is_of_shipped_weights_and_a_path_of_ones_own(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    (tmp_path / "mDCSRN_2x2.safetensors").touch()
    assert weights.find_weights("mDCSRN_2x2") == tmp_path / "mDCSRN_2x2.safetensors"
    assert weights.find_weights("own.safetensors") == Path("own.safetensors")
    assert weights.find_weights("runs/own") == Path("runs/own")


def test_a_name_that_is_not_there_tells_those_that_are(monkeypatch, root, tmp_path):
    monkeypatch.setattr(weights, "FOLDER", tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="there are none, train your own; found no 'EDSR_4x4'"):
        weights.shipped()
    weights.take_over(root, tmp_path / "weights")
    with pytest.raises(FileNotFoundError, match="there are mDCSRN_4x4; found no 'mine'"):
        weights.shipped("mine")
    assert weights.shipped("mDCSRN_4x4").is_file()
