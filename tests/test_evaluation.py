"""Tables over heads, and volumes in the input's units."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from conftest import write_prepared as write_prepared_head
from skimage.metrics import peak_signal_noise_ratio

from sprl_utils import evaluation
from sprl_utils.extras import weights
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import Subject
from sprl_utils.networks import Generator
from sprl_utils.patches import Prepared
from sprl_utils.prepare import Recipe, volume_arrays, write_prepared
from sprl_utils.volumes import Volume

AFFINE = np.array([[0.7, 0, 0, -30], [0, 0.8, 0, 20], [0, 0, 0.9, 7], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "anna"
    data = 900 * np.random.default_rng(0).random((12, 16, 20), dtype=np.float32)
    subject = Subject("anna", "local", "", group="anna", split="test")
    with pytest.warns(UserWarning, match="no brain"):
        arrays, facts = volume_arrays(subject, Volume(data, AFFINE, None), Recipe(keep=0.5))
    write_prepared(folder, subject, arrays, facts, {})
    return Prepared(folder)


def scores(rows):
    table = pd.DataFrame(rows, columns=["subject", "network", "data_consistency", "source_run", "psnr"])
    return table.assign(region="whole", ssim=table["psnr"] / 100, nrmse=0.1)


def test_mean_and_sd_are_over_subjects():
    rows = scores([("x", "a", False, "r", 30.0), ("y", "a", False, "r", 32.0), ("x", "b", True, "r", 25.0)])
    costs = {"parameters": 7, "multiply_adds": [1.0, 3.0, np.nan], "seconds": np.nan}
    table = evaluation.summary(rows.assign(**costs)).set_index("network")
    assert table.loc["a", "subjects"] == 2 and table.loc["a", "psnr_mean"] == 31
    assert table.loc["a", "psnr_sd"] == pytest.approx(np.sqrt(2))
    assert table.loc["a", "multiply_adds"] == 2 and np.isnan(table.loc["a", "seconds"])
    assert np.isnan(table.loc["b", "psnr_sd"])


def test_an_identity_network_scores_what_zero_filling_scores(head):
    made = evaluation.reconstruct(head, {"identity": Generator(init="identity").eval()})
    images = {(one.network, one.data_consistency): one.image for one in made}
    zero_filled = images["zero-filled", False]
    np.testing.assert_allclose(zero_filled, truncate_kspace(head.hr, [None, 0.5, 0.5]), atol=1e-6)
    np.testing.assert_array_equal(images["identity", False], zero_filled)
    table = evaluation.score(head, made, "mine").set_index(["region", *evaluation.METHOD])
    expected = peak_signal_noise_ratio(np.asarray(head.hr), zero_filled, data_range=1)
    assert table.loc[("whole", "identity", False, "mine"), "psnr"] == pytest.approx(expected, abs=1e-4)
    assert (table.xs("identity", level="network")["parameters"] == 411_648).all()
    assert set(table.index.get_level_values("network")) == {
        "nearest",
        "linear",
        "cubic",
        "zero-filled",
        "identity",
    }


def test_rows_of_other_runs_say_so_and_bring_no_seconds(head, tmp_path):
    """A study that scored the same head with the same LR, on a machine that took an hour."""
    made = [
        evaluation.Reconstruction("zero-filled", False, np.asarray(head.lr), 0.0),
        evaluation.Reconstruction("mDCSRN", False, np.asarray(head.hr), 7.0),
    ]
    here = evaluation.score(head, made, "mine")
    study = tmp_path / "study_4x4"
    study.mkdir()
    here.assign(seconds=3600.0, source_run="study_4x4").to_csv(study / "metrics.csv", index=False)
    both = pd.concat([here, weights.held_out_rows(here, tmp_path, "mine")], ignore_index=True)
    assert list(both.columns) == list(here.columns)
    table = evaluation.summary(both).set_index(["region", *evaluation.METHOD])
    for region in ("whole", "brain"):
        ours, theirs = (table.loc[(region, "mDCSRN", False, run)] for run in ("mine", "study_4x4"))
        assert ours["seconds"] == 7.0 and np.isnan(theirs["seconds"])
        assert theirs["nrmse_mean"] == ours["nrmse_mean"] == 0


def test_mean_differences_come_with_students_interval():
    """Differences 1, 2, 3, 4: mean 2.5, SD 1.29, and t = 3.182 for three degrees of freedom."""
    gains = [1.0, 2.0, 3.0, 4.0]
    rows = scores(
        [(f"h{i}", "zero-filled", False, "run", 30.0) for i in range(4)]
        + [(f"h{i}", "net", False, "run", 30.0 + gain) for i, gain in enumerate(gains)]
        + [("h0", "other", True, "run", 29.0)]
    )
    found = evaluation.mean_differences(evaluation.over_zero_filled(rows)).set_index("network")
    assert found.loc["net", ["heads", "psnr_mean", "psnr_better"]].tolist() == [4, 2.5, 4]
    half = 3.18245 * 1.29099 / 2
    assert found.loc["net", ["psnr_low", "psnr_high"]].tolist() == pytest.approx(
        [2.5 - half, 2.5 + half], abs=1e-4
    )
    assert found.loc["other", "psnr_mean"] == -1 and np.isnan(found.loc["other", "psnr_low"])


def test_regions_lie_within_each_other(tmp_path):
    x, y, z = np.indices((60, 60, 60)) - 30
    ball = np.sqrt(x**2 + y**2 + z**2)
    prepared = write_prepared_head(tmp_path, "ball", "test", (ball < 22).astype(np.float32))
    masks = evaluation.regions(prepared)
    assert list(masks) == ["whole", "head", "brain", "inner brain", "brain box"]
    assert (masks["inner brain"] == (ball < 22 - evaluation.INNER))[np.abs(ball - 14) > 1].all()
    assert masks["brain box"].sum() == 43**3 and masks["brain box"][masks["brain"]].all()


def test_heads_of_two_runs_are_not_averaged():
    rows = scores([("a1", "net", False, "one", 31.0), ("b1", "net", False, "two", 30.0)])
    found = evaluation.summary(rows.assign(parameters=5, multiply_adds=6, seconds=1.0))
    assert list(zip(found["source_run"], found["subjects"], found["psnr_mean"], strict=True)) == [
        ("one", 1, 31.0), ("two", 1, 30.0),
    ]  # fmt: skip


def test_volumes_return_to_the_inputs_units_and_place(head, tmp_path):
    evaluation.save_volume(head, head.hr, tmp_path / "sr" / "anna.nii.gz")
    written = nib.load(tmp_path / "sr" / "anna.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    scale = json.loads((head.folder / "meta.json").read_text())["scale"]
    np.testing.assert_allclose(written.get_fdata(), np.asarray(head.hr) * scale, rtol=1e-6)
    assert [p.name for p in (tmp_path / "sr").iterdir()] == ["anna.nii.gz"]


def test_gains_are_differences_per_head_and_region():
    rows = [("a1", "zero-filled", False, "x", 30.0), ("b1", "zero-filled", False, "x", 20.0)]
    rows += [
        ("a1", "net", True, "x", 31.0),
        ("b1", "net", True, "y", 19.5),
        ("a1", "linear", False, "x", 1.0),
    ]
    found = evaluation.over_zero_filled(scores(rows)).set_index("subject")
    assert found["psnr"].to_dict() == {"a1": 1.0, "b1": -0.5}
    assert found["ssim"].to_dict() == pytest.approx({"a1": 0.01, "b1": -0.005})


def test_a_method_known_on_one_head_alone_has_a_dash_on_the_others():
    rows = [
        ("a1", "net", True, "x", 31.0),
        ("a1", "cubic", False, "x", 30.5),
        ("b1", "cubic", False, "x", 20.0),
    ]
    table = evaluation.results_table(scores(rows), "whole")
    assert list(table.columns) == ["network", "data consistency", "source run", "a1", "b1"]
    assert table.iloc[0].tolist() == ["net", "yes", "x", "31.00 / 0.3100 / 0.1000", "-"]
