"""The original project's data: its grid of cubes, its split, its folders and lists of subjects."""

from collections import Counter

import numpy as np
import pytest
from conftest import hcp_tree, make_head, write_prepared

from sprl_utils import manifest
from sprl_utils.extras.stages import training_patches
from sprl_utils.manifest import Subject
from sprl_utils.original.grid import GridPatches, grid_corners
from sprl_utils.original.hcp import hcp_subjects
from sprl_utils.original.recipe import recipe_named
from sprl_utils.original.split import rule_named


def local(subject_id, **columns):
    return Subject(subject_id, "local", f"/data/{subject_id}.nii", **({"group": subject_id} | columns))


def write_csv(folder, text):
    path = folder / "heads.csv"
    path.write_text(text)
    return path


# ---- patches ------------------------------------------------------------------------------------------


def test_the_original_grid_is_100_cubes():
    corners = grid_corners((256, 320, 320), 64)
    assert len(corners) == 4 * 5 * 5
    assert corners[0] == (0, 0, 0) and corners[1] == (0, 0, 64) and corners[-1] == (192, 256, 256)


def test_an_epoch_of_the_grid_uses_each_cube_once(tmp_path):
    """Each cube is filled with its own number."""
    hr = np.zeros((16, 16, 24), np.float32)
    for number, (x, y, z) in enumerate(grid_corners(hr.shape, 8)):
        hr[x : x + 8, y : y + 8, z : z + 8] = number
    subject = write_prepared(tmp_path, "numbered", "train", hr)
    patches = GridPatches([subject], 8, seed=1)
    epochs = [[int(patches.patch(e * 12 + i)[1].max()) for i in range(12)] for e in range(6)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_cubes_have_the_axes_that_were_cut_last(tmp_path):
    """The network restores the last two; here the file's first two were cut, and its last counts up."""
    hr = np.broadcast_to(np.arange(8, dtype=np.float32), (8, 8, 8)).copy()
    subject = write_prepared(tmp_path, "turned", "train", hr, keep=(0.5, 0.5, None))
    _, cube = GridPatches([subject], 8, seed=0).patch(0)
    assert list(cube[:, 0, 0]) == list(range(8))


def test_patches_of_another_kind_are_refused(heads):
    with pytest.raises(ValueError, match="patches must be one of random, slices, grid, found 'girds'"):
        training_patches([heads["train"]], "girds", 8, seed=0, flips=True)


def test_a_volume_smaller_than_a_cube_is_refused(tmp_path):
    small = write_prepared(tmp_path, "tiny", "train", make_head((7, 20, 20)))
    with pytest.raises(ValueError, match=r"tiny: .* at least \[8, 8, 8\] voxels .* found \[7, 20, 20\]"):
        GridPatches([small], 8, seed=0)


# ---- split and recipe ---------------------------------------------------------------------------------


def test_original_split_has_its_sizes_and_order():
    subjects = [local(str(100000 + i)) for i in range(1113)]
    done = manifest.assign_splits(subjects, rule_named("original"))
    assert Counter(s.split for s in done) == {"train": 780, "validation": 111, "evaluation": 111, "test": 111}
    assert done == manifest.assign_splits(subjects, rule_named("original"), seed=5)


def test_a_group_that_the_original_split_would_tear_is_refused():
    with pytest.raises(ValueError, match="expected leakage group g in one split, found .* in .* and .* in "):
        manifest.assign_splits([local(f"s{i}", group="g") for i in range(20)], rule_named("original"))


def test_names_that_nothing_has_are_refused():
    with pytest.raises(ValueError, match="split rule: expected 'seeded' or 'original', found 'random'"):
        rule_named("random")
    with pytest.raises(ValueError, match="recipe: expected 'paper' or 'original', found 'mine'"):
        recipe_named("mine")


def test_the_original_recipe_scales_lr_by_its_own_maximum():
    """Of HR at a hundredth of 4095 LR is as bright as 1, and no data consistency holds."""
    hr = 40.95 * make_head()
    low, keep = recipe_named("original")(fixed_scale=4095.0).make_lr(hr, hr / 4095, (1, 2))
    assert low.max() == 1 and keep is None


# ---- HCP ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["Subject,Age,\n100206,26,\n\n100307,31,\n,,\n", "100206\n100307\n"])
def test_hcp_list(tmp_path, text):
    hcp_tree(tmp_path, "100206", "100307", lr=True)
    listed = write_csv(tmp_path, text)
    subjects = hcp_subjects(tmp_path, listed)
    assert [(s.id, s.axes, s.lr) for s in subjects] == [("100206", (1, 2), ""), ("100307", (1, 2), "")]
    assert subjects[0].member.endswith("100206/unprocessed/3T/T1w_MPR1/100206_3T_T1w_MPR1.nii.gz")
    assert hcp_subjects(tmp_path, listed, own_lr=True)[1].lr.endswith("T1w_MPR1/100307_LR.mat")


def test_bad_hcp(tmp_path):
    hcp_tree(tmp_path, "100206")
    with pytest.raises(FileNotFoundError, match=r"subject 1: expected .*1_3T.*, found no .*\(2 of 3 files"):
        hcp_subjects(tmp_path, write_csv(tmp_path, "100206\n1\n2\n"))
    with pytest.raises(FileNotFoundError, match="subject 100206: expected .*100206_LR.mat, found no"):
        hcp_subjects(tmp_path, write_csv(tmp_path, "100206\n"), own_lr=True)
    with pytest.raises(ValueError, match="subject 100206: list .*heads.csv: .* once, found it 2 times"):
        hcp_subjects(tmp_path, write_csv(tmp_path, "100206\n100206\n"))
    with pytest.raises(ValueError, match="subject x7: list .*heads.csv: .* id of digits, found 'x7'"):
        hcp_subjects(tmp_path, write_csv(tmp_path, "100206\nx7\n"))
    with pytest.raises(ValueError, match="heads.csv: expected subject ids in the first column, found none"):
        hcp_subjects(tmp_path, write_csv(tmp_path, "Subject,\n,\n"))
    with pytest.raises(FileNotFoundError, match="none.csv: expected a CSV file, found none"):
        hcp_subjects(tmp_path, tmp_path / "none.csv")
