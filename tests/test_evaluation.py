"""Tables over heads, and volumes in the input's units."""

import json

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
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
    table = pd.DataFrame(rows, columns=["group", "subject", "method", "psnr"])
    return table.assign(region="whole", ssim=table["psnr"] / 100, nrmse=0.1)


def test_an_identity_network_scores_what_zero_filling_scores(head):
    generators = {"identity": Generator(init="identity").eval()}
    images, seconds = evaluation.reconstruct(head, generators)
    np.testing.assert_allclose(images["zero-filled"], truncate_kspace(head.hr, [None, 0.5, 0.5]), atol=1e-6)
    np.testing.assert_array_equal(images["identity"], images["zero-filled"])
    table = evaluation.score(head, images, seconds, generators).set_index(["region", "method"])
    expected = peak_signal_noise_ratio(np.asarray(head.hr), images["zero-filled"], data_range=1)
    assert table.loc[("whole", "identity"), "psnr"] == pytest.approx(expected, abs=1e-4)
    assert table.loc[("whole", "identity"), "parameters"] == 411_648
    assert set(table.index.get_level_values("method")) == {"nearest", "linear", "cubic", *images}
    consistent = "identity" + evaluation.CONSISTENT
    assert table.loc[("whole", consistent), "parameters"] == 411_648


def test_rows_of_other_runs_say_so_and_bring_no_seconds(head, tmp_path):
    """A study that scored the same head with the same LR, on a machine that took an hour."""
    images = {"zero-filled": np.asarray(head.lr), "mDCSRN": np.asarray(head.hr)}
    here = evaluation.score(head, images, {"zero-filled": 0.0, "mDCSRN": 7.0}, {}, "mine")
    study = tmp_path / "study_bb"
    study.mkdir()
    old = here.drop(columns="source_run").assign(seconds=3600.0)  # tables were written without it once
    old.to_csv(study / "metrics.csv", index=False)
    both = pd.concat([here, weights.held_out_rows(here, tmp_path, "mine")], ignore_index=True)
    assert list(both.columns) == list(here.columns)
    table = evaluation.summary(both).set_index(["region", "method"])
    for region in ("whole", "brain"):
        ours, theirs = table.loc[(region, "mDCSRN")], table.loc[(region, weights.LONG)]
        assert (ours["source_run"], ours["seconds"]) == ("mine", 7.0)
        assert theirs["source_run"] == "study_bb" and np.isnan(theirs["seconds"])
        assert theirs["nrmse_mean"] == ours["nrmse_mean"] == 0


def test_a_mean_over_heads_of_two_runs_names_both():
    rows = scores([("a", "a1", "net", 31.0), ("b", "b1", "net", 30.0)])
    cost = {"parameters": 5, "multiply_adds": 6, "seconds": [1.0, 2.0]}
    (row,) = evaluation.summary(rows.assign(source_run=["one", "two"], **cost)).to_dict("records")
    assert (row["source_run"], row["psnr_mean"], row["seconds"]) == ("one, two", 30.5, 1.5)


def test_volumes_return_to_the_inputs_units_and_place(head, tmp_path):
    evaluation.save_volume(head, head.hr, tmp_path / "sr" / "anna.nii.gz")
    written = nib.load(tmp_path / "sr" / "anna.nii.gz")
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    scale = json.loads((head.folder / "meta.json").read_text())["scale"]
    np.testing.assert_allclose(written.get_fdata(), np.asarray(head.hr) * scale, rtol=1e-6)
    assert [p.name for p in (tmp_path / "sr").iterdir()] == ["anna.nii.gz"]


def test_two_scans_of_one_person_count_once():
    table = scores(
        [("a", "a1", "net", 31.0), ("a", "a2", "net", 33.0), ("b", "b1", "net", 30.0)]
        + [("a", "a1", "cubic", 30.0), ("a", "a2", "cubic", 30.0), ("b", "b1", "cubic", 30.0)]
    )
    row = evaluation.paired_interval(table, "net", ["cubic"]).set_index("metric").loc["psnr"]
    assert (row["difference"], row["people"]) == (1.0, 2)  # person a gained 2 on average, b nothing
    assert (row["low"], row["high"]) == (0.0, 2.0)  # with two people, each resample may be one of them alone


def test_a_constant_difference_has_an_interval_of_no_width_and_one_person_none():
    rows = [(p, p, m, 30.0 + (m == "net")) for p in "abc" for m in ("net", "cubic")]
    row = evaluation.paired_interval(scores(rows), "net", ["cubic"]).iloc[0]
    assert (row["low"], row["high"]) == pytest.approx((1.0, 1.0))
    row = evaluation.paired_interval(scores(rows[:2]), "net", ["cubic"]).iloc[0]
    assert row["difference"] == 1.0 and np.isnan(row["low"])


def test_improvement_is_a_difference_per_head():
    rows = [("a", "a1", "net", 31.0), ("a", "a1", "cubic", 30.5)]
    assert evaluation.improvement(scores(rows), "net", ["cubic"]).loc["a1", ("cubic", "psnr")] == 0.5


def test_a_method_known_on_one_head_alone_is_compared_there():
    rows = [("a", "a1", "net", 31.0), ("a", "a1", "cubic", 30.5), ("b", "b1", "cubic", 20.0)]
    assert list(evaluation.improvement(scores(rows), "net", ["cubic"]).index) == ["a1"]
    row = evaluation.paired_interval(scores(rows), "net", ["cubic"]).iloc[0]
    assert (row["difference"], row["people"]) == (0.5, 1)
    table = evaluation.as_markdown(evaluation.results_table(scores(rows), "whole"))
    assert "| net | 31.00 / 0.3100 / 0.1000 | - |" in table
