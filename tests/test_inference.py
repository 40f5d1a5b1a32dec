import numpy as np
import pytest
import torch
from test_networks import trained  # noqa: F401  (a fixture)
from torch import nn

from sprl_utils.comparison import bench
from sprl_utils.inference import BYTES_PER_VOXEL, OVERHEAD_GIB, SLABS, super_resolve
from sprl_utils.networks import Generator


def gib(voxels: int) -> float:
    """The memory bound that allows tiles of so many voxels."""
    return OVERHEAD_GIB + voxels * BYTES_PER_VOXEL / 2**30


def gib_of_plane(voxels: int) -> float:
    """The memory bound that allows columns of so many voxels a plane."""
    return OVERHEAD_GIB + voxels * SLABS[-1][1] / 2**30


@pytest.mark.parametrize("shape", [(25, 43, 38), (1, 7, 60), (40, 20, 33)])
def test_an_identity_network_returns_its_input_exactly(shape):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for bound in (1.0, gib(37**3)):
        np.testing.assert_array_equal(super_resolve(volume, nn.Identity(), memory_gib=bound), volume)
    for bound in (1.0, gib_of_plane(1450)):
        generator = Generator(init="identity")
        np.testing.assert_array_equal(super_resolve(volume, generator, memory_gib=bound), volume)


def test_columns_and_tiles_merge_to_the_untiled_volume(trained):  # noqa: F811
    volume = np.random.default_rng(1).uniform(size=(30, 47, 51)).astype(np.float32)
    with torch.no_grad():
        whole = trained(torch.from_numpy(volume)[None, None])[0, 0].numpy()
    scale = np.abs(whole).max()  # this fixture's weights blow intensities up; 1e-4 is meant for images near 1
    for how in (
        {"memory_gib": gib_of_plane(40 * 51)},  # two columns
        {"memory_gib": 1.0},
        {"halo": 17, "memory_gib": gib(30 * 45 * 51)},
        {"halo": 19, "memory_gib": gib(30 * 47 * 51)},
    ):
        merged = super_resolve(volume, trained, **how)
        np.testing.assert_allclose(merged / scale, whole / scale, atol=1e-4)
    seams = np.abs(super_resolve(volume, trained, halo=3, memory_gib=gib(30 * 30 * 51)) - whole) / scale
    assert seams.max() > 1e-3  # the original project's margin


def test_air_is_copied_and_the_head_is_as_without_skipping(trained):  # noqa: F811
    volume = np.random.default_rng(2).uniform(size=(40, 38, 35)).astype(np.float32)
    foreground = np.zeros(volume.shape, bool)
    foreground[10:20, 15:30, 5:12] = foreground[12, 2, 30] = True
    for halo in (None, 17):
        full = super_resolve(volume, trained, halo=halo)
        skipped = super_resolve(volume, trained, halo=halo, foreground=foreground)
        scale = np.abs(full).max()
        np.testing.assert_allclose(skipped[foreground] / scale, full[foreground] / scale, atol=1e-4)
        np.testing.assert_array_equal(skipped[~foreground], volume[~foreground])
        nothing = super_resolve(volume, trained, halo=halo, foreground=np.zeros_like(foreground))
        np.testing.assert_array_equal(nothing, volume)


def test_too_little_memory_is_said(trained):  # noqa: F811
    with pytest.raises(ValueError, match="needs tiles of more than the 3 voxels allowed"):
        super_resolve(np.ones((5, 50, 50)), trained, memory_gib=gib_of_plane(3))
    with pytest.raises(ValueError, match="expected more than 0.5 GiB, found 0.5"):
        super_resolve(np.ones((5, 50, 50)), trained, memory_gib=0.5)


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
