"""The networks: mDCSRN generator and the WGAN-GP discriminator (Chen et al., arXiv 1803.01417), and EDSR.

Tensors are ``(N, C, D, H, W)``; D, H, W are a volume's axes, those that lost resolution last
(`sprl_utils.patches.Prepared.order`).
"""

import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import convert_conv3d_weight_memory_format

from sprl_utils.files import atomic_write

#: How a generator may start; see `Generator`.
INITS = ("kaiming", "identity", "edges")


class DenseUnit(nn.Module):
    """BatchNorm, ELU, 3x3x3 conv to ``growth_rate`` maps (one unit in the paper's figure)."""

    def __init__(self, in_channels: int, growth_rate: int):
        super().__init__()
        self.norm = nn.BatchNorm3d(in_channels)
        self.conv = nn.Conv3d(in_channels, growth_rate, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # Where no gradient is wanted, ELU overwrites the norm's output: a quarter less memory.
        return self.conv(F.elu(self.norm(x), inplace=not torch.is_grad_enabled()))


class DenseBlock(nn.Module):
    """Densely connected units: each reads the block's input and the maps of all units before it."""

    def __init__(self, in_channels: int, growth_rate: int, units: int):
        super().__init__()
        for i in range(units):
            self.add_module(f"denselayer{i + 1}", DenseUnit(in_channels + i * growth_rate, growth_rate))

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.children():
            x = torch.cat([x, unit(x)], dim=1)
        return x


def receptive_radius(network: nn.Module) -> int:
    """Voxels that a chain of convs of stride 1 sees on each side of an output voxel."""
    return sum(m.dilation[0] * (m.kernel_size[0] // 2) for m in network.modules() if isinstance(m, nn.Conv3d))


class Generator(nn.Module):
    """mDCSRN, the paper's "b4u4": one map in, one of the same size out, no up-sampling, no global skip.

    A first conv makes ``2 * growth_rate`` maps. Before each block but the first, a 1x1x1 "compressor" brings
    the first conv's maps and all block outputs so far back to that number; a last 1x1x1 conv reconstructs
    from all. The default has 411,648 parameters. Parameter names are those of the original project's
    checkpoints.

    Args:
        growth_rate: maps that each unit adds (k = 16 in the paper).
        blocks, units: dense blocks, and units in each.
        init: ``"kaiming"`` (the original's) starts at noise; ``"identity"`` starts as the identity: map 0 of
            the first conv is a delta, and the reconstruction reads that map alone. ``"edges"`` does so too,
            and all other 3x3x3 kernels have mean 0: maps then hold edges without the image's brightness,
            and what the reconstruction takes of them does not shift the image.
    """

    def __init__(self, growth_rate: int = 16, blocks: int = 4, units: int = 4, init: str = "kaiming"):
        super().__init__()
        width, block_width = 2 * growth_rate, (2 + units) * growth_rate
        self.conv0 = nn.Conv3d(1, width, 3, padding=1, bias=False)
        for i in range(blocks):
            self.add_module(f"block{i}", DenseBlock(width, growth_rate, units))
        for i in range(blocks - 1):
            self.add_module(f"comp{i}", nn.Conv3d(width + (i + 1) * block_width, width, 1, bias=False))
        self.recon = nn.Conv3d(width + blocks * block_width, 1, 1, bias=False)
        self.blocks, self.units = blocks, units
        initialise(self, init, carried=[self.conv0])

    receptive_radius = property(receptive_radius)

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        maps = self.conv0(x)  # (N, 2k, D, H, W)
        # One input map leaves the memory format open, and oneDNN would choose the slower one.
        maps = maps.contiguous(memory_format=torch.channels_last_3d)
        for i in range(self.blocks):
            compressed = maps if i == 0 else getattr(self, f"comp{i - 1}")(maps)  # (N, 2k, D, H, W)
            maps = torch.cat([maps, getattr(self, f"block{i}")(compressed)], dim=1)  # 6k maps more
        return self.recon(maps)


class ResidualBlock(nn.Module):
    """3x3x3 conv, ReLU, 3x3x3 conv, added to the input (EDSR's, without normalisation)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv0, self.conv1 = (nn.Conv3d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv1(F.relu(self.conv0(x)))


class EDSR(nn.Module):
    """EDSR (Lim et al. 2017, arXiv 1707.02921) in 3D, which computes on the grid that was measured.

    A zero-filled image holds no more than one sample per ``reduction`` voxels, so the network computes there
    at a fraction of the cost. The voxels of a block of ``reduction`` become maps of one coarse voxel,
    residual blocks follow, and a pixel shuffle (Shi et al. 2016, arXiv 1609.05158) brings the maps back to
    the fine grid, where they are added to the input. The paper has no such network: this study adds it.

    The default has 1.8 M parameters. Axes that are no multiple of ``reduction`` are extended by their last
    voxel. Convs start as PyTorch starts them: from zero, nothing is learned for thousands of steps.

    Args:
        reduction: voxels per measured sample on D, H, W.
        width: maps of each conv.
        blocks: residual blocks.
        init: ``"kaiming"``; there is no other start.

    Raises:
        ValueError: another ``init``.
    """

    def __init__(
        self, reduction: Sequence[int] = (1, 4, 4), width: int = 64, blocks: int = 8, init: str = "kaiming"
    ):
        super().__init__()
        if init != "kaiming":
            raise ValueError(f"EDSR: init must be 'kaiming', found {init!r}")
        self.reduction = tuple(reduction)
        phases = math.prod(self.reduction)
        self.bytes_per_voxel = 20 + 1900 / phases  # of a tile in inference: see `sprl_utils.inference`
        self.head = nn.Conv3d(phases, width, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.tail = nn.Conv3d(width, phases, 3, padding=1)

    @property
    def receptive_radius(self) -> tuple[int, ...]:
        """Voxels seen on each side, per axis."""
        return tuple(receptive_radius(self) * r for r in self.reduction)

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        beyond = [-n % r for n, r in zip(x.shape[2:], self.reduction, strict=True)]
        padded = F.pad(x, (0, beyond[2], 0, beyond[1], 0, beyond[0]), mode="replicate")
        coarse = self.head(unshuffle(padded, self.reduction))  # (N, width, D/r, H/r, W/r)
        fine = padded + shuffle(self.tail(self.body(coarse)), self.reduction)
        return fine[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]


def unshuffle(x: Tensor, factors: Sequence[int]) -> Tensor:
    """Blocks of ``factors`` voxels become maps: ``(N, 1, D, H, W)`` to ``(N, abc, D/a, H/b, W/c)``."""
    (n, _, depth, height, width), (a, b, c) = x.shape, factors
    blocks = x.reshape(n, depth // a, a, height // b, b, width // c, c)
    maps = blocks.permute(0, 2, 4, 6, 1, 3, 5).reshape(n, a * b * c, depth // a, height // b, width // c)
    return maps.contiguous(memory_format=torch.channels_last_3d)


def shuffle(x: Tensor, factors: Sequence[int]) -> Tensor:
    """The inverse of `unshuffle`: ``(N, abc, D, H, W)`` to ``(N, 1, aD, bH, cW)``."""
    (n, _, depth, height, width), (a, b, c) = x.shape, factors
    blocks = x.reshape(n, a, b, c, depth, height, width).permute(0, 4, 1, 5, 2, 6, 3)
    return blocks.reshape(n, 1, depth * a, height * b, width * c)


def initialise(network: nn.Module, init: str, carried: Sequence[nn.Conv3d]) -> None:
    """Start a network as `Generator` describes, in place.

    Args:
        network: its last conv is ``recon``.
        init: one of `INITS`.
        carried: convs that pass on their map 0 where the network starts as the identity.

    Raises:
        ValueError: no such start.
    """
    if init not in INITS:
        raise ValueError(f"generator: init must be one of {', '.join(map(repr, INITS))}, found {init!r}")
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv3d)):
        nn.init.kaiming_normal_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        if init == "edges" and conv.kernel_size != (1, 1, 1):
            _answer_edges_alone(conv.weight)
    if init != "kaiming":
        with torch.no_grad():
            nn.init.zeros_(network.recon.weight)
            for conv in [*carried, network.recon]:
                nn.init.dirac_(conv.weight[:1])


@torch.no_grad()
def _answer_edges_alone(weight: Tensor) -> None:
    """Take each kernel's mean away and give it back its variance: a constant input is answered by 0."""
    size = weight[0, 0].numel()
    weight -= weight.mean(dim=(2, 3, 4), keepdim=True)
    weight *= math.sqrt(size / (size - 1))


#: Generators by the name that profiles and tables give them. Another network is added to it:
#: a class with an argument ``init``, as in `sprl_utils.comparison.networks`.
MODELS: dict[str, Callable[..., nn.Module]] = {
    "mDCSRN": Generator,
    "EDSR": EDSR,
    "EDSR_2x2": partial(EDSR, (1, 2, 2)),
}


def make_generator(model: str = "mDCSRN", init: str = "kaiming") -> nn.Module:
    """A generator by name.

    Raises:
        ValueError: none of `MODELS`.
    """
    if model not in MODELS:
        raise ValueError(f"generator: model must be one of {sorted(MODELS)}, found {model!r}")
    return MODELS[model](init=init)


class _SmallCubeConv(nn.Conv3d):
    """A conv that computes in fp32 where its input's edge is 2 or less.

    In bfloat16 oneDNN for AVX-512 (not for AMX, not in fp32) adds the weight gradient of a 3x3x3 conv on an
    edge of 2 to memory that it has not cleared.
    """

    def forward(self, x: Tensor) -> Tensor:
        if min(x.shape[2:]) > 2:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


class Discriminator(nn.Module):
    """SRGAN's discriminator in 3D with LayerNorm (WGAN-GP wants no BatchNorm): a patch in, one score out.

    Eight 3x3x3 convs of 64, 64, 128, ... 512 maps, every second one with stride 2, then dense 1024 and dense
    1. 31,155,777 parameters for ``head="gap"`` at 64 (LayerNorm has one weight an element, so the size
    depends on it).

    Args:
        patch_size: edge of the cubes it judges, a multiple of 16.
        head: ``"gap"`` averages over space before the dense layers (the original project's); ``"fc"``
            flattens.
        negative_slope: of LeakyReLU; 0.2 in SRGAN. The original project passed 1, which is the identity.
        width: maps of the first conv (64 in the paper).
    """

    def __init__(self, patch_size: int = 64, head: str = "gap", negative_slope: float = 0.2, width: int = 64):
        super().__init__()
        if patch_size < 16 or patch_size % 16:
            raise ValueError(f"discriminator: patch_size must be a multiple of 16, found {patch_size}")
        if head not in ("gap", "fc"):
            raise ValueError(f"discriminator: head must be 'gap' or 'fc', found {head!r}")
        layers: list[nn.Module] = []
        channels, size = 1, patch_size
        for i in range(8):
            out = width * 2 ** (i // 2)
            layers.append(_SmallCubeConv(channels, out, 3, stride=1 + i % 2, padding=1))
            size //= 1 + i % 2
            if i > 0:
                layers.append(nn.LayerNorm([out, size, size, size]))
            layers.append(nn.LeakyReLU(negative_slope))
            channels = out
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool3d(1) if head == "gap" else nn.Identity()
        dense_in = channels if head == "gap" else channels * size**3
        self.dense = nn.Sequential(
            nn.Flatten(),
            nn.Linear(dense_in, 16 * width),
            nn.LeakyReLU(negative_slope),
            nn.Linear(16 * width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, P, P, P)
        x = self.features(x)  # (N, 512, P/16, P/16, P/16)
        return self.dense(self.pool(x)).squeeze(1)  # (N,)


def count_parameters(module: nn.Module) -> int:
    """Trainable values in ``module``."""
    return sum(p.numel() for p in module.parameters())


#: Puts the convs' weights into channels_last_3d, two to three times faster on CPU; the rest stays.
#: (``module.to(memory_format=...)`` as a whole fails on LayerNorm's 4-D weights.)
channels_last = partial(convert_conv3d_weight_memory_format, memory_format=torch.channels_last_3d)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for bfloat16; emulated, it is far slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def save_weights(module: nn.Module, path: str | os.PathLike, metadata: dict[str, str] | None = None) -> None:
    """Write a module's weights as safetensors, beside the target and then renamed into place."""
    tensors = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    with atomic_write(path) as beside:
        save_file(tensors, beside, metadata=metadata)


def load_generator(path: str | os.PathLike) -> nn.Module:
    """Read a generator, in eval mode on the CPU, from our safetensors or the original project's state_dict.

    Which of `MODELS` it is, its keys say. A PyTorch file is opened with ``weights_only=True``: nothing in it
    is executed.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a checkpoint, or one of another architecture; names the first key that differs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"generator weights {path}: expected a file, found none")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # also what torch raises for a file that asks to run code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"generator weights {path}: expected plain tensors, found a file that cannot be read ({reason})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(
            f"generator weights {path}: expected a state_dict of tensors, found {type(state).__name__}"
        )
    with torch.device("meta"):
        generator = make_generator(model_of(state))
    expected = generator.state_dict()
    _check_state(state, expected, path)
    state = {key: value.to(expected[key].dtype, copy=True) for key, value in state.items()}
    generator.load_state_dict(state, assign=True)
    return generator.eval()


def model_of(state: dict[str, Tensor]) -> str:
    """The registered network whose keys and shapes a state_dict has, or its keys, or else mDCSRN.

    Raises:
        ValueError: several networks have them, so that one could be taken for the other.
    """
    shapes = {name: value.shape for name, value in state.items()}
    with torch.device("meta"):  # no memory and no random numbers, however many models are registered
        expected = {m: {k: v.shape for k, v in make_generator(m).state_dict().items()} for m in MODELS}
    fits = [model for model in MODELS if expected[model] == shapes]
    if len(fits) > 1:
        raise ValueError(
            f"generator: expected weights of one network of MODELS, found that {' and '.join(fits)} have the "
            "same names and shapes; rename a layer of one of them"
        )
    same_keys = [model for model in MODELS if set(expected[model]) == set(shapes)]
    return (fits or same_keys or ["mDCSRN"])[0]


def _check_state(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Refuse a state_dict whose keys or shapes are not the generator's, naming the first difference."""
    # torch before 0.4.1 did not count BatchNorm's batches: the original project's 85 entries have no such key
    expected = {k: v for k, v in expected.items() if k in found or not k.endswith("num_batches_tracked")}
    for key in sorted(set(expected) ^ set(found)):
        where = "no such key" if key in expected else "a key that mDCSRN b4u4 does not have"
        raise ValueError(f"generator weights {path}: expected mDCSRN b4u4, found {where}: {key}")
    for key, value in expected.items():
        if value.shape != found[key].shape:
            raise ValueError(
                f"generator weights {path}: {key}: expected shape {tuple(value.shape)}, "
                f"found {tuple(found[key].shape)}"
            )
        if not bool(torch.isfinite(found[key].float()).all()):
            raise ValueError(f"generator weights {path}: {key}: expected finite values, found NaN or Inf")


def multiply_adds(generator: nn.Module, patch_size: int) -> int:
    """Multiply-adds of all convs for one cube (107 G for the default generator at 64)."""
    weights = sum(m.weight.numel() for m in generator.modules() if isinstance(m, nn.Conv3d))
    return weights * patch_size**3 // math.prod(getattr(generator, "reduction", (1, 1, 1)))
