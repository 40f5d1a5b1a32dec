"""Every method on a prepared head: the images, and one row of metrics for each method and region."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from scipy import ndimage, stats
from torch import nn

from sprl_utils import metrics
from sprl_utils.extras import detail
from sprl_utils.files import atomic_write
from sprl_utils.inference import super_resolve
from sprl_utils.kspace import crop_kspace, interpolate, restore_measured
from sprl_utils.networks import count_parameters, multiply_adds
from sprl_utils.patches import Prepared
from sprl_utils.volumes import foreground_mask

#: Interpolation methods and their spline order.
INTERPOLATIONS = {"nearest": 0, "linear": 1, "cubic": 3}
#: Added to a network's name where its image got the measured part of k-space back.
CONSISTENT = " + measured k-space"
#: Voxels around the head that still count as head: there the lost frequencies ring most.
AIR_MARGIN = 5


def reconstruct(
    subject: Prepared,
    generators: dict[str, nn.Module],
    memory_gib: float = 4.0,
    skip_air: bool = False,
    dtype: torch.dtype = torch.float32,
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """HR-grid images of one head by every method, and the seconds each took.

    Args:
        generators: method name -> network, run on the zero-filled LR.
        skip_air: copy the air of the LR image, found in LR with a margin of `AIR_MARGIN`, instead of running
            the network there.
        dtype: of most of the network's arithmetic; see `sprl_utils.inference.super_resolve`.

    Returns:
        Float32 ``(x, y, z)`` volumes on HR's scale, and seconds, both by method. Each network stands there
        as it is, and with the measured part of k-space put back (`CONSISTENT`). Interpolations and the latter
        need to know what was cut, and are left out where the subject came with its own LR.
    """
    images, seconds = {}, {}
    hr, lr, keep = np.asarray(subject.hr), np.asarray(subject.lr), subject.meta["keep"]
    if keep is not None:
        coarse = crop_kspace(hr, keep)
        for name, order in INTERPOLATIONS.items():
            images[name], seconds[name] = _timed(interpolate, coarse, hr.shape, order)
    images["zero-filled"], seconds["zero-filled"] = lr, 0.0
    voxel_size = nib.affines.voxel_sizes(np.array(subject.meta["affine"]))
    head = (
        ndimage.binary_dilation(foreground_mask(lr, voxel_size), iterations=AIR_MARGIN) if skip_air else None
    )
    for name, generator in generators.items():
        images[name], seconds[name] = _timed(
            super_resolve, lr, generator, memory_gib=memory_gib, foreground=head, dtype=dtype
        )
    for name in generators if keep is not None else ():
        consistent, more = _timed(restore_measured, images[name], lr, keep)
        images[name + CONSISTENT], seconds[name + CONSISTENT] = consistent, seconds[name] + more
    return images, seconds


def score(
    subject: Prepared,
    images: dict[str, np.ndarray],
    seconds: dict[str, float],
    generators: dict[str, nn.Module],
    source_run: str = "",
) -> pd.DataFrame:
    """One row per method and region (whole volume, brain): metrics, parameters, seconds per volume.

    Args:
        source_run: profile of the run whose weights and whose machine these are.
    """
    masks = {"whole": None, "brain": np.asarray(subject.brain)}
    hr = np.asarray(subject.hr)
    rows = []
    for name, image in images.items():
        generator = generators.get(name.removesuffix(CONSISTENT))
        parameters = count_parameters(generator) if generator is not None else 0
        cost = multiply_adds(generator, 1) * hr.size if generator is not None else 0
        facts = {"subject": subject.meta["id"], "group": subject.meta["group"]}
        facts |= {"kind": subject.meta["kind"], "method": name, "source_run": source_run}
        rows += [
            facts
            | row
            | {"parameters": parameters, "multiply_adds": cost, "seconds": round(seconds[name], 2)}
            for row in metrics.evaluate(image, hr, masks)
        ]
    return pd.DataFrame(rows)


def score_detail(
    subject: Prepared, images: dict[str, np.ndarray], patches: int = 0, seed: int = 0
) -> pd.DataFrame:
    """One row per method: what `sprl_utils.extras.detail` says of its image, inside the brain where it can.

    Args:
        patches: places that the two-sample test looks at on each side of the head; 0: no such test.

    Returns:
        ``hfen``, ``gradient_similarity``, ``told_from_hr`` (share of patches told right, 0.5: chance) in
        the brain; ``band_power``, ``band_correlation`` of the whole volume where it is known what was cut.
    """
    hr, brain, keep = np.asarray(subject.hr), np.asarray(subject.brain), subject.meta["keep"]
    rows = []
    for name, image in images.items():
        row = {
            "subject": subject.meta["id"],
            "method": name,
            "hfen": detail.hfen(image, hr, brain),
            "gradient_similarity": detail.gradient_similarity(image, hr, brain),
        }
        if keep is not None:
            row |= detail.band(image, hr, keep)
        if patches:
            row["told_from_hr"] = detail.two_sample_test(image, hr, brain, patches=patches, seed=seed)
        rows.append(row)
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per region and method: mean and SD over heads, cost, and the runs that the rows come from.

    Args:
        scores: rows of `score`, and those of `sprl_utils.extras.weights.held_out_rows` below them.

    Returns:
        Columns of `sprl_utils.metrics.summarise`, ``source_run``, and means of ``parameters``,
        ``multiply_adds`` and ``seconds`` per volume; the latter is NaN where another run did the work.
    """
    by_method = scores.groupby("method", sort=False)
    runs = by_method["source_run"].agg(lambda names: ", ".join(names.unique()))
    cost = by_method[["parameters", "multiply_adds", "seconds"]].mean()
    return metrics.summarise(scores, ["region", "method"]).merge(runs.to_frame().join(cost).reset_index())


def results_table(scores: pd.DataFrame, region: str) -> pd.DataFrame:
    """Methods down, heads and metrics across, of one region: what the README shows."""
    inside = scores[scores["region"] == region]
    table = inside.pivot(index="method", columns="subject", values=list(metrics.METRICS)).swaplevel(axis=1)
    order = [(s, m) for s in inside["subject"].unique() for m in metrics.METRICS]
    return table.loc[inside["method"].unique(), order].rename_axis(columns=["head", "metric"])


def as_markdown(table: pd.DataFrame) -> str:
    """A `results_table` as Markdown: PSNR in dB with two decimals, SSIM and NRMSE with four; - if missing."""
    heads = list(dict.fromkeys(head for head, _ in table.columns))
    lines = [
        "| method | " + " | ".join(f"{h}: PSNR / SSIM / NRMSE" for h in heads) + " |",
        "|---" * (len(heads) + 1) + "|",
    ]
    for method, row in table.iterrows():
        values = [[row[(h, m)] for m in metrics.METRICS] for h in heads]
        cells = ["-" if np.isnan(v).any() else "{:.2f} / {:.4f} / {:.4f}".format(*v) for v in values]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def save_volume(subject: Prepared, image: np.ndarray, path: Path) -> None:
    """Write an image as NIfTI in the input's own intensity units and position."""
    data = np.asarray(image, dtype=np.float32) * np.float32(subject.meta["scale"])
    with atomic_write(path) as beside:
        nib.save(nib.Nifti1Image(data, np.array(subject.meta["affine"])), beside)


def improvement(scores: pd.DataFrame, method: str, over: Sequence[str]) -> pd.DataFrame:
    """PSNR and SSIM of ``method`` minus those of each method in ``over``, whole volume, one row a head."""
    whole = scores[scores["region"] == "whole"].set_index(["subject", "method"])[["psnr", "ssim"]]
    parts = {other: whole.xs(method, level="method") - whole.xs(other, level="method") for other in over}
    return pd.concat(parts, axis=1).dropna()


def paired_interval(
    scores: pd.DataFrame, method: str, over: Sequence[str], region: str = "whole", seed: int = 0
) -> pd.DataFrame:
    """Mean difference of ``method`` and each of ``over``, with its 95 % bootstrap interval over people.

    Scans of one person are averaged first: they are no independent evidence. With a handful of people an
    interval is a rough guide at best, and with one there is none (NaN).

    Returns:
        One row for each other method and metric: ``difference``, ``low``, ``high``, number of ``people``.
    """
    inside = scores[scores["region"] == region]
    by_person = inside.groupby(["group", "method"])[list(metrics.METRICS)].mean()
    rows = []
    for other in over:
        apart = (by_person.xs(method, level="method") - by_person.xs(other, level="method")).dropna()
        for metric in metrics.METRICS:
            values = apart[metric].to_numpy()
            low, high = np.nan, np.nan
            if len(values) > 1:
                found = stats.bootstrap((values,), np.mean, method="percentile", rng=seed)
                low, high = found.confidence_interval
            rows.append({"over": other, "metric": metric, "difference": values.mean(), "low": low,
                         "high": high, "people": len(values)})  # fmt: skip
    return pd.DataFrame(rows)


def _timed(function, *args, **kwargs) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - start
