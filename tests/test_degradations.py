import numpy as np
from conftest import make_head, write_prepared

from sprl_utils.extras.degradations import AnyPatches, averaged, degrade


def test_means_of_blocks():
    row = np.arange(12, dtype=np.float32).reshape(1, 1, 12)
    assert averaged(row, (1, 1, 4)).ravel().tolist() == [1.5, 5.5, 9.5]


def test_a_cut_keeps_slow_waves_and_removes_fast_ones():
    """Cosines of an image and its mirror: of 40 samples on 40 voxels a factor of 4 keeps the first 10."""
    place = (np.arange(40) + 0.5) / 40
    slow, fast = (1 + 0.5 * np.cos(np.pi * k * place) for k in (9, 11))
    for wave, left in ((slow, slow), (fast, np.ones(40))):
        found = degrade(np.broadcast_to(wave, (3, 4, 40)).astype(np.float32), (1, 1, 4), thick=False)
        np.testing.assert_allclose(found, np.broadcast_to(left, (3, 4, 40)), atol=1e-5)


def test_thick_voxels_keep_the_mean_and_lose_what_alternates_within_them():
    row = 2 + (-1.0) ** np.arange(24)
    for factors, expected in (((1, 1, 2), 2.0), ((1, 1, 1), row)):
        found = degrade(np.broadcast_to(row, (3, 4, 24)).astype(np.float32), factors, thick=True)
        np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 4, 24)), atol=1e-5)


def test_patches_of_any_kind_are_pieces_of_the_head_and_its_lr(tmp_path):
    subject = write_prepared(tmp_path, "anna", "train", make_head((60, 52, 56)), keep=(None, None, None))
    patches = AnyPatches([subject], 16, seed=1)
    for i in range(24):
        lr, hr = patches.patch(i)
        again = patches.patch(i)
        assert all(np.array_equal(a, b) for a, b in zip((lr, hr), again, strict=True))
        assert lr.shape == hr.shape == (16, 16, 16)
        assert 0 < np.abs(lr - hr).mean() < 0.3 and abs(lr.mean() - hr.mean()) < 0.05

    rng = np.random.default_rng(0)
    factors = np.array([patches._factors(rng) for _ in range(200)])
    coarse = factors > 1
    assert set(coarse.sum(axis=1)) == {1, 2, 3} and coarse.any(axis=0).all()
    assert factors[coarse].min() >= 1.5 and factors.max() <= 5
