import functools
import math

import numpy as np
import pytest
import torch
from test_networks import trained  # noqa: F401  (a fixture)
from torch import nn

from sprl_utils.comparison import bench
from sprl_utils.extras.streaming import SLABS
from sprl_utils.inference import (
    BYTES_PER_VOXEL,
    ENGINES,
    OVERHEAD_GIB,
    default_engine,
    grow,
    plan_tiles,
    shrink,
    super_resolve,
    tiles,
    within,
)
from sprl_utils.networks import Generator


def gib(engine: str, voxels: int) -> float:
    """The memory bound that allows tiles of so many voxels, or columns of so many voxels per plane."""
    return OVERHEAD_GIB + voxels * {"tiles": BYTES_PER_VOXEL, "stream": SLABS[-1][1]}[engine] / 2**30


@pytest.mark.parametrize("shape", [(25, 43, 38), (1, 7, 60), (40, 20, 33)])
def test_an_identity_network_returns_its_input_exactly(shape):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for bound in (1.0, gib("tiles", 37**3)):
        np.testing.assert_array_equal(super_resolve(volume, nn.Identity(), memory_gib=bound), volume)
    for bound in (1.0, gib("stream", 1450)):
        generator = Generator(init="identity")
        np.testing.assert_array_equal(super_resolve(volume, generator, memory_gib=bound), volume)


@pytest.mark.parametrize(
    "engine, shape, voxels",
    [
        ("tiles", (30, 47, 41), 30 * 45 * 41),  # two tiles
        ("tiles", (9, 1, 8), 10**6),
        ("stream", (30, 47, 41), 45 * 41),  # two columns
        ("stream", (9, 1, 8), 10**6),
    ],
)
def test_every_engine_gives_what_one_pass_over_the_volume_gives(engine, shape, voxels, trained):  # noqa: F811
    volume = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    with torch.no_grad():
        whole = trained(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    merged = super_resolve(volume, trained, engine, memory_gib=gib(engine, voxels))
    scale = np.abs(whole).max()  # this fixture's weights blow intensities up; 1e-4 is meant for images near 1
    np.testing.assert_allclose(merged / scale, whole / scale, atol=1e-4)


def test_the_original_projects_halo_leaves_seams(trained):  # noqa: F811
    volume = np.random.default_rng(1).uniform(size=(20, 30, 41)).astype(np.float32)
    whole = super_resolve(volume, trained, "tiles")
    memory = gib("tiles", 20 * 30 * 30)
    narrow = super_resolve(volume, trained, functools.partial(tiles, halo=3), memory)
    assert np.abs(narrow - whole).max() > 1e-3 * np.abs(whole).max()


@pytest.mark.parametrize("engine", ENGINES)
def test_air_is_copied_and_the_head_is_as_without_skipping(engine, trained):  # noqa: F811
    volume = np.random.default_rng(2).uniform(size=(40, 38, 35)).astype(np.float32)
    foreground = np.zeros(volume.shape, bool)
    foreground[10:20, 15:30, 5:12] = foreground[12, 2, 30] = True
    full = super_resolve(volume, trained, engine)
    skipped = super_resolve(volume, trained, engine, foreground=foreground)
    scale = np.abs(full).max()
    np.testing.assert_allclose(skipped[foreground] / scale, full[foreground] / scale, atol=1e-4)
    np.testing.assert_array_equal(skipped[~foreground], volume[~foreground])
    nothing = super_resolve(volume, trained, engine, foreground=np.zeros_like(foreground))
    np.testing.assert_array_equal(nothing, volume)


@pytest.mark.parametrize("engine", ENGINES)
def test_too_little_memory_is_said(engine):
    with pytest.raises(ValueError, match="needs tiles of more than the 3 voxels allowed"):
        super_resolve(np.ones((5, 50, 50)), Generator(), engine, memory_gib=gib(engine, 3))
    with pytest.raises(ValueError, match="expected more than 0.5 GiB, found 0.5"):
        super_resolve(np.ones((5, 50, 50)), Generator(), engine, memory_gib=0.5)


def test_the_paper_s_generator_is_streamed_and_other_networks_are_tiled():
    assert default_engine(Generator()) is ENGINES["stream"]
    assert default_engine(nn.Identity()) is tiles
    with pytest.raises(ValueError, match="engine must be one of .*'tiles'.*found 'magic'"):
        super_resolve(np.ones((4, 4, 4)), nn.Identity(), "magic")


def test_the_process_grows_by_no_more_than_the_bound(tmp_path):
    def peak(shape: tuple[int, int, int], bound: float) -> float:
        np.save(tmp_path / "lr.npy", np.ones(shape, np.float32))
        np.save(tmp_path / "head.npy", np.ones(shape, bool))
        facts = {"folder": str(tmp_path), "memory_gib": bound}
        return bench.measure("inference", "ours", repeats=1, warmup=0, **facts)["peak_gib"]

    small = peak((2, 8, 8), 1.0)
    for bound in (0.8, 1.2):  # columns, whole planes
        assert small < peak((24, 128, 128), bound) < small + bound


def test_training_mode_is_left_as_it_was():
    generator = Generator(init="identity").train()
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    super_resolve(np.random.default_rng(0).uniform(size=(9, 9, 9)), generator)
    assert generator.training
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())


@pytest.mark.parametrize(
    "volume, expected",
    [
        (np.ones((4, 4)), r"three axes, found shape \(4, 4\)"),
        (np.full((4, 4, 4), np.nan), "found NaN or Inf"),
        (np.full((4, 4, 4), np.inf), "found NaN or Inf"),
    ],
)
def test_a_bad_volume_is_refused(volume, expected):
    with pytest.raises(ValueError, match=expected):
        super_resolve(volume, nn.Identity())


def test_a_foreground_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected shape \(4, 4, 4\), found \(4, 4, 5\)"):
        super_resolve(np.ones((4, 4, 4)), nn.Identity(), foreground=np.ones((4, 4, 5), bool))


def test_tiles_of_a_small_square():
    low, high, all_ = slice(0, 2), slice(2, 4), slice(0, 1)
    boxes = plan_tiles((4, 4, 1), halo=1, max_voxels=9)
    assert boxes == [(low, low, all_), (low, high, all_), (high, low, all_), (high, high, all_)]
    assert grow(boxes[0], 1, (4, 4, 1)) == (slice(0, 3), slice(0, 3), all_)
    assert grow(boxes[3], 1, (4, 4, 1)) == (slice(1, 4), slice(1, 4), all_)
    assert within(boxes[3], grow(boxes[3], 1, (4, 4, 1))) == (slice(1, 3), slice(1, 3), all_)


@pytest.mark.parametrize("shape", [(181, 217, 181), (256, 320, 320), (5, 90, 33), (1, 1, 1)])
def test_a_plan_covers_each_voxel_once_within_its_bound(shape):
    hits = np.zeros(shape, np.uint8)
    for box in plan_tiles(shape, halo=17, max_voxels=300_000):
        hits[box] += 1
        assert math.prod(s.stop - s.start for s in grow(box, 17, shape)) <= 300_000
    assert (hits == 1).all()


def test_a_plan_without_a_bound_is_one_tile():
    assert plan_tiles((50, 60, 70), 17, 50 * 60 * 70) == [(slice(0, 50), slice(0, 60), slice(0, 70))]


def test_too_little_memory_for_any_tile_is_said():
    with pytest.raises(
        ValueError, match=r"\(100, 100, 100\) with a halo of 17 needs tiles of more than the 100 voxels"
    ):
        plan_tiles((100, 100, 100), halo=17, max_voxels=100)


def test_a_tile_shrinks_to_what_it_holds():
    wanted = np.zeros((10, 10, 10), bool)
    wanted[6:8, 2:9, 5] = True
    assert shrink([(slice(5, 10),) * 3, (slice(0, 4),) * 3], wanted) == [
        (slice(6, 8), slice(5, 9), slice(5, 6))
    ]
