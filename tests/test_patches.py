import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_head, write_prepared

from sprl_utils.patches import RandomPatches, batch


def test_a_patch_is_what_stands_at_its_place(heads):
    """Voxels hold their own index, so a patch tells where it was cut."""
    subject = heads["train"]
    index = np.arange(subject.hr.size, dtype=np.float32).reshape(subject.hr.shape)
    np.save(subject.folder / "hr.npy", index)
    np.save(subject.folder / "lr.npy", index + 0.5)
    for i in range(20):
        lr, hr = RandomPatches([subject], 8, seed=3, flips=False).patch(i)
        x, y, z = np.unravel_index(int(hr[0, 0, 0]), index.shape)
        np.testing.assert_array_equal(hr, index[x : x + 8, y : y + 8, z : z + 8])
        np.testing.assert_array_equal(lr, hr + 0.5)


def test_patches_meet_the_foreground(heads):
    patches = RandomPatches([heads["train"]], 8, seed=0)
    assert all(patches.patch(i)[1].max() > 0.1 for i in range(50))


def test_flips_turn_lr_and_hr_together(heads):
    plain, flipped = (RandomPatches([heads["train"]], 8, seed=0, flips=f) for f in (False, True))
    turned = set()
    for i in range(64):
        (lr, hr), (lr_flip, hr_flip) = plain.patch(i), flipped.patch(i)
        fits = [
            axes
            for axes in [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]
            if np.array_equal(np.flip(hr, axes), hr_flip) and np.array_equal(np.flip(lr, axes), lr_flip)
        ]
        assert fits
        turned.update(fits)
    assert len(turned) == 8


def test_the_axes_that_were_cut_come_last(tmp_path):
    """Along an axis that was cut neighbouring voxels differ less: here, on the last two of the patch."""
    noise = np.random.default_rng(0).normal(5, 1, (40, 40, 40)).astype(np.float32)
    subject = write_prepared(tmp_path, "turned", "train", noise, keep=(0.25, 0.25, None))
    assert subject.order == (2, 0, 1)
    voxel = np.array([3, 5, 7, 1])  # the same voxel as an index of the turned volume: one place in the world
    turned = [*voxel[list(subject.order)], 1]
    np.testing.assert_array_equal(subject.turned_affine @ turned, np.array(subject.meta["affine"]) @ voxel)
    lr, hr = RandomPatches([subject], (8, 16, 16), seed=0).patch(0)
    assert lr.shape == hr.shape == (8, 16, 16)
    rough = [np.diff(lr, axis=axis).std() / lr.std() for axis in range(3)]
    assert rough[0] > 1.2 and max(rough[1:]) < 0.8
    with pytest.raises(ValueError, match="swap expects equal edges"):
        RandomPatches([subject], (8, 16, 8), seed=0, swap=True)


def test_swapped_and_scaled_patches_are_the_plain_ones_turned_and_multiplied(heads):
    plain, changed = (
        RandomPatches([heads["train"]], 8, seed=0, swap=s, gain=g) for s, g in ((False, 0), (True, 0.3))
    )
    swapped = 0
    for i in range(32):
        (lr, hr), (lr_changed, hr_changed) = plain.patch(i), changed.patch(i)
        factor = hr_changed.sum() / hr.sum()
        assert np.exp(-0.3) <= factor <= np.exp(0.3)
        is_swapped = not np.allclose(lr_changed, lr * factor, atol=1e-5)  # HR may be flat
        swapped += is_swapped
        for found, expected in ((lr_changed, lr), (hr_changed, hr)):
            expected = expected.swapaxes(1, 2) if is_swapped else expected
            np.testing.assert_allclose(found, expected * factor, atol=1e-5)
    assert 8 < swapped < 24


def test_a_head_is_drawn_as_often_as_the_manifest_says(tmp_path):
    rare, often = (write_prepared(tmp_path, name, "train", make_head()) for name in ("rare", "often"))
    often.meta["draw"] = 3.0
    patches = RandomPatches([rare, often], 8, seed=0)
    drawn = np.mean([patches.subject(i) is often for i in range(1000)])
    assert 0.70 < drawn < 0.80  # 3 of 4, within three SD and more


def test_processes_share_out_the_patches_of_one(heads):
    patches = RandomPatches(list(heads.values()), 8, seed=5)
    whole = batch(patches, step=7, batch_size=4)[1]
    parts = [batch(patches, step=7, batch_size=2, rank=r, world=2)[1] for r in range(2)]
    assert whole.shape == (4, 1, 8, 8, 8)
    np.testing.assert_array_equal(whole[:2], parts[0])
    np.testing.assert_array_equal(whole[2:], parts[1])


def test_a_volume_smaller_than_a_patch_is_refused(tmp_path):
    small = write_prepared(tmp_path, "tiny", "train", make_head((7, 20, 20)))
    with pytest.raises(
        ValueError, match=r"tiny: .*tiny: expected .* at least \[8, 8, 8\] voxels .* found \[7, 20, 20\]"
    ):
        RandomPatches([small], 8, seed=0)
    with pytest.raises(ValueError, match="at least one prepared subject"):
        RandomPatches([], 8, seed=0)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux which files are mapped")
def test_no_subject_stays_in_memory_after_a_patch(tmp_path):
    subjects = [write_prepared(tmp_path, f"subject{i}", "train", make_head((20, 24, 22))) for i in range(3)]
    held = subjects[0].hr
    assert re.search(r"subject0/hr\.npy", Path("/proc/self/maps").read_text())  # it would be seen
    del held
    for step in range(5):
        lr, hr = batch(RandomPatches(subjects, 16, seed=0), step, 2)
        assert lr.shape == hr.shape == (2, 1, 16, 16, 16)
    assert not re.search(r"subject\d/\w+\.npy", Path("/proc/self/maps").read_text())
