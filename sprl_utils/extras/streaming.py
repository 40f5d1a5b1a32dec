"""The generator over a volume as a stream of planes: no voxel is computed twice, and few are kept.

A tile that is to be exact must be read with a halo of 17 voxels, and computing the halo costs more than the
tile itself unless the tile is big. Here planes (constant x) go through the network one slab after the other
instead. A 3x3x3 conv can give plane ``p`` once ``p + 1`` has come, so each dense unit runs one plane behind
the one before it, and keeps just the planes that its next slab needs. What leaves the last unit, 16 planes
behind, is what one pass over the whole volume would have given.

Importing this module makes `stream` the engine of the paper's generator (see `sprl_utils.inference`).

Tensors are ``(1, C, D, H, W)`` in channels_last_3d, D the x axis along which planes arrive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sprl_utils.inference import ENGINES, PREFERRED, Progress, device_of, grow, plan_tiles, shrink, within
from sprl_utils.networks import DenseBlock, DenseUnit, Generator
from sprl_utils.provenance import release_memory

CHANNELS_LAST = torch.channels_last_3d
Box = tuple[slice, slice]
#: Voxels to which the edges of computed boxes are rounded.
STEP = 16
#: Planes that go through the network together, the most first, and what the process then grows by in bytes
#: per voxel of a plane (measured with the allocator of `sprl_utils.provenance.tune_process`).
SLABS = ((8, 40_000), (4, 30_000))


def stream(
    volume: np.ndarray,
    generator: Generator,
    wanted: np.ndarray,
    memory_bytes: float,
    dtype: torch.dtype,
    progress: Progress,
) -> np.ndarray:
    """The engine: planes along x, of columns that overlap by a halo where whole planes need too much memory.

    ``progress`` wraps the slabs of planes of each column.
    """
    halo, depth = generator.receptive_radius, volume.shape[0]
    faces = plan_tiles((1, *volume.shape[1:]), halo, int(memory_bytes / SLABS[-1][1]))
    restored = volume.copy()
    for inner in shrink([(slice(0, depth), *face[1:]) for face in faces], wanted):
        outer = grow(inner, halo, volume.shape)
        column, mask = volume[outer], np.zeros_like(wanted[outer])
        mask[within(inner, outer)] = wanted[inner]
        planes = next((n for n, size in SLABS if size * column[0].size <= memory_bytes), SLABS[-1][0])
        x = torch.from_numpy(column.copy()).to(device_of(generator))
        planned = PlaneStream(generator, x, mask, planes, dtype)
        complete = np.empty(column.shape, np.float32)
        for step in progress(planned.steps):
            first, done = planned.push(step)
            complete[first : first + len(done)] = done.cpu().numpy()
        restored[inner] = complete[within(inner, outer)]
        del planned
        release_memory()
    return restored


ENGINES["stream"] = stream
PREFERRED[Generator] = "stream"


def conv3d(x: Tensor, weight: Tensor, padding: Sequence[int] = (0, 0, 0)) -> Tensor:
    """``F.conv3d`` without bias, in float32 by oneDNN wherever that is there.

    Torch asks oneDNN only if a single image has more than 20,480 maps x planes x rows, and else takes a path
    that is up to ten times slower. The few planes of a slab are often below that.
    """
    if x.device.type == "cpu" and x.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.aten.mkldnn_convolution(x, weight, None, list(padding), [1] * 3, [1] * 3, 1)
    return F.conv3d(x, weight, padding=tuple(padding))


class Needed:
    """Which part of the planes must be right for all voxels of a mask to be right.

    Args:
        mask: bool ``(D, H, W)``, the voxels wanted.
    """

    def __init__(self, mask: np.ndarray):
        rows, columns = mask.any(axis=2), mask.any(axis=1)  # (D, H), (D, W)
        self.sizes = mask.shape[1:]
        self.bounds = [_first_and_last(hit) for hit in (rows, columns)]

    def box(self, first: int, stop: int, radius: int) -> Box | None:
        """H and W to compute of planes ``first ... stop - 1``, with ``radius`` 3x3x3 convs still to come.

        Edges are rounded outwards to multiples of `STEP`: memory of a few sizes is used again, that of many
        sizes piles up in the allocator. None: nothing.
        """
        if first >= stop:
            return None
        planes = slice(max(first - radius, 0), stop + radius)
        box = []
        for (low, high), n in zip(self.bounds, self.sizes, strict=True):
            a, b = int(low[planes].min()) - radius, int(high[planes].max()) + radius
            if a >= b:
                return None
            box.append(slice(max(a // STEP * STEP, 0), min(-(-b // STEP) * STEP, n)))
        return tuple(box)


def _first_and_last(hit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each row of ``hit`` the first True and one past the last; a row of False adds to no box."""
    n = hit.shape[1]
    low, high = hit.argmax(axis=1), n - hit[:, ::-1].argmax(axis=1)
    return np.where(hit.any(axis=1), low, 10**6), np.where(hit.any(axis=1), high, -(10**6))


@dataclass
class _Unit:
    """A dense unit with its BatchNorm as ``scale * x + shift``."""

    scale: Tensor  # (C, 1, 1, 1)
    shift: Tensor
    weight: Tensor  # (growth rate, C, 3, 3, 3)

    @classmethod
    def of(cls, unit: DenseUnit, dtype: torch.dtype) -> _Unit:
        norm = unit.norm
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        weight = unit.conv.weight.to(dtype, memory_format=CHANNELS_LAST)
        return cls(scale.view(-1, 1, 1, 1), shift.view(-1, 1, 1, 1), weight)

    def __call__(self, maps: Tensor, at_start: bool, at_end: bool, memory: Tensor) -> Tensor:
        """The unit's maps of ``maps``, less a plane at each end that is not the volume's own.

        ``memory`` is a flat float32 tensor to normalise ``maps`` in.
        """
        _, channels, *size = maps.shape
        x = memory[: maps.numel()].view(1, *size, channels).movedim(-1, 1)
        x = F.elu_(torch.addcmul(self.shift, maps, self.scale, out=x)).to(self.weight.dtype)
        if at_start or at_end:
            x = F.pad(x, (0, 0, 0, 0, at_start, at_end)).contiguous(memory_format=CHANNELS_LAST)
        return conv3d(x, self.weight, padding=(0, 1, 1))


class _BlockStream:
    """A dense block that is fed planes and gives those that are complete, ``units`` planes behind."""

    def __init__(
        self,
        block: DenseBlock,
        radius: int,
        depth: int,
        planes: int,
        needed: Needed,
        scratch: Tensor,
        memory: Tensor,
    ):
        self.units = [_Unit.of(unit, scratch.dtype) for unit in block.children()]
        self.radius, self.depth, self.planes = radius, depth, planes
        self.needed, self.scratch, self.memory = needed, scratch, memory
        self.done = [0] * (len(self.units) + 1)  # planes known of the block's input and of each unit's maps
        self.first, self.kept = 0, None  # planes that the next slab needs, and the number of the first
        # One place for what all slabs keep: a new one each time would pile up in the allocator.
        self.place = torch.empty_like(scratch[:, :, : len(self.units) + 1], memory_format=CHANNELS_LAST)

    def push(self, x: Tensor) -> Tensor:  # (1, 2k, d, H, W)
        first, begun, width = self.first, self.done[-1], x.shape[1]
        maps = self._append(x)  # (1, 6k, ..., H, W)
        for i, unit in enumerate(self.units):
            start, known = self.done[i + 1], self.done[i]
            # never more planes than a slab has, so that the volume's last planes need no more memory
            stop = min(known if known == self.depth else max(known - 1, 0), start + self.planes)
            self.done[i + 1] = stop
            box = self.needed.box(start, stop, self.radius + len(self.units) - 1 - i)
            if box is None:
                continue
            growth = unit.weight.shape[0]
            channels = width + i * growth
            # One voxel more on each side: where that is no face of the volume, the conv's zero padding lies
            # outside of what is kept.
            wide, inner = zip(*(_grow(s, n) for s, n in zip(box, maps.shape[3:], strict=True)), strict=True)
            seen = slice(max(start - 1, 0) - first, min(stop + 1, self.depth) - first)
            new = unit(maps[:, :channels, seen, *wide], start == 0, stop == self.depth, self.memory)
            maps[:, channels : channels + growth, start - first : stop - first, *box] = new[:, :, :, *inner]
        self.first = max(self.done[-1] - 1, 0)
        last = maps[:, :, self.first - first :]
        self.kept = self.place[:, :, : last.shape[2]].copy_(last)
        return maps[:, :, begun - first : self.done[-1] - first]

    def _append(self, x: Tensor) -> Tensor:
        """The planes kept from before and, in the input's channels, the new ones."""
        old = 0 if self.kept is None else self.kept.shape[2]
        maps = self.scratch[:, :, : old + x.shape[2]]
        if old:
            maps[:, :, :old] = self.kept
        maps[:, : x.shape[1], old:] = x
        self.done[0] += x.shape[2]
        return maps


def _grow(box: slice, n: int) -> tuple[slice, slice]:
    """``box`` with a voxel more on each side, within ``n``; and where ``box`` lies in that."""
    low = max(box.start - 1, 0)
    return slice(low, min(box.stop + 1, n)), slice(box.start - low, box.stop - low)


class _Sum:
    """Terms that arrive plane by plane, the first of them ahead of all others; complete planes are taken."""

    def __init__(self):
        self.first, self.planes = 0, None

    def add(self, first: int, term: Tensor) -> None:
        if self.planes is None:
            self.first, self.planes = first, term
        elif first == self.first + self.planes.shape[2]:
            self.planes = torch.cat([self.planes, term], dim=2)
        else:
            self.planes[:, :, first - self.first :][:, :, : term.shape[2]] += term

    def take(self, stop: int) -> Tensor:
        n = stop - self.first
        taken, self.planes, self.first = self.planes[:, :, :n], self.planes[:, :, n:], stop
        return taken


class PlaneStream:
    """The generator, fed slab by slab.

    Args:
        generator: in eval mode, on the device of the volume.
        volume: ``(D, H, W)``; beyond its faces the network sees zeros.
        mask: bool ``(D, H, W)``, the voxels wanted; others come out as anything.
        planes: how many ``push`` is given at most.
        dtype: of the dense units' convs and maps. First conv, compressors and reconstruction, which sum over
            hundreds of maps, stay in float32.
    """

    def __init__(
        self,
        generator: Generator,
        volume: Tensor,
        mask: np.ndarray,
        planes: int,
        dtype: torch.dtype = torch.float32,
    ):
        needed, depth = Needed(mask), volume.shape[0]
        self.depth, self.planes, self.lag = depth, planes, generator.blocks * generator.units
        # Shared by all blocks. Maps outside of the boxes are never read for a voxel that is wanted; zeros at
        # the start make sure that they are numbers all the same.
        width, block = _widths(generator)
        size = (1, block, planes + generator.units + 1, *volume.shape[1:])
        scratch = torch.empty(size, dtype=dtype, device=volume.device, memory_format=CHANNELS_LAST).zero_()
        # What the widest unit reads, normalised: one place for all, because a place of each size for each
        # unit piles up in the allocator and costs page faults.
        widest = block - generator.block0.denselayer1.conv.out_channels
        memory = torch.empty(widest * (planes + 2) * volume[0].numel(), device=volume.device)
        self.padded = F.pad(volume.float()[None, None], (1,) * 6)
        self.conv0 = generator.conv0.weight
        self.blocks = [
            _BlockStream(
                getattr(generator, f"block{i}"),
                generator.units * (generator.blocks - 1 - i),
                depth,
                planes,
                needed,
                scratch,
                memory,
            )
            for i in range(generator.blocks)
        ]
        # A 1x1x1 conv over a concatenation is a sum of 1x1x1 convs over its parts: each part is added to the
        # sums of all readers still to come and then let go.
        readers = [getattr(generator, f"comp{i}") for i in range(generator.blocks - 1)] + [generator.recon]
        self.weights = [_split(reader, generator) for reader in readers]
        self.sums = [_Sum() for _ in readers]

    @property
    def steps(self) -> range:
        """First planes of all pushes; those past the volume's end bring out what is still on its way."""
        return range(0, self.depth + self.lag, self.planes)

    def push(self, first: int) -> tuple[int, Tensor]:
        """Feed the planes from ``first`` on, one of `steps`.

        Returns:
            The number of the first plane that this completes, and what it completes, ``(d, H, W)``.
        """
        first, stop = min(first, self.depth), min(first + self.planes, self.depth)
        part = block_input = self._first_conv(first, stop)
        for i in range(len(self.blocks) + 1):
            stop = first + part.shape[2]
            if stop > first:
                part = part.float()
                for j in range(max(i - 1, 0), len(self.sums)):
                    self.sums[j].add(first, conv3d(part, self.weights[j][i]))
            if i < len(self.blocks):
                if i > 0:
                    block_input = self.sums[i - 1].take(stop)  # (1, 2k, d, H, W)
                first = self.blocks[i].done[-1]
                part = self.blocks[i].push(block_input)  # (1, 6k, d', H, W)
        return first, self.sums[-1].take(stop)[0, 0]

    def _first_conv(self, first: int, stop: int) -> Tensor:  # (1, 2k, d, H, W)
        if first == stop:
            _, _, _, h, w = self.padded.shape
            return self.padded.new_empty((1, self.conv0.shape[0], 0, h - 2, w - 2))
        maps = conv3d(self.padded[:, :, first : stop + 2], self.conv0)
        return maps.contiguous(memory_format=CHANNELS_LAST)


def _widths(generator: Generator) -> tuple[int, int]:
    """Maps of the first conv (2k), and of a block's output, its input included (6k)."""
    width = generator.conv0.out_channels
    return width, (generator.recon.in_channels - width) // generator.blocks


def _split(reader: nn.Conv3d, generator: Generator) -> Sequence[Tensor]:
    """A 1x1x1 conv's weight, cut into the parts that read the first conv and each block."""
    width, block = _widths(generator)
    return reader.weight.split([width] + [block] * ((reader.in_channels - width) // block), dim=1)
