import os
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from sprl_utils import networks
from sprl_utils.networks import Discriminator, Generator, count_parameters, load_generator, save_weights


@pytest.fixture(scope="module")
def trained() -> Generator:
    """A generator with lively weights and BatchNorm statistics."""
    torch.manual_seed(0)
    generator = Generator()
    for module in generator.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return generator.eval()


def test_the_generator_has_the_papers_size():
    generator = Generator()
    assert count_parameters(generator) == 411_648
    assert generator.receptive_radius == 17
    assert not any(m.bias is not None for m in generator.modules() if isinstance(m, nn.Conv3d))
    assert round(networks.multiply_adds(generator, 64) / 1e9) == 107


def test_identity_start_is_the_identity_bit_for_bit():
    x = torch.randn(1, 1, 12, 7, 9)
    for init in ("identity", "edges"):
        for generator in (Generator(init=init).train(), Generator(init=init).eval()):
            assert torch.equal(generator(x), x)
    assert not torch.equal(Generator(init="kaiming")(x), x)


def test_started_from_edges_no_map_of_a_block_sees_brightness():
    generator = Generator(init="edges").eval()
    constant = torch.full((1, 1, 13, 13, 13), 0.7)  # its middle is four units from the zero padding
    with torch.no_grad():
        maps = generator.block0(generator.conv0(constant))[0, :, 6, 6, 6]
    width = generator.conv0.out_channels
    assert maps[0] == 0.7  # the delta passes the image on; all else answers changes alone
    assert maps[1:].abs().max() < 1e-5 and len(maps) > width


@pytest.mark.parametrize("model", ["EDSR", "EDSR_2x2"])
def test_edsr_takes_any_matrix_and_sees_as_far_as_it_says(model):
    torch.manual_seed(0)
    network = networks.make_generator(model).eval()
    radius = network.receptive_radius
    for shape in ((1, 1, 1), (5, 9, 7), (8, 8, 8)):
        assert network(torch.rand(1, 1, *shape)).shape == (1, 1, *shape)
    for axis, r in enumerate(radius):
        n = 2 * r + 8
        x = torch.rand(1, 1, *[n if a == axis else 1 for a in range(3)], requires_grad=True)
        (gradient,) = torch.autograd.grad(network(x).flatten()[0], x)
        seen = gradient.flatten().nonzero().max().item()
        assert seen <= r + network.reduction[axis] - 1  # to the end of the last coarse voxel


def test_edsr_has_the_size_of_its_layers_and_costs_a_sixteenth():
    network = networks.EDSR()
    width, phases = 64, 16
    convs = phases * width + 16 * width * width + width * phases
    assert count_parameters(network) == 27 * convs + 17 * width + phases
    assert networks.multiply_adds(network, 64) == 27 * convs * 64**3 // 16


@pytest.mark.parametrize("factors", [(1, 4, 4), (2, 2, 2), (3, 1, 2)])
def test_the_pixel_shuffle_is_undone_and_keeps_blocks_together(factors):
    x = torch.rand(2, 1, 6, 8, 8)
    maps = networks.unshuffle(x, factors)
    assert torch.equal(networks.shuffle(maps, factors), x)
    block = x[0, 0, : factors[0], : factors[1], : factors[2]]
    assert torch.equal(maps[0, :, 0, 0, 0], block.flatten())


def test_a_voxel_sees_17_voxels_and_no_further(trained):
    x = torch.randn(1, 1, 41, 41, 41, requires_grad=True)
    trained(x)[0, 0, 20, 20, 20].backward()
    seen = x.grad[0, 0].nonzero()
    assert seen.min().item() == 20 - 17 and seen.max().item() == 20 + 17


def test_the_discriminator_has_the_known_size():
    assert count_parameters(Discriminator(64, head="gap")) == 31_155_777


def test_both_heads_score_each_patch_on_its_own():
    for head in ("gap", "fc"):
        discriminator = Discriminator(16, head=head, width=4)
        x = torch.randn(3, 1, 16, 16, 16)
        with torch.no_grad():
            together, alone = discriminator(x), torch.cat([discriminator(x[i : i + 1]) for i in range(3)])
        assert together.shape == (3,)
        torch.testing.assert_close(together, alone)


def test_slope_one_makes_the_discriminator_blind_to_sign_up_to_its_layernorms():
    """The original project's LeakyReLU(1) is the identity: conv and LeakyReLU together are then linear."""
    first = Discriminator(16, negative_slope=1.0, width=4).features[:2]
    x, y = torch.randn(2, 1, 1, 16, 16, 16)
    with torch.no_grad():
        zero = first(torch.zeros_like(x))
        torch.testing.assert_close(
            first(x + y) - zero, (first(x) - zero) + (first(y) - zero), atol=1e-5, rtol=1e-4
        )


def test_gradients_on_an_edge_of_two_are_those_of_fp32():
    """oneDNN for AVX-512 with bfloat16 adds to memory it has not cleared; malloc fills such memory here."""
    code = """if True:
        import torch
        from sprl_utils.networks import Discriminator
        torch.manual_seed(0)
        discriminator, x = Discriminator(16, width=4), torch.rand(2, 1, 16, 16, 16)
        conv = discriminator.features[17]  # its input has an edge of 2
        gradients = []
        for rounded in (False, True, True, True):
            discriminator.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
                discriminator(x)[0].backward()
            gradients.append(conv.weight.grad.clone())
        for gradient in gradients[1:]:
            assert (gradient - gradients[0]).norm() < 0.1 * gradients[0].norm(), gradient
    """
    filled = {"MALLOC_PERTURB_": "128", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=os.environ | filled, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("wrong", [{"patch_size": 24}, {"patch_size": 8}, {"head": "max"}])
def test_a_discriminator_that_cannot_be_built_says_why(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be .* found"):
        Discriminator(**wrong)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="init must be one of 'kaiming', 'identity', 'edges', found 'ones'"):
        Generator(init="ones")


def test_weights_come_back_from_safetensors(tmp_path, trained):
    save_weights(trained, tmp_path / "g.safetensors")
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_generator(tmp_path / "g.safetensors")(x), trained(x))
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]


def test_weights_that_fit_two_networks_are_refused(tmp_path, trained, monkeypatch):
    """One with another activation, say, has the same parameters and would be read as the other."""
    save_weights(trained, tmp_path / "g.safetensors")
    monkeypatch.setitem(networks.MODELS, "twin", type("Twin", (Generator,), {}))
    with pytest.raises(ValueError, match="mDCSRN and twin have the same names and shapes; rename"):
        load_generator(tmp_path / "g.safetensors")


def original_keys() -> set[str]:
    """The 85 entries of the original project's checkpoint."""
    keys = {"conv0.weight", "recon.weight", "comp0.weight", "comp1.weight", "comp2.weight"}
    for b in range(4):
        for i in range(1, 5):
            unit = f"block{b}.denselayer{i}"
            keys |= {f"{unit}.norm.{k}" for k in ("weight", "bias", "running_mean", "running_var")}
            keys.add(f"{unit}.conv.weight")
    return keys


def test_the_original_projects_checkpoint_is_read(tmp_path, trained):
    state = {k: v.clone() for k, v in trained.state_dict().items() if k in original_keys()}
    assert len(state) == len(original_keys()) == 85
    torch.save(state, tmp_path / "original.pt")
    x = torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        assert torch.equal(load_generator(tmp_path / "original.pt")(x), trained(x))


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_pickle_is_executed(tmp_path):
    proof = tmp_path / "executed"
    torch.save({"conv0.weight": Trap(proof)}, tmp_path / "evil.pt")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Trap(proof)))
    for name in ("evil.pt", "plain.pkl"):
        with pytest.raises(ValueError, match=f"{name}: expected"):
            load_generator(tmp_path / name)
    assert not proof.exists()


def test_a_checkpoint_of_another_architecture_names_the_difference(tmp_path):
    save_weights(Discriminator(16, width=4), tmp_path / "d.safetensors")
    with pytest.raises(
        ValueError, match="d.safetensors: expected mDCSRN b4u4, found .*: block0.denselayer1.conv.weight"
    ):
        load_generator(tmp_path / "d.safetensors")
    save_weights(Generator(growth_rate=8), tmp_path / "narrow.safetensors")
    with pytest.raises(
        ValueError, match=r"conv0.weight: expected shape \(32, 1, 3, 3, 3\), found \(16, 1, 3, 3, 3\)"
    ):
        load_generator(tmp_path / "narrow.safetensors")


def test_missing_damaged_and_poisoned_weights(tmp_path, trained):
    with pytest.raises(FileNotFoundError, match="none.safetensors: expected a file, found none"):
        load_generator(tmp_path / "none.safetensors")
    save_weights(trained, tmp_path / "g.safetensors")
    whole = (tmp_path / "g.safetensors").read_bytes()
    for name, content in {
        "cut.safetensors": whole[:5000],
        "text.pt": b"hello",
        "empty.safetensors": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: expected"):
            load_generator(tmp_path / name)
    poisoned = Generator()
    with torch.no_grad():
        poisoned.comp0.weight[0, 0] = float("nan")
    save_weights(poisoned, tmp_path / "nan.safetensors")
    with pytest.raises(ValueError, match="comp0.weight: expected finite values, found NaN or Inf"):
        load_generator(tmp_path / "nan.safetensors")


def test_an_unknown_model_is_refused():
    with pytest.raises(ValueError, match="model must be one of .*'mDCSRN'.*found 'FSRGAN'"):
        networks.make_generator("FSRGAN")


def test_weights_of_half_precision_are_read_in_single(tmp_path):
    state = networks.make_generator().half().state_dict()
    torch.save({k: v for k, v in state.items() if "num_batches" not in k}, tmp_path / "w.pt")
    assert {v.dtype for v in networks.load_generator(tmp_path / "w.pt").parameters()} == {torch.float32}
