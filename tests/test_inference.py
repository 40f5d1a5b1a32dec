import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from test_networks import trained  # noqa: F401  (a fixture)
from torch import nn

from sprl_utils import inference
from sprl_utils.comparison import bench
from sprl_utils.extras import compiled, planes
from sprl_utils.inference import BYTES_PER_VOXEL, ENGINES, OVERHEAD_GIB, choose_engine, super_resolve
from sprl_utils.networks import EDSR, MODELS, Generator, cpu_multiplies_bf16, make_generator
from sprl_utils.provenance import repo_root
from sprl_utils.tiles import grow, halo_and_step, plan_tiles, same_size, shrink, within

FP32 = torch.float32
FIXED, EACH = planes.BYTES[FP32]


def gib(engine: str, voxels: int) -> float:
    """The memory bound that allows tiles of so many voxels, or columns of so many voxels per plane."""
    size = {"torch": BYTES_PER_VOXEL, "openvino": FIXED + planes.FEWEST * EACH}[engine]
    return OVERHEAD_GIB + voxels * size / 2**30


def one_pass(network: nn.Module, volume: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return network.eval()(torch.from_numpy(volume)[None, None])[0, 0].numpy()


def close(found: np.ndarray, expected: np.ndarray, atol: float = 1e-4) -> None:
    scale = np.abs(expected).max()  # these weights blow intensities up; 1e-4 is meant for images near 1
    np.testing.assert_allclose(found / scale, expected / scale, atol=atol)


@pytest.mark.parametrize("shape", [(25, 43, 38), (1, 7, 60), (40, 20, 33)])
def test_an_identity_network_returns_its_input_exactly(shape):
    volume = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for engine, voxels in (("torch", 37**3), ("openvino", 1450), ("openvino", 10**4)):
        network = nn.Identity() if engine == "torch" else Generator(init="identity")
        found = super_resolve(volume, network, engine, memory_gib=gib(engine, voxels))
        np.testing.assert_array_equal(found, volume)


def test_what_a_mirrored_volume_shows_otherwise_is_averaged():
    """A network that shifts images by a voxel: mirrored, the other way."""
    shift = nn.Conv3d(1, 1, 3, padding=1, bias=False)
    nn.init.zeros_(shift.weight)
    shift.weight.data[0, 0, 1, 1, 0] = 1
    point = np.zeros((5, 7, 9), np.float32)
    point[2, 3, 4] = 1
    both_ways = np.zeros_like(point)
    both_ways[2, 3, [3, 5]] = 0.5
    np.testing.assert_array_equal(inference.self_ensemble(point, shift, axes=(1, 2)), both_ways)
    np.testing.assert_array_equal(inference.self_ensemble(point, shift, axes=()), super_resolve(point, shift))
    head = np.zeros(point.shape, bool)
    head[:, :, :5] = True
    np.testing.assert_array_equal(
        inference.self_ensemble(point, shift, axes=(2,), foreground=head), both_ways * head
    )


@pytest.mark.parametrize(
    "engine, shape, voxels",
    [
        ("torch", (30, 47, 41), 30 * 45 * 41),  # two tiles
        ("torch", (9, 1, 8), 10**6),
        ("openvino", (30, 47, 41), 45 * 41),  # two columns
        ("openvino", (41, 30, 31), 30 * 31),  # planes, in more than one step
        ("openvino", (30, 47, 41), 10**5),  # in one piece
        ("openvino", (9, 1, 8), 10**5),
        ("openvino", (1, 5, 3), 10**5),
    ],
)
def test_every_engine_gives_what_one_pass_over_the_volume_gives(engine, shape, voxels, trained):  # noqa: F811
    volume = np.random.default_rng(1).uniform(size=shape).astype(np.float32)
    close(super_resolve(volume, trained, engine, memory_gib=gib(engine, voxels)), one_pass(trained, volume))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_subclass_of_the_generator_computes_what_it_says(engine, trained):  # noqa: F811
    class Doubled(Generator):
        def forward(self, x):
            return 2 * super().forward(x)

    doubled = Doubled()
    doubled.load_state_dict(trained.state_dict())
    volume = np.random.default_rng(1).uniform(size=(9, 10, 11)).astype(np.float32)
    close(super_resolve(volume, doubled.eval(), engine), 2 * one_pass(trained, volume))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("engine", ENGINES)
def test_every_network_runs_over_tiles_as_in_one_pass(engine, model):
    network = make_generator(model)
    width = 2 * halo_and_step(network)[0][2] + 67
    volume = np.random.default_rng(1).uniform(size=(5, 6, width)).astype(np.float32)
    share = compiled.SHARE[FP32] if engine == "openvino" else 1
    size = getattr(network, "bytes_per_voxel", BYTES_PER_VOXEL) * share
    bound = OVERHEAD_GIB + 5 * 6 * (width - 2) * size / 2**30  # two tiles
    close(super_resolve(volume, network, engine, memory_gib=bound), one_pass(network, volume))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shape, tiles", [((9, 60, 32), 4), ((10, 61, 33), 4), ((2, 29, 4), 1)])
def test_tiles_begin_on_the_grid_of_a_network(engine, shape, tiles):
    torch.manual_seed(0)
    network, rng = EDSR((1, 3, 2), width=4, blocks=1), np.random.default_rng(1)
    volume = rng.uniform(size=shape).astype(np.float32)
    whole, wanted = one_pass(network, volume), np.zeros(shape, bool)
    for share in range(1, tiles + 1):
        size = network.bytes_per_voxel * (compiled.SHARE[FP32] if engine == "openvino" else 1)
        bound = OVERHEAD_GIB + volume.size / share**0.5 * size / 2**30 + 1e-6
        close(super_resolve(volume, network, engine, bound), whole)
        wanted[1, 13:17, 3] = wanted[0, 5, 1] = True
        close(super_resolve(volume, network, engine, bound, wanted)[wanted], whole[wanted])


@pytest.mark.parametrize("engine, voxels", [("torch", 10**5), ("openvino", 10**5), ("openvino", 1400)])
def test_air_is_copied_and_the_head_is_as_without_skipping(engine, voxels, trained, monkeypatch):  # noqa: F811
    monkeypatch.setattr(planes, "CHANGE_PLANES", 0)  # as many boxes as can be
    monkeypatch.setattr(planes, "CHANGE_VOXELS", 0)
    volume = np.random.default_rng(2).uniform(size=(60, 38, 35)).astype(np.float32)
    foreground = np.zeros(volume.shape, bool)
    foreground[10:20, 15:30, 5:12] = foreground[12, 2, 30] = foreground[55, 37, 0] = True
    bound, full = gib(engine, voxels), one_pass(trained, volume)
    skipped = super_resolve(volume, trained, engine, bound, foreground)
    scale = np.abs(full).max()
    np.testing.assert_allclose(skipped[foreground] / scale, full[foreground] / scale, atol=1e-4)
    np.testing.assert_array_equal(skipped[~foreground], volume[~foreground])
    nothing = super_resolve(volume, trained, engine, bound, np.zeros_like(foreground))
    np.testing.assert_array_equal(nothing, volume)


def test_boxes_of_a_stream_reach_as_far_as_the_network_sees(monkeypatch):
    monkeypatch.setattr(planes, "CHANGE_PLANES", 0)
    monkeypatch.setattr(planes, "CHANGE_VOXELS", 0)
    mask = np.zeros((60, 100, 90), bool)
    mask[4, 10, 45] = mask[40, 50, 45] = True
    near, far = (slice(0, 27), slice(29, 62)), (slice(34, 67), slice(29, 62))
    # planes 4 and 40 are made of those up to 16 planes away, and come out 16 planes after they went in
    assert planes.plan_steps(mask, lag=16, planes=8) == [
        (0, near), (8, near), (16, near), (24, far), (32, far), (40, far), (48, far), (56, far)
    ]  # fmt: skip
    # `far` has more voxels than there is memory for a graph that is given what another one remembers
    both = (slice(0, 67), slice(29, 62))
    assert {str(box) for _, box in planes.plan_steps(mask, 16, 8, largest=33 * 33 - 1)} == {str(both)}
    monkeypatch.setattr(planes, "CHANGE_VOXELS", 10**9)
    assert len({(box[0].start, box[1].start) for _, box in planes.plan_steps(mask, 16, 8)}) == 1


def test_other_widths_and_depths_stream_as_well():
    torch.manual_seed(1)
    volume = np.random.default_rng(1).uniform(size=(13, 6, 7)).astype(np.float32)
    for blocks, units in ((1, 2), (3, 1), (2, 5)):
        generator = Generator(growth_rate=4, blocks=blocks, units=units).eval()
        with torch.no_grad():
            found = planes.in_planes(volume, generator, volume >= 0, 2e7, FP32, iter)
        close(found, one_pass(generator, volume))


def test_weights_that_changed_are_compiled_anew(trained):  # noqa: F811
    volume = np.random.default_rng(2).uniform(size=(6, 7, 8)).astype(np.float32)
    close(super_resolve(volume, trained, "openvino"), one_pass(trained, volume))
    kept = len(compiled.GRAPHS)
    super_resolve(volume, trained, "openvino")
    assert len(compiled.GRAPHS) == kept
    with torch.no_grad():
        trained.block3.denselayer4.conv.weight *= 2
    close(super_resolve(volume, trained, "openvino"), one_pass(trained, volume))


@pytest.mark.skipif(not cpu_multiplies_bf16(), reason="this CPU does not multiply bfloat16")
@pytest.mark.parametrize("voxels", [10**5, 1450])
def test_bfloat16_stays_near_float32(voxels, trained):  # noqa: F811
    volume = np.random.default_rng(1).uniform(size=(30, 47, 41)).astype(np.float32)
    found = super_resolve(volume, trained, "openvino", gib("openvino", voxels), dtype=torch.bfloat16)
    whole = one_pass(trained, volume)
    assert 0 < np.linalg.norm(found - whole) / np.linalg.norm(whole) < 0.01  # 8 bits: 0.4 % a rounding


@pytest.mark.parametrize("engine, network", [("torch", Generator()), ("openvino", Generator())])
def test_too_little_memory_is_said(engine, network):
    with pytest.raises(ValueError, match="needs tiles of more than the 3 voxels allowed"):
        super_resolve(np.ones((50, 50, 50)), network, engine, memory_gib=gib(engine, 3))
    with pytest.raises(ValueError, match="expected more than 0.5 GiB, found 0.5"):
        super_resolve(np.ones((5, 50, 50)), network, engine, memory_gib=0.5)


def test_the_compiler_is_taken_on_a_cpu_where_it_is_installed(monkeypatch):
    assert choose_engine("auto", Generator()) == "openvino"
    assert choose_engine("auto", Generator().to("meta")) == "torch"
    with pytest.raises(ValueError, match="engine must be 'auto' or one of .*'torch'.*found 'magic'"):
        super_resolve(np.ones((4, 4, 4)), nn.Identity(), "magic")
    monkeypatch.setattr(inference, "openvino_is_installed", lambda: False)
    assert choose_engine("auto", Generator()) == "torch"
    with pytest.raises(ValueError, match="expected the package openvino, found none; ask for torch"):
        super_resolve(np.ones((4, 4, 4)), Generator(), "openvino")


def test_the_compiler_sends_nothing(tmp_path):
    code = """
import socket
def refuse(*args): raise AssertionError("a connection")
socket.socket.connect = socket.create_connection = refuse
import numpy as np
from sprl_utils.inference import super_resolve
from sprl_utils.comparison.networks import FSRCNN3d
super_resolve(np.ones((4, 4, 4)), FSRCNN3d(), "openvino")
"""
    environment = os.environ | {"HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=repo_root())
    assert not any(tmp_path.iterdir())  # it keeps its consent and a number of the machine there


def test_the_process_grows_by_no_more_than_the_bound(tmp_path):
    def peak(shape: tuple[int, int, int], bound: float) -> float:
        np.save(tmp_path / "lr.npy", np.ones(shape, np.float32))
        np.save(tmp_path / "head.npy", np.ones(shape, bool))
        facts = {"folder": str(tmp_path), "memory_gib": bound}
        return bench.measure("inference", "ours", repeats=1, warmup=0, **facts)["peak_gib"]

    small = peak((2, 8, 8), 1.0)
    for bound in (0.9, 1.2):  # columns, in one piece
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


def test_tiles_of_one_size_move_into_the_volume():
    boxes = [(slice(0, 4), slice(0, 2)), (slice(4, 9), slice(5, 6))]
    assert same_size(boxes, (9, 6), (1, 1)) == [(slice(0, 5), slice(0, 2)), (slice(4, 9), slice(4, 6))]
    # on a grid of 2 voxels, where the volume's last cell is cut off
    assert same_size([(slice(0, 4),), (slice(8, 9),)], (9,), (2,)) == [(slice(0, 4),), (slice(6, 9),)]
