import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_head

from sprl_utils.comparison import bench
from sprl_utils.kspace import truncate_kspace
from sprl_utils.networks import Generator, multiply_adds
from sprl_utils.patches import Prepared, RandomPatches, batch


def test_the_originals_cubes_are_those_it_hard_codes():
    pads, places = bench.original_cubes((256, 320, 320))
    assert pads == [20, 17, 17] and len(places) == 180


def test_the_original_procedure_covers_the_volume_and_an_identity_comes_back():
    volume = np.random.default_rng(0).uniform(size=(60, 30, 59)).astype(np.float32)
    generator = Generator(growth_rate=1, blocks=1, units=1, init="identity").eval()
    merged, share = bench.original_super_resolve(volume, generator)
    np.testing.assert_array_equal(merged, volume)
    assert share == 1
    merged, share = bench.original_super_resolve(volume, generator, cubes=1)
    assert share == 1 / 4 and 0 < np.count_nonzero(merged) < volume.size


def test_both_ways_to_make_lr_agree():
    hr = make_head((20, 32, 40))
    keep = [None, 0.5, 0.25]
    expected = truncate_kspace(hr, keep)
    np.testing.assert_allclose(bench.original_lr_image(hr, keep), expected, atol=1e-5)


def test_a_ratio_counts_the_share_of_the_work_and_the_patches():
    measured = [
        {"task": "a", "size": "8", "side": "original", "seconds": [9, 1, 2], "share": 0.5, "peak_gib": 3},
        {"task": "a", "size": "8", "side": "ours", "seconds": [10, 10], "patches": 20, "peak_gib": 1},
    ]
    (row,) = bench.ratios(measured).to_dict("records")
    assert (row["original_seconds"], row["ours_seconds"], row["times_faster"]) == (4, 0.5, 8)
    assert (row["original_peak_gib"], row["ours_runs"]) == (3, 2)
    assert len(bench.long_table(measured)) == 5


def test_a_task_runs_in_a_process_of_its_own(tmp_path):
    bench.write_inputs(tmp_path, make_head((20, 24, 16)), [None, 0.5, 0.5])
    found = {side: bench.measure("metrics", side, repeats=2, folder=str(tmp_path)) for side in bench.SIDES}
    assert all(len(m["seconds"]) == 2 and m["peak_gib"] > 0.01 for m in found.values())
    assert found["ours"]["ssim"] == pytest.approx(found["original"]["ssim"], abs=1e-6)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bench.measure("metrics", "ours", folder=str(tmp_path / "nowhere"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux which files are mapped")
def test_no_subject_stays_in_memory_after_a_patch(tmp_path):
    bench.write_inputs(tmp_path / "inputs", make_head((20, 24, 22)), [None, 0.5, 0.5])
    bench.write_subjects(tmp_path / "subjects", tmp_path / "inputs", 3)
    subjects = [Prepared(folder) for folder in sorted((tmp_path / "subjects").iterdir())]
    held = subjects[0].hr
    assert re.search(r"subject0000/hr\.npy", Path("/proc/self/maps").read_text())  # it would be seen
    del held
    for step in range(5):
        lr, hr = batch(RandomPatches(subjects, 16, seed=0), step, 2)
        assert lr.shape == hr.shape == (2, 1, 16, 16, 16)
    assert not re.search(r"subject\d+/\w+\.npy", Path("/proc/self/maps").read_text())


def test_a_head_takes_hcps_shape():
    head = make_head((190, 230, 226))
    assert bench.head_of_size(head, (20, 32, 32)).shape == (20, 32, 32)
    small = make_head((30, 30, 30))
    assert bench.head_of_size(small, (20, 32, 32)).shape == (20, 32, 32)


def test_operations_of_a_profiled_task_are_those_of_its_convolutions(tmp_path):
    found = bench.measure("profile", "ours", 1, 0, profiled="pretraining step", patch_size=16)
    forward = 2 * 2 * multiply_adds(Generator(), 16)  # two cubes, two operations a multiply-add
    to_input = 2 * 2 * Generator().conv0.weight.numel() * 16**3  # the one gradient that nobody asks for
    assert found["gflop"] == pytest.approx(1e-9 * (3 * forward - to_input), rel=1e-6)
    assert found["operations"]["aten::convolution_backward"] > 0
    assert bench.measure("profile", "ours", 1, 0, profiled="D step", patch_size=16)["gflop"] > 0
    bench.write_inputs(tmp_path, make_head((20, 24, 16)), [None, 0.5, 0.5])
    facts = {"profiled": "inference", "folder": str(tmp_path), "memory_gib": 1.0}
    whole = 2e-9 * multiply_adds(Generator(), 1) * 20 * 24 * 16
    assert bench.measure("profile", "ours", 1, 0, **facts)["gflop"] == pytest.approx(whole, rel=0.35)


def test_ceilings_follow_from_the_rate():
    measured = [
        {"task": "a", "size": "8", "side": "original", "seconds": [40], "peak_gib": 1},
        {"task": "a", "size": "8", "side": "ours", "seconds": [10], "peak_gib": 1},
    ]
    profiled = [{"task": "a", "size": "8", "gflop": 500, "operations": {"conv": 3.0, "copy": 1.0}}]
    (row,) = bench.ceilings(measured, profiled, gflops=100).to_dict("records")
    assert (row["floor_s"], row["share_of_limit"], row["at_most"], row["times_faster"]) == (5, 0.5, 8, 4)
    assert bench.operations(profiled)["a"].tolist() == [0.75, 0.25]
