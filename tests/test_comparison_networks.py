import pytest
import torch

import sprl_utils.comparison.networks  # noqa: F401  registers the comparators
from sprl_utils import networks

COMPARATORS = {"DCSRN": 223_584, "SRResNet": 3_747_154, "FSRCNN": 65_065}


@pytest.mark.parametrize("init", ["identity", "edges"])
@pytest.mark.parametrize("model", COMPARATORS)
def test_comparators_start_as_the_identity_and_come_back_from_a_file(model, init, tmp_path):
    torch.manual_seed(0)
    generator = networks.make_generator(model, init).eval()
    assert networks.count_parameters(generator) == COMPARATORS[model]
    x = torch.rand(1, 1, 7, 8, 9)
    with torch.no_grad():
        torch.testing.assert_close(generator(x), x)
        noise = networks.make_generator(model).eval()
        networks.save_weights(noise, tmp_path / "weights.safetensors")
        again = networks.load_generator(tmp_path / "weights.safetensors")
        assert type(again) is type(noise)
        torch.testing.assert_close(again(x), noise(x))


@pytest.mark.parametrize("model", COMPARATORS)
def test_comparators_see_as_far_as_they_say(model):
    torch.manual_seed(0)
    generator = networks.make_generator(model).eval()
    radius = generator.receptive_radius
    x = torch.rand(1, 1, 2 * radius + 3, 1, 1, requires_grad=True)
    (gradient,) = torch.autograd.grad(generator(x)[0, 0, 0, 0, 0], x)  # exact 0 where nothing is seen
    seen = gradient[0, 0, :, 0, 0] != 0
    assert seen[radius] and not seen[radius + 1 :].any()


@pytest.mark.parametrize("model", networks.MODELS)
def test_reading_weights_draws_no_random_number(model, tmp_path):
    """Else a model that somebody adds would change every run that reads weights."""
    written = networks.make_generator(model)
    networks.save_weights(written, tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    read = networks.load_generator(tmp_path / "w.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    pairs = zip(written.state_dict().items(), read.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
    assert all(p.requires_grad and p.device.type == "cpu" for p in read.parameters())
