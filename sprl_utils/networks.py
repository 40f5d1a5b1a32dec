"""The networks: mDCSRN generator and the WGAN-GP discriminator (Chen et al., arXiv 1803.01417).

Tensors are ``(N, C, D, H, W)``; D, H, W are a volume's x, y, z in the file's own axis order.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

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
        _initialise(self, init, carried=[self.conv0])

    @property
    def receptive_radius(self) -> int:
        """Voxels seen on each side of an output voxel: one for each 3x3x3 conv on the longest way."""
        return sum(isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3) for m in self.modules())

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        readers = [getattr(self, f"comp{i}") for i in range(self.blocks - 1)] + [self.recon]
        # A 1x1x1 conv over a concatenation is a sum of 1x1x1 convs over its parts: each part is added to the
        # sums of all readers still to come and then let go, so the 416 maps never stand in memory together.
        sums: list[Tensor | None] = [None] * len(readers)
        # One input map leaves the memory format open, and oneDNN would pick the slow one: say it here, once.
        part = block_input = self.conv0(x).contiguous(
            memory_format=torch.channels_last_3d
        )  # (N, 2k, D, H, W)
        offset = 0
        for i in range(self.blocks + 1):
            end = offset + part.shape[1]
            for j in range(max(i - 1, 0), len(readers)):
                term = F.conv3d(part, readers[j].weight[:, offset:end])
                sums[j] = term if sums[j] is None else sums[j] + term
            offset = end
            if i == self.blocks:
                break
            if i > 0:
                block_input, sums[i - 1] = sums[i - 1], None  # (N, 2k, D, H, W)
            part = getattr(self, f"block{i}")(block_input)  # (N, 6k, D, H, W)
        return sums[-1]  # (N, 1, D, H, W)


class FSRCNN3d(nn.Module):
    """FSRCNN (Dong et al. 2016, arXiv 1608.00367) with 3D convs, "56-12-4": features, shrink, map, expand.

    As all networks here it reads the LR image on HR's own grid, so the last layer, the paper's transposed
    conv, has stride 1 and is a conv.

    Args:
        init: ``"kaiming"``, or ``"identity"``: map 0 of each conv carries the input, and the last reads it
            alone.
    """

    #: Of a tile, in inference (see `sprl_utils.inference`).
    bytes_per_voxel = 700

    def __init__(self, init: str = "kaiming", features: int = 56, shrunk: int = 12, mappings: int = 4):
        super().__init__()
        sizes = [(1, features, 5), (features, shrunk, 1), *[(shrunk, shrunk, 3)] * mappings]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in [*sizes, (shrunk, features, 1)]:
            layers += [nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2), nn.PReLU(outputs)]
        self.body = nn.Sequential(*layers)
        self.recon = nn.Conv3d(features, 1, 9, padding=4)
        _initialise(self, init, carried=[m for m in layers if isinstance(m, nn.Conv3d)])

    @property
    def receptive_radius(self) -> int:
        """Voxels seen on each side of an output voxel."""
        return sum(m.kernel_size[0] // 2 for m in self.modules() if isinstance(m, nn.Conv3d))

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        return self.recon(self.body(x))


class _ResidualBlock(nn.Module):
    def __init__(self, maps: int):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(maps, maps, 3, padding=1, bias=False), nn.BatchNorm3d(maps)
        self.activation = nn.PReLU()
        self.conv2, self.norm2 = nn.Conv3d(maps, maps, 3, padding=1, bias=False), nn.BatchNorm3d(maps)

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))
        return x + self.norm2(self.conv2(y))


class SRResNet3d(nn.Module):
    """SRResNet (Ledig et al. 2017, arXiv 1609.04802) with 3D convs: 16 residual blocks of 64 maps.

    Without its two up-sampling layers, because LR comes on HR's grid. Trained with a discriminator it is
    SRGAN.

    Args:
        init: ``"kaiming"``, or ``"identity"``: all residual branches start at 0, and the last conv reads
            map 0, which the first conv makes a copy of the input.
    """

    #: Of a tile, in inference (see `sprl_utils.inference`).
    bytes_per_voxel = 2500

    def __init__(self, init: str = "kaiming", maps: int = 64, blocks: int = 16):
        super().__init__()
        self.conv0, self.activation = nn.Conv3d(1, maps, 9, padding=4), nn.PReLU()
        self.blocks = nn.Sequential(*(_ResidualBlock(maps) for _ in range(blocks)))
        self.conv1, self.norm1 = nn.Conv3d(maps, maps, 3, padding=1, bias=False), nn.BatchNorm3d(maps)
        self.recon = nn.Conv3d(maps, 1, 9, padding=4)
        _initialise(self, init, carried=[self.conv0])
        if init != "kaiming":
            for norm in [self.norm1, *(block.norm2 for block in self.blocks)]:
                nn.init.zeros_(norm.weight)

    @property
    def receptive_radius(self) -> int:
        """Voxels seen on each side of an output voxel."""
        return sum(m.kernel_size[0] // 2 for m in self.modules() if isinstance(m, nn.Conv3d))

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        first = self.activation(self.conv0(x))
        return self.recon(first + self.norm1(self.conv1(self.blocks(first))))


class DCSRN(nn.Module):
    """mDCSRN's predecessor (Chen et al. 2018, arXiv 1801.02728): one dense block, read by a 3x3x3 conv.

    Four units of growth rate 24 after a first conv to 48 maps. Sizes as its paper is usually restated; its
    code was not released.
    """

    #: Of a tile, in inference (see `sprl_utils.inference`).
    bytes_per_voxel = 3000

    def __init__(self, init: str = "kaiming", growth_rate: int = 24, units: int = 4):
        super().__init__()
        width = 2 * growth_rate
        self.conv0 = nn.Conv3d(1, width, 3, padding=1, bias=False)
        self.block0 = DenseBlock(width, growth_rate, units)
        self.recon = nn.Conv3d(width + units * growth_rate, 1, 3, padding=1, bias=False)
        _initialise(self, init, carried=[self.conv0])

    @property
    def receptive_radius(self) -> int:
        """Voxels seen on each side of an output voxel."""
        return sum(m.kernel_size[0] // 2 for m in self.modules() if isinstance(m, nn.Conv3d))

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        return self.recon(self.block0(self.conv0(x)))


def _initialise(network: nn.Module, init: str, carried: Sequence[nn.Conv3d]) -> None:
    """Kaiming; otherwise the convs ``carried`` also pass on their map 0, and ``recon`` reads it."""
    if init not in INITS:
        raise ValueError(f"generator: init must be one of {', '.join(map(repr, INITS))}, found {init!r}")
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if init == "edges" and module.weight[0, 0].numel() > 1:
                _answer_edges_alone(module.weight)
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


#: Generators by the name that profiles and tables give them.
MODELS = {"mDCSRN": Generator, "DCSRN": DCSRN, "SRResNet": SRResNet3d, "FSRCNN": FSRCNN3d}


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
        self.patch_size = patch_size

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, P, P, P)
        x = self.features(x)  # (N, 512, P/16, P/16, P/16)
        return self.dense(self.pool(x)).squeeze(1)  # (N,)


def count_parameters(module: nn.Module) -> int:
    """Trainable values in ``module``."""
    return sum(p.numel() for p in module.parameters())


def channels_last(module: nn.Module) -> nn.Module:
    """Put the convs' weights into channels_last_3d, two to three times faster on CPU; the rest stays.

    (``module.to(memory_format=...)`` as a whole fails on LayerNorm's 4-D weights.)
    """
    for m in module.modules():
        if isinstance(m, nn.Conv3d):
            m.to(memory_format=torch.channels_last_3d)
    return module


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
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"generator weights {path}: expected a checkpoint, found one that cannot be read "
            f"({_first_line(error)})"
        ) from error
    except Exception as error:  # torch raises pickle.UnpicklingError for a file that asks to run code
        raise ValueError(
            f"generator weights {path}: expected plain tensors, found something else ({_first_line(error)})"
        ) from error
    with torch.device("meta"):  # no memory and no random numbers, however many models are registered
        generator = make_generator(_model_of(state))
    expected = generator.state_dict()
    _check_state(state, expected, path)
    state = {key: value.to(expected[key].dtype, copy=True) for key, value in state.items()}
    generator.load_state_dict(state, assign=True)
    return generator.eval()


def _model_of(state: object) -> str:
    """The comparator whose keys a state_dict has; mDCSRN where there is none."""
    if isinstance(state, dict):
        for model in MODELS:
            if set(make_generator(model).state_dict()) == set(state):
                return model
    return "mDCSRN"


def _check_state(found: object, expected: dict[str, Tensor], path: Path) -> None:
    """Refuse a state_dict whose keys or shapes are not the generator's, naming the first difference."""
    if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
        raise ValueError(
            f"generator weights {path}: expected a state_dict of tensors, found {type(found).__name__}"
        )
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


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def multiply_adds(generator: nn.Module, patch_size: int) -> int:
    """Multiply-adds of all stride-1 convs for one cube (107 G for the default generator at 64)."""
    return sum(m.weight.numel() for m in generator.modules() if isinstance(m, nn.Conv3d)) * math.prod(
        [patch_size] * 3
    )
