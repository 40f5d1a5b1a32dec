"""Every method on a prepared head: the volumes, and tidy tables with one row per head, method and region.

A method is named by two columns. ``network`` is the network's name, or "zero-filled" or the name of an
interpolation where there is none. ``data_consistency`` says whether the measured k-space samples were
enforced on its output. A third column, ``source_run``, is the profile of the run that a row comes from.
"""

import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from edt import edt
from scipy import ndimage, stats
from torch import nn

from sprl_utils import metrics
from sprl_utils.files import atomic_write
from sprl_utils.inference import self_ensemble
from sprl_utils.kspace import crop_kspace, data_consistency, interpolate
from sprl_utils.masks import head_with_margin
from sprl_utils.networks import count_parameters, multiply_adds
from sprl_utils.patches import Prepared

#: Interpolation methods and their spline order.
INTERPOLATIONS = {"nearest": 0, "linear": 1, "cubic": 3}
#: Voxels from the brain's rim at which the inner brain begins.
INNER = 8
#: The columns that name a method.
METHOD = ["network", "data_consistency", "source_run"]


@dataclass(frozen=True)
class Reconstruction:
    """A volume on the grid and intensity scale of HR, and how it was made.

    Attributes:
        network, data_consistency: the method, as in the tables.
        image: float32 ``(x, y, z)``.
        seconds: that it took.
        parameters, multiply_adds: of the network; the latter for the whole volume.
    """

    network: str
    data_consistency: bool
    image: np.ndarray
    seconds: float
    parameters: int = 0
    multiply_adds: int = 0

    @property
    def label(self) -> str:
        """For the title of a picture."""
        return self.network + (", data consistency" if self.data_consistency else "")


def reconstruct(
    subject: Prepared,
    generators: dict[str, nn.Module],
    memory_gib: float = 4.0,
    skip_air: bool = False,
    dtype: torch.dtype = torch.float32,
    engine: str = "auto",
    mirrored: Collection[str] = (),
) -> list[Reconstruction]:
    """HR-grid volumes of one head by every method: interpolations, zero-filling, each network.

    Each network also comes with data consistency. That and interpolation need to know what was cut from
    k-space, and are left out where the subject came with an LR of its own.

    Args:
        generators: name -> network, run on the zero-filled LR.
        skip_air: copy the air of the LR image, which `sprl_utils.masks.head_with_margin` finds, instead of
            running the network there.
        dtype, engine: what computes, and in what; see `sprl_utils.inference.super_resolve`.
        mirrored: names out of ``generators`` that give the mean over mirrored volumes,
            `sprl_utils.inference.self_ensemble`.
    """
    hr, lr, keep = np.asarray(subject.hr), np.asarray(subject.lr), subject.meta["keep"]
    made = []
    if keep is not None:
        coarse = crop_kspace(hr, keep)
        for name, order in INTERPOLATIONS.items():
            made.append(Reconstruction(name, False, *_timed(interpolate, coarse, hr.shape, order)))
    made.append(Reconstruction("zero-filled", False, lr, 0.0))
    voxel_size = nib.affines.voxel_sizes(np.array(subject.meta["affine"]))
    head = head_with_margin(lr, voxel_size) if skip_air else None
    for name, generator in generators.items():
        how = {"engine": engine, "memory_gib": memory_gib, "foreground": head, "dtype": dtype}
        axes = subject.cut_axes if name in mirrored else ()
        sr, seconds = _timed(self_ensemble, lr, generator, axes, **how, order=subject.order)
        cost = count_parameters(generator), multiply_adds(generator, 1) * hr.size * 2 ** len(axes)
        made.append(Reconstruction(name, False, sr, seconds, *cost))
        if keep is not None:
            consistent, more = _timed(data_consistency, sr, lr, keep)
            made.append(Reconstruction(name, True, consistent, seconds + more, *cost))
    return made


def _timed(function, *args, **kwargs) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    return function(*args, **kwargs), time.perf_counter() - start


def _brain_box(subject: Prepared) -> np.ndarray:
    """The brain's bounding box."""
    brain = np.asarray(subject.brain)
    box = np.zeros_like(brain)
    for bounds in ndimage.find_objects(brain.astype(np.uint8)):
        box[bounds] = True
    return box


#: Regions in which methods are scored, as masks; None is the whole volume. The inner brain is deeper than
#: `INNER` voxels, where neither the brain's rim nor a loose mask counts.
REGIONS: dict[str, Callable[[Prepared], np.ndarray | None]] = {
    "whole": lambda subject: None,
    "head": lambda subject: np.asarray(subject.foreground),
    "brain": lambda subject: np.asarray(subject.brain),
    "inner brain": lambda subject: edt(np.array(subject.brain)) > INNER,  # it takes no read-only memory
    "brain box": _brain_box,
}


def regions(subject: Prepared, where: Sequence[str] = tuple(REGIONS)) -> dict[str, np.ndarray | None]:
    """Those of `REGIONS` named in ``where``; one without any voxel is left out."""
    masks = {name: make(subject) for name, make in REGIONS.items() if name in where}
    return {name: mask for name, mask in masks.items() if mask is None or mask.any()}


def score(
    subject: Prepared,
    made: Sequence[Reconstruction],
    source_run: str = "",
    where: Sequence[str] = ("whole", "brain"),
) -> pd.DataFrame:
    """One row per method and region: metrics, and what the method costs per volume.

    Args:
        source_run: profile of the run whose weights and whose machine these are.
        where: names out of `REGIONS`.
    """
    masks, hr = regions(subject, where), np.asarray(subject.hr)
    facts = {"subject": subject.meta["id"], "group": subject.meta["group"], "kind": subject.meta["kind"]}
    rows = []
    with ThreadPoolExecutor(2) as pool:  # numpy and scipy work outside of Python's lock
        measured = list(pool.map(lambda one: metrics.evaluate(one.image, hr, masks), made))
    for one, found in zip(made, measured, strict=True):
        method = dict(zip(METHOD, (one.network, one.data_consistency, source_run), strict=True))
        cost = {"parameters": one.parameters, "multiply_adds": one.multiply_adds}
        cost["seconds"] = round(one.seconds, 2)
        rows += [{**facts, **method, **row, **cost} for row in found]
    return pd.DataFrame(rows)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per region and method: mean and SD over heads, and what the method costs.

    Args:
        scores: rows of `score`, and those of `sprl_utils.extras.weights.held_out_rows` below them.

    Returns:
        Number of ``subjects``; ``_mean`` and ``_sd`` (``ddof=1``; empty for a single one) of each metric; and
        means of ``parameters``, ``multiply_adds`` and ``seconds`` per volume; the latter is NaN where another
        run did the work.
    """
    kinds = (("mean", "mean"), ("sd", "std"))
    found = {f"{name}_{kind}": (name, how) for name in metrics.METRICS for kind, how in kinds}
    cost = {name: (name, "mean") for name in ("parameters", "multiply_adds", "seconds")}
    by_method = scores.groupby(["region", *METHOD], sort=False)
    return by_method.agg(subjects=("psnr", "size"), **found, **cost).reset_index()


def over_zero_filled(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows of networks and of cubic interpolation with PSNR and SSIM minus those of zero-filled LR.

    Negative values mean that zero-filling, which costs no training, is better.
    """
    keys = ["subject", "region"]
    lr = scores[scores["network"] == "zero-filled"].set_index(keys)[["psnr", "ssim"]]
    rows = scores[~scores["network"].isin(("nearest", "linear", "zero-filled"))].set_index(keys)
    rows[["psnr", "ssim"]] -= lr.reindex(rows.index)
    return rows.reset_index()[[*keys, *METHOD, "psnr", "ssim"]]


def mean_differences(differences: pd.DataFrame) -> pd.DataFrame:
    """Means over heads of `over_zero_filled`, with Student's 95 % interval of each mean.

    Returns:
        One row per region and method: ``heads``; of PSNR (dB) and SSIM ``_mean``, ``_low`` and ``_high`` (NaN
        for a single head), and ``_better``, the number of heads on which the difference is above 0.
    """

    def summarised(values: pd.Series) -> dict[str, float]:
        low, high = (
            stats.ttest_1samp(values, 0).confidence_interval() if len(values) > 1 else (np.nan, np.nan)
        )
        return {"mean": values.mean(), "low": low, "high": high, "better": int((values > 0).sum())}

    rows = []
    for names, heads in differences.groupby(["region", *METHOD], sort=False):
        row = dict(zip(["region", *METHOD], names, strict=True)) | {"heads": len(heads)}
        for metric in ("psnr", "ssim"):
            row |= {f"{metric}_{name}": value for name, value in summarised(heads[metric]).items()}
        rows.append(row)
    return pd.DataFrame(rows)


def data_set(subject: str) -> str:
    """The data set of a subject, by which its id begins."""
    return subject.split("_")[0]


def results_table(scores: pd.DataFrame, region: str) -> pd.DataFrame:
    """Methods down, heads across: PSNR (dB), SSIM and NRMSE of one region as text, a dash for none.

    ``DataFrame.to_markdown(index=False)`` of it is the table of the README.
    """
    inside = scores[scores["region"] == region]
    cells = inside.assign(
        cell=[f"{row.psnr:.2f} / {row.ssim:.4f} / {row.nrmse:.4f}" for row in inside.itertuples()],
        data_consistency=inside["data_consistency"].map({True: "yes", False: "-"}),
    )
    table = cells.pivot(index=METHOD, columns="subject", values="cell").fillna("-")
    order = cells.drop_duplicates(METHOD).set_index(METHOD).index
    table = table.loc[order, cells["subject"].unique()].reset_index()
    return table.rename_axis(columns=None).rename(columns=lambda name: name.replace("_", " "))


def save_volume(subject: Prepared, image: np.ndarray, path: Path) -> None:
    """Write an image as NIfTI in the input's own intensity units and position."""
    data = np.asarray(image, dtype=np.float32) * np.float32(subject.meta["scale"])
    with atomic_write(path) as beside:
        nib.save(nib.Nifti1Image(data, np.array(subject.meta["affine"])), beside)
