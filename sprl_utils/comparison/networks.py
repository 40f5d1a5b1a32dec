"""Other networks for super-resolution, in 3D on HR's own grid; importing this module registers them.

Their names in `sprl_utils.networks.MODELS` are FSRCNN, SRResNet and DCSRN. Tensors are ``(N, C, D, H, W)``.
"""

from torch import Tensor, nn

from sprl_utils.networks import MODELS, DenseBlock, initialise, receptive_radius


class FSRCNN3d(nn.Module):
    """FSRCNN (Dong et al. 2016, arXiv 1608.00367) with 3D convs, "56-12-4": features, shrink, map, expand.

    As all networks here it reads the LR image on HR's own grid, so the last layer, the paper's transposed
    conv, has stride 1 and is a conv.

    Args:
        init: ``"kaiming"``, or ``"identity"``: map 0 of each conv carries the input, and the last reads it
            alone.
    """

    receptive_radius = property(receptive_radius)
    #: Memory per voxel of a tile in inference (see `sprl_utils.inference`).
    bytes_per_voxel = 700

    def __init__(self, init: str = "kaiming", features: int = 56, shrunk: int = 12, mappings: int = 4):
        super().__init__()
        sizes = [(1, features, 5), (features, shrunk, 1), *[(shrunk, shrunk, 3)] * mappings]
        layers: list[nn.Module] = []
        for inputs, outputs, kernel in [*sizes, (shrunk, features, 1)]:
            layers += [nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2), nn.PReLU(outputs)]
        self.body = nn.Sequential(*layers)
        self.recon = nn.Conv3d(features, 1, 9, padding=4)
        initialise(self, init, carried=[m for m in layers if isinstance(m, nn.Conv3d)])

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

    receptive_radius = property(receptive_radius)
    #: Memory per voxel of a tile in inference (see `sprl_utils.inference`).
    bytes_per_voxel = 2500

    def __init__(self, init: str = "kaiming", maps: int = 64, blocks: int = 16):
        super().__init__()
        self.conv0, self.activation = nn.Conv3d(1, maps, 9, padding=4), nn.PReLU()
        self.blocks = nn.Sequential(*(_ResidualBlock(maps) for _ in range(blocks)))
        self.conv1, self.norm1 = nn.Conv3d(maps, maps, 3, padding=1, bias=False), nn.BatchNorm3d(maps)
        self.recon = nn.Conv3d(maps, 1, 9, padding=4)
        initialise(self, init, carried=[self.conv0])
        if init != "kaiming":
            for norm in [self.norm1, *(block.norm2 for block in self.blocks)]:
                nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        first = self.activation(self.conv0(x))
        return self.recon(first + self.norm1(self.conv1(self.blocks(first))))


class DCSRN(nn.Module):
    """mDCSRN's predecessor (Chen et al. 2018, arXiv 1801.02728): one dense block, read by a 3x3x3 conv.

    Four units of growth rate 24 after a first conv to 48 maps. Sizes as its paper is usually restated; its
    code was not released.
    """

    receptive_radius = property(receptive_radius)
    #: Memory per voxel of a tile in inference (see `sprl_utils.inference`).
    bytes_per_voxel = 3000

    def __init__(self, init: str = "kaiming", growth_rate: int = 24, units: int = 4):
        super().__init__()
        width = 2 * growth_rate
        self.conv0 = nn.Conv3d(1, width, 3, padding=1, bias=False)
        self.block0 = DenseBlock(width, growth_rate, units)
        self.recon = nn.Conv3d(width + units * growth_rate, 1, 3, padding=1, bias=False)
        initialise(self, init, carried=[self.conv0])

    def forward(self, x: Tensor) -> Tensor:  # (N, 1, D, H, W)
        return self.recon(self.block0(self.conv0(x)))


MODELS.update({"DCSRN": DCSRN, "SRResNet": SRResNet3d, "FSRCNN": FSRCNN3d})
