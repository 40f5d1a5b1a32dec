"""Thick slices and large voxels: is the network above a cubic spline?

``python -m sprl_utils.scans.thick`` makes the voxels of test people larger in a box in their middle, lets
`sprl_utils.scans.apply` bring them back with the shipped weights, and writes ``results/thick/``.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from scipy import ndimage
from skimage.transform import downscale_local_mean

from sprl_utils import metrics
from sprl_utils.extras.weights import STUDIES, network_of, shipped
from sprl_utils.fetch import fetch_all
from sprl_utils.files import write_atomically
from sprl_utils.kspace import resample
from sprl_utils.manifest import read_manifest
from sprl_utils.masks import head_masks, intensity_scale
from sprl_utils.networks import channels_last, load_generator
from sprl_utils.prepare import CLIP
from sprl_utils.provenance import environment, repo_root, tune_process, write_json
from sprl_utils.scans.apply import make_plan, on_grid, sharpen
from sprl_utils.training import central_box
from sprl_utils.volumes import Volume, read_volume

#: Voxels of HR per voxel of LR on each axis, how LR comes from them, and what the command is given as the
#: kind of scan. The last three are wrong on purpose: they show what a wrong guess costs.
CASES = (
    ((1, 1, 2), "means", "2D"),
    ((1, 1, 4), "means", "2D"),
    ((1, 1, 5), "means", "2D"),
    ((1, 2, 4), "means", "2D"),
    ((2, 2, 2), "means", "3D"),
    ((2, 2, 2), "k-space", "3D"),
    ((1, 1, 4), "k-space", "3D"),
    ((1, 1, 5), "k-space", "3D"),
    ((1, 1, 2), "k-space", "2D"),
    ((1, 1, 4), "k-space", "2D"),
    ((1, 1, 4), "means", "3D"),
)
#: A box that all factors divide; it holds most of the brain, scalp and air.
BOX = (120, 160, 120)
#: Test people: a sharp whole head, a noisy one, and two brains.
HEADS = ("colin27", "ds000011_sub-05", "ds002748_sub-06", "ds002748_sub-26")


def compare(head: Volume, factors: Sequence[int], measured: str, acquisition: str) -> list[dict]:
    """One row per method and region: a head of larger voxels, brought back to its own grid."""
    box = central_box(head.data.shape, BOX)
    hr = np.clip(head.data / np.float32(intensity_scale(head.data, head.voxel_size)), 0, CLIP)[box]
    coarse = [n // f for n, f in zip(hr.shape, factors, strict=True)]
    low = downscale_local_mean(hr, factors) if measured == "means" else np.abs(resample(hr, coarse))
    scan = on_grid(Volume(hr, head.affine, head.header), low.shape, low)
    plan = make_plan(scan, upsample=factors, acquisition=acquisition)
    generator, network = channels_last(load_generator(shipped(plan.weights))), network_of(plan.weights)
    spline = ndimage.zoom(low, factors, order=3, mode="nearest", grid_mode=True)
    zero_filled = np.clip(resample(low, hr.shape), low.min(), low.max())
    sharper = sharpen(scan, plan, generator, dtype=torch.bfloat16)[0].data
    images = (
        ("cubic", "thick", spline),
        ("zero-filled", "thick", zero_filled),
        (network, STUDIES[plan.weights][0], sharper),
    )
    masks = {"box": None, "brain": head_masks(head.data, head.voxel_size)[1][box]}
    rows = []
    for method, run, image in images:
        facts = {
            "voxels": " ".join(map(str, factors)),
            "measured": measured,
            "acquisition": acquisition,
            "network": method,
            "data_consistency": method == network,
            "source_run": run,
        }
        rows += [facts | row for row in metrics.evaluate(image, hr, masks)]
    return rows


def main() -> None:
    """Compare all cases on all heads, and keep what is done after each."""
    tune_process()
    root = repo_root()
    out = root / "results" / "thick"
    subjects = [s for s in read_manifest(root / "data_manifest" / "people.csv") if s.id in HEADS]
    files = fetch_all(subjects, root / "runs" / "cache")
    rows: list[dict] = []
    for subject in (s.id for s in subjects if s.id in files):
        head = read_volume(files[subject], subject)
        for case in CASES:
            rows += [{"subject": subject} | row for row in compare(head, *case)]
            write_atomically(out / "thick.csv", pd.DataFrame(rows).to_csv(index=False))
            print(pd.DataFrame(rows[-6:]).round(4).to_string(index=False), flush=True)
    inputs = [p for paths in files.values() for p in paths]
    write_json(out / "environment.json", environment({"seed": 0}, inputs, [out / "thick.csv"]))


if __name__ == "__main__":
    main()
