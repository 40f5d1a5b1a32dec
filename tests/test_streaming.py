import numpy as np
import pytest
import torch
from test_networks import trained  # noqa: F401  (a fixture)

from sprl_utils.extras import streaming
from sprl_utils.extras.streaming import Needed, PlaneStream
from sprl_utils.networks import Generator


def run(generator: Generator, volume: torch.Tensor, mask: np.ndarray, planes: int, **kwargs) -> torch.Tensor:
    """All planes of a stream; a plane that never comes stays NaN."""
    stream = PlaneStream(generator, volume, mask, planes, **kwargs)
    out = torch.full(volume.shape, float("nan"))
    with torch.inference_mode():
        for step in stream.steps:
            first, done = stream.push(step)
            assert len(done) <= planes
            assert torch.isnan(out[first : first + len(done)]).all()  # each plane comes once
            out[first : first + len(done)] = done
    return out


@pytest.mark.parametrize(
    "shape, planes",
    [((19, 8, 9), 1), ((20, 7, 6), 8), ((9, 10, 5), 3), ((1, 6, 6), 4), ((2, 1, 9), 2), ((6, 5, 5), 40)],
)
def test_a_stream_gives_what_one_pass_over_the_volume_gives(trained, shape, planes):  # noqa: F811
    volume = torch.rand(shape)
    with torch.no_grad():
        whole = trained(volume[None, None])[0, 0]
    streamed = run(trained, volume, np.ones(shape, bool), planes)
    torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5 * whole.abs().max().item())


def test_only_what_the_mask_needs_is_right_and_it_is(trained):  # noqa: F811
    volume = torch.rand(30, 40, 41)
    mask = np.zeros(volume.shape, bool)
    mask[2:5, 3:5, 20:41] = mask[20:22, 30:33, 0:2] = True
    with torch.no_grad():
        whole = trained(volume[None, None])[0, 0]
    streamed = run(trained, volume, mask, 4)
    torch.testing.assert_close(streamed[mask], whole[mask], rtol=0, atol=1e-5 * whole.abs().max().item())
    assert (streamed - whole).abs().max() > 1e-3 * whole.abs().max()  # else nothing was saved


def test_other_widths_and_depths_stream_as_well():
    torch.manual_seed(1)
    for blocks, units in ((1, 2), (3, 1), (2, 5)):
        generator = Generator(growth_rate=4, blocks=blocks, units=units).eval()
        volume = torch.rand(11, 6, 7)
        with torch.no_grad():
            whole = generator(volume[None, None])[0, 0]
        streamed = run(generator, volume, np.ones(volume.shape, bool), 3)
        torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5 * whole.abs().max().item())


def test_bfloat16_units_stay_near_float32(trained):  # noqa: F811
    volume = torch.rand(6, 7, 5)
    with torch.no_grad():
        whole = trained(volume[None, None])[0, 0]
    streamed = run(trained, volume, np.ones(volume.shape, bool), 4, dtype=torch.bfloat16)
    assert 0 < (streamed - whole).norm() / whole.norm() < 0.01  # bfloat16 has 8 bits: 0.4 % a rounding


def test_a_box_grows_by_one_voxel_for_each_conv_to_come(monkeypatch):
    monkeypatch.setattr(streaming, "STEP", 1)
    mask = np.zeros((9, 20, 30), bool)
    mask[4, 10, 15] = True
    needed = Needed(mask)
    assert needed.box(4, 5, 0) == (slice(10, 11), slice(15, 16))
    assert needed.box(2, 4, 0) is None
    assert needed.box(2, 3, 2) == (slice(8, 13), slice(13, 18))
    assert needed.box(0, 9, 12) == (slice(0, 20), slice(3, 28))
    monkeypatch.setattr(streaming, "STEP", 8)
    assert needed.box(2, 3, 2) == (slice(8, 16), slice(8, 24))
    assert needed.box(0, 9, 12) == (slice(0, 20), slice(0, 30))


@pytest.mark.parametrize("shape", [(1, 8, 3, 4, 5), (1, 1, 4, 6, 6), (1, 32, 6, 40, 40)])
def test_conv3d_is_torchs_whatever_way_it_takes(shape):
    x = torch.rand(shape).contiguous(memory_format=torch.channels_last_3d)
    weight = torch.rand(16, shape[1], 3, 3, 3)
    expected = torch.nn.functional.conv3d(x.double(), weight.double(), padding=(0, 1, 1)).float()
    found = streaming.conv3d(x, weight, padding=(0, 1, 1))
    rounding = weight[0].numel() * torch.finfo(torch.float32).eps  # of a sum of so many terms, at worst
    torch.testing.assert_close(found, expected, rtol=0, atol=rounding * expected.max().item())
