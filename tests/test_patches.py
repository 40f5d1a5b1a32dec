import math
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import make_head, write_prepared

from sprl_utils.patches import (
    GridPatches,
    RandomPatches,
    Tile,
    batch,
    grid_corners,
    make_tiles,
    plan_tiles,
    shrink,
    stitch,
)


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


def test_processes_share_out_the_patches_of_one(heads):
    patches = RandomPatches(list(heads.values()), 8, seed=5)
    whole = batch(patches, step=7, batch_size=4)[1]
    parts = [batch(patches, step=7, batch_size=2, rank=r, world=2)[1] for r in range(2)]
    assert whole.shape == (4, 1, 8, 8, 8)
    np.testing.assert_array_equal(whole[:2], parts[0])
    np.testing.assert_array_equal(whole[2:], parts[1])


def test_the_original_grid_is_100_cubes():
    corners = grid_corners((256, 320, 320), 64)
    assert len(corners) == 4 * 5 * 5
    assert corners[0] == (0, 0, 0) and corners[1] == (0, 0, 64) and corners[-1] == (192, 256, 256)


def test_an_epoch_of_the_grid_uses_its_share_once_and_never_what_is_left_out(tmp_path):
    """Each cube is filled with its own number."""
    hr = np.zeros((16, 16, 24), np.float32)
    for number, (x, y, z) in enumerate(grid_corners(hr.shape, 8)):
        hr[x : x + 8, y : y + 8, z : z + 8] = number
    subject = write_prepared(tmp_path, "numbered", "train", hr)
    patches = GridPatches([subject], 8, seed=1, usage=0.5, leave_out=[0, 3])
    assert patches.per_epoch == 5
    epochs = [[int(patches.patch(e * 5 + i)[1].max()) for i in range(5)] for e in range(6)]
    assert all(len(set(epoch)) == 5 for epoch in epochs)
    assert {n for epoch in epochs for n in epoch} == set(range(12)) - {0, 3}
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_a_volume_smaller_than_a_patch_is_refused(tmp_path):
    small = write_prepared(tmp_path, "tiny", "train", make_head((7, 20, 20)))
    for kind in (RandomPatches, GridPatches):
        with pytest.raises(
            ValueError, match=r"tiny: .*tiny: expected .* at least 8 voxels .* found \(7, 20, 20\)"
        ):
            kind([small], 8, seed=0)
    with pytest.raises(ValueError, match="at least one prepared subject"):
        RandomPatches([], 8, seed=0)


def test_bad_grid_settings_are_refused(heads):
    with pytest.raises(ValueError, match=r"usage must be a share in \(0, 1\], found 0"):
        GridPatches([heads["train"]], 8, seed=0, usage=0)
    with pytest.raises(ValueError, match="leave_out leaves no cube"):
        GridPatches([heads["train"]], 32, seed=0, leave_out=[0])


def test_tiles_of_a_small_square():
    tiles = make_tiles((4, 4, 1), (2, 2, 1), halo=1)
    low, high, all_ = slice(0, 2), slice(2, 4), slice(0, 1)
    assert [t.inner for t in tiles] == [
        (low, low, all_),
        (low, high, all_),
        (high, low, all_),
        (high, high, all_),
    ]
    assert tiles[0].outer == (slice(0, 3), slice(0, 3), all_)
    assert tiles[3].outer == (slice(1, 4), slice(1, 4), all_)
    assert tiles[3].crop == (slice(1, 3), slice(1, 3), all_)


def test_stitching_literal_numbers():
    """Each tile is multiplied by its number: the 4x4 square comes out in four quarters."""
    volume = np.ones((4, 4, 1), np.float32)
    tiles = make_tiles(volume.shape, (2, 2, 1), halo=1)
    merged = stitch(volume, tiles, lambda box, tile: box[tile.crop] * (tiles.index(tile) + 1))
    np.testing.assert_array_equal(merged[..., 0], [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]])


@pytest.mark.parametrize("shape", [(181, 217, 181), (256, 320, 320), (5, 90, 33), (1, 1, 1)])
def test_a_plan_covers_each_voxel_once_within_its_bound(shape):
    tiles = plan_tiles(shape, halo=17, max_voxels=300_000)
    hits = np.zeros(shape, np.uint8)
    for tile in tiles:
        hits[tile.inner] += 1
        assert math.prod(s.stop - s.start for s in tile.outer) <= 300_000
    assert (hits == 1).all()


def test_a_plan_without_a_bound_is_one_tile():
    assert len(plan_tiles((50, 60, 70), halo=17, max_voxels=50 * 60 * 70)) == 1


def test_too_little_memory_for_any_tile_is_said():
    with pytest.raises(
        ValueError, match=r"\(100, 100, 100\) with a halo of 17 needs tiles of more than the 100 voxels"
    ):
        plan_tiles((100, 100, 100), halo=17, max_voxels=100)


def test_a_tile_shrinks_to_what_it_holds():
    foreground = np.zeros((10, 10, 10), bool)
    foreground[6:8, 2:9, 5] = True
    tile = Tile((slice(3, 10),) * 3, (slice(5, 10),) * 3)
    assert shrink(tile, foreground, halo=2) == Tile(
        (slice(4, 10), slice(3, 10), slice(3, 8)), (slice(6, 8), slice(5, 9), slice(5, 6))
    )
    assert shrink(Tile((slice(0, 5),) * 3, (slice(0, 4),) * 3), foreground, halo=1) is None


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
