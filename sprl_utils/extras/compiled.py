"""Networks compiled by OpenVINO, which fuses on a CPU what torch runs one by one.

A network is converted in memory and compiled for one size of input, once per process.
"""

import hashlib
import sys
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from sprl_utils.inference import Progress
from sprl_utils.tiles import grow, halo_and_step, plan_tiles, same_size, shrink, within

# When OpenVINO is imported it sends usage data to its makers, unless this package is missing.
sys.modules.setdefault("openvino_telemetry", None)
import openvino as ov  # noqa: E402
from openvino import opset13 as ops  # noqa: E402, F401  for the graphs

Model = Callable[..., ov.Model]
#: What a converted network needs per voxel of a tile, over what it needs in torch in fp32 (measured).
SHARE = {torch.float32: 0.45, torch.bfloat16: 0.25}
#: Compiled graphs of this process, and how many are kept.
GRAPHS: dict[tuple, ov.CompiledModel] = {}
KEPT_GRAPHS = 16


def compile_model(model: ov.Model, dtype: torch.dtype) -> ov.CompiledModel:
    """For this CPU and as many threads as torch has."""
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    return ov.Core().compile_model(model, "CPU", settings)


def compiled(
    network: nn.Module, digest: str, size: Sequence[int], dtype: torch.dtype, model: Model
) -> ov.CompiledModel:
    """The graph of ``model(network, *size)``, compiled the first time for weights of this `_digest`."""
    key = (model, digest, *size, dtype, torch.get_num_threads())
    if key not in GRAPHS:
        while len(GRAPHS) >= KEPT_GRAPHS:
            GRAPHS.pop(next(iter(GRAPHS)))
        GRAPHS[key] = compile_model(model(network, *size), dtype)
    return GRAPHS[key]


def _digest(network: nn.Module) -> str:
    """Hash of a network's structure and weights."""
    found = hashlib.sha256(repr(network).encode())
    for name, tensor in network.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def in_tiles(
    volume: np.ndarray,
    network: nn.Module,
    wanted: np.ndarray,
    max_voxels: int,
    dtype: torch.dtype,
    progress: Progress,
    model: Model | None = None,
) -> np.ndarray:
    """Any network over tiles of one size, which are moved into the volume at its faces.

    Args:
        max_voxels: of a tile, its halo included.
        model: makes the graph of the network for a size; None is `converted`.
    """
    halo, step = halo_and_step(network)
    inner = shrink(plan_tiles(volume.shape, halo, max_voxels, step), wanted)
    outer = same_size([grow(box, halo, volume.shape, step) for box in inner], volume.shape, step)
    restored, digest = volume.copy(), _digest(network)
    for box, read in progress(list(zip(inner, outer, strict=True))):
        x = volume[read][None, None]
        graph = compiled(network, digest, x.shape[2:], dtype, model or converted)
        restored[box] = graph(x)[0][0, 0][within(box, read)]
    for graph in GRAPHS.values():
        graph.release_memory()  # of features; a graph allocates it again when it runs
    return restored


def converted(network: nn.Module, *size: int) -> ov.Model:
    """Any network, from torch's record of what it does to a few voxels: so many that it pads them alike."""
    _, step = halo_and_step(network)
    example = torch.zeros(1, 1, *(2 * s + n % s for n, s in zip(size, step, strict=True)))
    with warnings.catch_warnings():  # what torch.export records instead takes twice the memory
        warnings.simplefilter("ignore", DeprecationWarning)
        model = ov.convert_model(torch.jit.trace(network, example, check_trace=False))
    model.reshape([1, 1, *size])
    return model
