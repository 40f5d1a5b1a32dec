"""The paper's generator over a volume as a stream of planes: no voxel is computed twice, and few are kept.

A tile that is to be exact must be read with a halo of 17 voxels, and in bounded memory computing the halo
costs more than the tile itself. Here a few planes (constant x) go through the network at a time, as one
OpenVINO graph. A 3x3x3 conv can give plane ``p`` once ``p + 1`` has come, so each dense unit runs one plane
behind the one before it and remembers two planes of what it reads. What leaves the last unit, 16 planes
behind, is what one pass over the whole volume would have given.

Tensors are ``(1, C, D, H, W)``, D the x axis along which planes arrive.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from sprl_utils.extras.compiled import Progress, compile_model, ov
from sprl_utils.extras.generator_graph import plane_model
from sprl_utils.networks import Generator
from sprl_utils.tiles import Box, grow, plan_tiles, shrink, within

#: Memory in bytes per voxel of a plane: for what is remembered, and for each plane of a step (measured).
BYTES = {torch.float32: (31_000, 4_500), torch.bfloat16: (17_000, 2_400)}
#: The same for what a graph is given to remember, which it keeps a float32 copy of (measured).
GIVEN = 10_500
#: Fewest and most planes of a step.
FEWEST, MOST = 4, 16
#: What a change of boxes costs: as planes of the new box, and as voxels, for its graph has to be compiled.
CHANGE_PLANES, CHANGE_VOXELS = 8, 100_000


def in_planes(
    volume: np.ndarray,
    generator: Generator,
    wanted: np.ndarray,
    memory_bytes: float,
    dtype: torch.dtype,
    progress: Progress,
) -> np.ndarray:
    """Planes along x, of columns that overlap by a halo where whole planes need too much memory."""
    halo, (fixed, each) = generator.receptive_radius, BYTES[dtype]
    columns = plan_tiles((1, *volume.shape[1:]), halo, int(memory_bytes / (fixed + FEWEST * each)))
    restored = volume.copy()
    for inner in shrink([(slice(0, len(volume)), *column[1:]) for column in columns], wanted):
        outer = grow(inner, halo, volume.shape)
        mask = np.zeros_like(wanted[outer])
        mask[within(inner, outer)] = wanted[inner]
        steps = _steps(mask, generator.blocks * generator.units, memory_bytes, dtype)
        restored[inner] = _column(volume[outer], generator, *steps, dtype, progress)[within(inner, outer)]
    return restored


def _column(
    column: np.ndarray,
    generator: Generator,
    planes: int,
    steps: Sequence[tuple[int, Box]],
    dtype: torch.dtype,
    progress: Progress,
) -> np.ndarray:
    """A column ``(D, H, W)`` in `plan_steps`; beyond its faces the network sees zeros."""
    lag, depth = generator.blocks * generator.units, len(column)
    padded = np.pad(column, ((1, planes + lag + 1), (1, 1), (1, 1)))
    complete = np.pad(column, ((lag, planes), (0, 0), (0, 0)))
    graph, current = None, None
    for first, box in progress(steps):
        if box != current:
            remembered = _remembered(graph, current, box)
            graph = None  # so that two graphs never take memory together
            model = plane_model(generator, planes, *(s.stop - s.start for s in box))
            graph, current = _request(model, dtype, remembered), box
            del remembered
        rows, across = (slice(s.start, s.stop + 2) for s in box)
        there = np.arange(first - lag - 1, first + planes)
        inside = ((there >= 0) & (there < depth)).astype(np.float32)
        slab = np.ascontiguousarray(padded[first : first + planes + 2, rows, across])
        done = graph.infer([slab[None, None], inside[None, None, :, None, None]])
        complete[first : first + planes, *box] = done[0][0, 0]
    return complete[lag : lag + depth]


# ---- which box of the planes each step computes ------------------------------------------------------------


def _steps(
    mask: np.ndarray, lag: int, memory_bytes: float, dtype: torch.dtype
) -> tuple[int, list[tuple[int, Box]]]:
    """Planes of a step, and the steps of a column."""
    depth, (fixed, each) = len(mask) + lag, BYTES[dtype]
    most = min(MOST, int((memory_bytes / mask[0].size - fixed) / each))
    planes = -(-depth // -(-depth // most))  # steps of one size with little beyond the end
    return planes, plan_steps(mask, lag, planes, memory_bytes / (fixed + GIVEN + planes * each))


def plan_steps(mask: np.ndarray, lag: int, planes: int, largest: float = math.inf) -> list[tuple[int, Box]]:
    """First plane of each step and its box of H and W, such that all of ``mask`` comes out right.

    A step that is fed ``planes`` planes from ``first`` on computes maps that reach the output's planes from
    ``first - lag`` to ``first + planes + lag``. Consecutive steps share a box where a tighter one would save
    less than the change costs. A box after the first has at most ``largest`` voxels per plane: its graph is
    given what the one before it remembers, which takes memory.
    """
    needs = []
    for first in range(0, len(mask) + lag, planes):
        seen = mask[max(first - lag, 0) : first + planes + lag].any(axis=0)
        needs += [(first, grow(box, lag, seen.shape)) for box in ndimage.find_objects(seen.astype(np.uint8))]
    best: list[tuple[float, list]] = [(0, [])]  # cost and steps of the first 0, 1, ... needs
    for stop in range(1, len(needs) + 1):
        options = []
        for start in range(stop):
            box = _hull([box for _, box in needs[start:stop]])
            area = math.prod(s.stop - s.start for s in box)
            if start and area > largest:
                continue
            cost = ((stop - start) * planes + CHANGE_PLANES) * area + CHANGE_VOXELS
            options.append((best[start][0] + cost, start, box))
        cost, start, box = min(options, key=lambda option: option[0])
        best.append((cost, best[start][1] + [(first, box) for first, _ in needs[start:stop]]))
    return best[-1][1]


def _hull(boxes: Sequence[Box]) -> Box:
    return tuple(
        slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*boxes, strict=True)
    )


# ---- what a graph remembers, when the box changes ----------------------------------------------------------


def _remembered(graph: ov.InferRequest | None, old: Box | None, new: Box) -> dict[str, np.ndarray]:
    """What a graph for the box ``old`` remembers, cut to ``new``. It gives its other memory back."""
    if graph is None:
        return {}
    graph.get_compiled_model().release_memory()
    return {state.name: _moved(state.state.data, old, new) for state in graph.query_state()}


def _request(model: ov.Model, dtype: torch.dtype, remembered: dict[str, np.ndarray]) -> ov.InferRequest:
    """A graph that remembers what it is given, else zeros."""
    graph = compile_model(model, dtype).create_infer_request()
    if remembered:
        for state in graph.query_state():
            state.state = ov.Tensor(remembered.pop(state.name))
    return graph


def _moved(values: np.ndarray, old: Box, new: Box) -> np.ndarray:
    """``(1, C, D, H, W)`` of the box ``old``, cut to ``new``; zeros where there is nothing."""
    common = tuple(
        slice(max(a.start, b.start), max(a.start, b.start, min(a.stop, b.stop)))
        for a, b in zip(old, new, strict=True)
    )
    moved = np.zeros((*values.shape[:3], *(s.stop - s.start for s in new)), np.float32)
    moved[..., *within(common, new)] = values[..., *within(common, old)]
    return moved
