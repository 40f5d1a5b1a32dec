import numpy as np
import pytest
import torch
from conftest import make_head

from sprl_utils.comparison import bench
from sprl_utils.kspace import truncate_kspace
from sprl_utils.networks import Generator, save_weights
from sprl_utils.original import procedure


def test_the_originals_cubes_are_those_it_hard_codes():
    pads, places = procedure.original_cubes((256, 320, 320))
    assert pads == [20, 17, 17] and len(places) == 180


def test_the_original_procedure_covers_the_volume_and_an_identity_comes_back():
    volume = np.random.default_rng(0).uniform(size=(60, 30, 59)).astype(np.float32)
    generator = Generator(growth_rate=1, blocks=1, units=1, init="identity").eval()
    merged, share = procedure.original_super_resolve(volume, generator)
    np.testing.assert_array_equal(merged, volume)
    assert share == 1
    merged, share = procedure.original_super_resolve(volume, generator, cubes=1)
    assert share == 1 / 4 and 0 < np.count_nonzero(merged) < volume.size


def test_a_ratio_is_of_medians_and_counts_the_share_of_the_work():
    measured = [
        {"task": "a", "size": "8", "side": "original", "seconds": [9, 1, 2], "share": 0.5, "peak_gib": 3},
        {"task": "a", "size": "8", "side": "ours", "seconds": [0.5, 0.5], "peak_gib": 1},
    ]
    (row,) = bench.ratios(measured).to_dict("records")
    assert (row["original_seconds"], row["ours_seconds"], row["times_faster"]) == (4, 0.5, 8)
    assert (row["original_peak_gib"], row["ours_runs"]) == (3, 2)
    assert len(bench.long_table(measured)) == 5


def test_a_task_runs_in_a_process_of_its_own(tmp_path):
    hr, keep = make_head((20, 24, 16)), [None, 0.5, 0.5]
    bench.write_inputs(tmp_path, hr, keep)
    for side in bench.SIDES:
        facts = {"folder": str(tmp_path), "keep": keep, "out": tmp_path / f"lr_{side}.npy"}
        found = bench.measure("LR", side, repeats=2, **facts)
        assert len(found["seconds"]) == 2 and found["peak_gib"] > 0.01
        np.testing.assert_allclose(np.load(facts["out"]), truncate_kspace(hr, keep), atol=1e-5)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bench.measure("LR", "ours", folder=str(tmp_path / "nowhere"), keep=keep)


def test_agreement_is_that_of_the_weights_that_made_the_outputs(tmp_path):
    """With a network that changes the image, an output of other weights is far from exact computation."""
    torch.manual_seed(0)
    save_weights(Generator(), tmp_path / "trained.safetensors")
    weights = str(tmp_path / "trained.safetensors")
    folder = tmp_path / "20x24x16"
    bench.write_inputs(folder, make_head((20, 24, 16)), [None, 0.5, 0.5])
    facts = {"folder": str(folder), "memory_gib": 1.0, "weights": weights}
    bench.measure("inference", "ours", 1, 0, folder / "ours.npy", **facts)
    own, other = (bench.agreement(folder, True, w)["ours to exact"] for w in (weights, ""))
    assert own > other + 20  # bfloat16's rounding is far less than what other weights make


def test_a_head_takes_hcps_shape():
    head = make_head((190, 230, 226))
    assert bench.head_of_size(head, (20, 32, 32)).shape == (20, 32, 32)
    small = make_head((30, 30, 30))
    assert bench.head_of_size(small, (20, 32, 32)).shape == (20, 32, 32)
