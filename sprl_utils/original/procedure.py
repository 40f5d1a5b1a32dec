"""The original project's procedure: LR by a centred FFT, whole volumes as cubes with a margin of 3 voxels.

It is written here from its description and from reading its files, because its code has no licence. It
computes in fp32 with contiguous tensors, as the original did.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from sprl_utils.inference import device_of
from sprl_utils.networks import Generator

#: Edge of the original's cubes, and the margin that it cuts off each side.
CUBE, MARGIN = 64, 3
STRIDE = CUBE - 2 * MARGIN


def original_lr_image(volume: np.ndarray, keep: Sequence[float | None]) -> np.ndarray:
    """LR by the arithmetic of its MATLAB file: 3D FFT in double precision, outer samples 0, magnitude.

    Args:
        volume: ``(x, y, z)``.
        keep: share of the samples kept on each axis; None keeps all.
    """
    k = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(volume)))
    for axis, share in enumerate(keep):
        if share is not None:
            n = volume.shape[axis]
            cut = (n - round(n * share)) // 2
            for outer in (slice(0, cut), slice(n - cut, n)):
                k[(slice(None),) * axis + (outer,)] = 0
    return np.abs(np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(k)))).astype(np.float32)


def plain_forward(generator: Generator, x: Tensor) -> Tensor:
    """`Generator.forward` in contiguous memory, as the original ran it; it is slower on a CPU."""
    outputs = [generator.conv0(x)]
    block_input = outputs[0]
    for i in range(generator.blocks):
        maps = block_input
        for unit in getattr(generator, f"block{i}").children():
            maps = torch.cat([maps, unit.conv(nn.functional.elu(unit.norm(maps)))], dim=1)
        outputs.append(maps)
        if i < generator.blocks - 1:
            block_input = getattr(generator, f"comp{i}")(torch.cat(outputs, dim=1))
    return generator.recon(torch.cat(outputs, dim=1))


def original_cubes(shape: Sequence[int]) -> tuple[list[int], list[tuple[int, int, int]]]:
    """Zero padding per axis, and the place of each cube in the grid (180 cubes for 256x320x320)."""
    counts = [-(-n // STRIDE) for n in shape]
    pads = [-(-(STRIDE * k + 2 * MARGIN - n) // 2) for k, n in zip(counts, shape, strict=True)]
    return pads, list(np.ndindex(*counts))


@torch.no_grad()
def original_super_resolve(
    volume: np.ndarray, generator: Generator, cubes: int = 0
) -> tuple[np.ndarray, float]:
    """A whole volume in 64-cubes every 58 voxels, of which 3 voxels are cut off each side, on G's device.

    Args:
        volume: LR, float32 ``(x, y, z)``.
        cubes: run only so many of the cubes, evenly spread; 0 runs all.

    Returns:
        The merged volume (0 where no cube ran), and the share of the cubes that ran.
    """
    pads, places = original_cubes(volume.shape)
    padded = np.pad(volume, [(p, p + 1) for p in pads])
    merged, device = np.zeros_like(padded), device_of(generator)
    chosen = places[:: max(1, len(places) // cubes)][:cubes] if cubes else places
    for place in chosen:
        low = [i * STRIDE for i in place]
        x = torch.from_numpy(padded[tuple(slice(a, a + CUBE) for a in low)].copy())[None, None]
        y = plain_forward(generator, x.to(device))[0, 0].cpu().numpy()
        inner = tuple(slice(a + MARGIN, a + CUBE - MARGIN) for a in low)
        merged[inner] = y[(slice(MARGIN, -MARGIN),) * 3]
    box = tuple(slice(p, p + n) for p, n in zip(pads, volume.shape, strict=True))
    return merged[box], len(chosen) / len(places)
