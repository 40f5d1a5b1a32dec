"""The paper's generator as an OpenVINO graph: for a whole tile, or for a few planes of a stream at a time.

Tensors are ``(1, C, D, H, W)``. The concatenations over blocks do not occur: a 1x1x1 conv over one is a sum
of convs over its parts, and each part is added to the sums of all readers still to come.
"""

import numpy as np
import torch
from torch import nn

from sprl_utils.extras.compiled import ops, ov
from sprl_utils.networks import DenseUnit, Generator

#: Memory in bytes per voxel of a tile (measured).
TILE_BYTES = {torch.float32: 1350, torch.bfloat16: 720}


def tile_model(generator: Generator, *size: int) -> ov.Model:
    """The generator for one tile of ``size``."""
    x = ops.parameter([1, 1, *size], np.float32)
    y = _network(generator, _conv(x, generator.conv0.weight, [1, 1, 1]), _Whole())
    return ov.Model([ops.result(y)], [x])


def plane_model(generator: Generator, planes: int, height: int, width: int) -> ov.Model:
    """The generator for ``planes`` planes at a time; it remembers what it still needs of those before.

    Its inputs are the planes with a voxel more on each side, ``(1, 1, planes + 2, height + 2, width + 2)``,
    and which of the planes, from ``lag + 1`` before the first on, are inside the volume, as 1 and 0. Its
    output are as many planes, those ``lag`` (blocks times units) before.
    """
    x = ops.parameter([1, 1, planes + 2, height + 2, width + 2], np.float32)
    inside = ops.parameter([1, 1, planes + generator.blocks * generator.units + 1, 1, 1], np.float32)
    stream = _Stream(inside, planes)
    y = _network(generator, _conv(x, generator.conv0.weight), stream)
    return ov.Model([ops.result(y)], stream.assignments, [x, inside])


def _network(generator: Generator, maps: ov.Node, way: "_Whole | _Stream") -> ov.Node:
    """The image that the maps of the first conv, ``(1, 2k, D, H, W)``, lead to."""
    width, parts = generator.conv0.out_channels, _parts(generator)
    sums = _conv(maps, parts[0])
    for i in range(generator.blocks):
        for unit in getattr(generator, f"block{i}").children():
            maps = way.unit(maps, unit)
        sums = ops.add(way.delayed(sums, generator.units), _conv(maps, parts[i + 1]))
        if i + 1 < generator.blocks:
            maps, sums = ops.variadic_split(sums, 1, [width, sums.shape[1] - width]).outputs()
    return sums


def _parts(generator: Generator) -> list[torch.Tensor]:
    """For the first conv's maps and each block's: the 1x1x1 weights of all that still read them."""
    width = generator.conv0.out_channels
    block = (generator.recon.in_channels - width) // generator.blocks
    readers = [getattr(generator, f"comp{i}") for i in range(generator.blocks - 1)] + [generator.recon]
    split = [r.weight.split([width] + [block] * ((r.in_channels - width) // block), dim=1) for r in readers]
    return [torch.cat([parts[i] for parts in split[max(i - 1, 0) :]]) for i in range(generator.blocks + 1)]


class _Whole:
    """A tile that is there as a whole."""

    def unit(self, maps: ov.Node, unit: DenseUnit) -> ov.Node:
        return ops.concat([maps, _conv(_normalised(maps, unit.norm), unit.conv.weight, [1, 1, 1])], 1)

    def delayed(self, maps: ov.Node, planes: int) -> ov.Node:
        return maps


class _Stream:
    """Planes that arrive a few at a time.

    Args:
        inside: which planes are inside the volume, see `plane_model`.
        planes: of each step.
    """

    def __init__(self, inside: ov.Node, planes: int):
        self.inside, self.planes = inside, planes
        self.assignments: list[ov.Node] = []
        self.last = inside.shape[2]  # of ``inside``: past the last plane of what the next unit reads

    def unit(self, maps: ov.Node, unit: DenseUnit) -> ov.Node:
        """The unit gives a plane once the next one has come, and so runs one plane behind its input."""
        seen = self._preceded(maps, 2)
        # Beyond the volume's faces a conv sees zeros, not what normalisation makes of them.
        there = _planes(self.inside, self.last - self.planes - 2, self.last)
        self.last -= 1
        new = _conv(ops.multiply(_normalised(seen, unit.norm), there), unit.conv.weight, [0, 1, 1])
        return ops.concat([_planes(seen, 1, self.planes + 1), new], 1)

    def delayed(self, maps: ov.Node, planes: int) -> ov.Node:
        return _planes(self._preceded(maps, planes), 0, self.planes)

    def _preceded(self, maps: ov.Node, planes: int) -> ov.Node:
        """``maps`` with the last ``planes`` before them in front, at the start zeros."""
        shape = list(maps.shape)
        info = ov.op.util.VariableInfo()
        info.data_shape, info.data_type = ov.PartialShape([*shape[:2], planes, *shape[3:]]), ov.Type.f32
        info.variable_id = f"{len(self.assignments)}"
        variable = ov.op.util.Variable(info)
        both = ops.concat([ops.read_value(variable), maps], 2)
        self.assignments.append(ops.assign(_planes(both, self.planes, self.planes + planes), variable))
        return both


def _conv(maps: ov.Node, weight: torch.Tensor, pad: tuple[int, ...] | list[int] = (0, 0, 0)) -> ov.Node:
    return ops.convolution(maps, weight.detach().numpy(), [1] * 3, list(pad), list(pad), [1] * 3)


def _normalised(maps: ov.Node, norm: nn.BatchNorm3d) -> ov.Node:
    """BatchNorm, with its statistics of training, and ELU."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    scale, shift = (t.detach().numpy().reshape(1, -1, 1, 1, 1) for t in (scale, shift))
    return ops.elu(ops.add(ops.multiply(maps, scale), shift), 1.0)


def _planes(maps: ov.Node, first: int, stop: int) -> ov.Node:
    return ops.slice(maps, [first], [stop], [1], [2])
