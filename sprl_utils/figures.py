"""Every picture of the study.

Heads are cut to the brain, because some of the test heads have a face, and turned to RAS order by their
affine, so that an axial plane is axial whatever the file's axis order: left is on the left of a picture,
anterior or superior is up. Pixels have the proportions of the voxels.
"""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import fft, ndimage

from sprl_utils.evaluation import Reconstruction, data_set
from sprl_utils.patches import Prepared

#: The plane seen when the slice is taken along x, y, z of a head in RAS order.
PLANES = ("sagittal", "coronal", "axial")
#: Where the axes of a head in RAS order lead.
DIRECTIONS = ("left to right", "posterior to anterior", "inferior to superior")


def banner(profile: str) -> None:
    """Say loudly that a smoke run's numbers are not results."""
    if profile == "smoke":
        display(
            Markdown(
                "> **SMOKE RUN**: cropped heads and a handful of training steps, to see that everything "
                "works. Numbers and pictures below are *not* results; those are in the other folders of "
                "`results/`."
            )
        )


def brain_box(brain: np.ndarray, margin: int = 4) -> tuple[slice, ...]:
    """Bounding box of a brain mask with a margin; the whole volume if the mask is empty.

    Planes that meet less than a twentieth of what the fullest one does are left out: a mask that follows the
    spinal cord would else bring neck and face into the picture.
    """
    if not brain.any():
        return tuple(slice(0, n) for n in brain.shape)
    box = []
    for axis, n in enumerate(brain.shape):
        met = brain.sum(axis=tuple(a for a in range(3) if a != axis))
        planes = np.flatnonzero(met >= 0.05 * met.max())
        box.append(slice(max(int(planes[0]) - margin, 0), min(int(planes[-1]) + 1 + margin, n)))
    return tuple(box)


def _show(ax: Axes, image: np.ndarray, axis: int, index: int, size: Sequence[float], **style) -> None:
    """One slice of a volume with voxels of ``size``, second remaining axis upwards."""
    across, up = (size[other] for other in range(3) if other != axis)
    ax.imshow(
        np.take(image, index, axis=axis).T,
        origin="lower",
        interpolation="nearest",
        **{"cmap": "gray", "vmin": 0, "vmax": 1, "aspect": up / across} | style,
    )
    ax.set_xticks([])
    ax.set_yticks([])


def turned(image: np.ndarray, affine: Sequence[Sequence[float]]) -> np.ndarray:
    """A volume in RAS order: its axes lead, as nearly as they can, to the right, to the front and up."""
    turn = nib.orientations.io_orientation(np.asarray(affine))
    return nib.orientations.apply_orientation(np.asarray(image), turn)


def as_seen(image: np.ndarray, subject: Prepared) -> np.ndarray:
    """A volume on the subject's grid, cut to the brain and turned to RAS order."""
    return turned(np.asarray(image)[brain_box(np.asarray(subject.brain))], subject.meta["affine"])


def _ras_axes(affine: Sequence[Sequence[float]]) -> np.ndarray:
    """For each axis of the file that of `turned` which it becomes."""
    return nib.orientations.io_orientation(np.asarray(affine))[:, 0].astype(int)


def size_seen(affine: Sequence[Sequence[float]]) -> np.ndarray:
    """Edges of a voxel in mm along the axes of `turned`."""
    size = np.empty(3)
    size[_ras_axes(affine)] = nib.affines.voxel_sizes(np.asarray(affine))
    return size


def three_planes(
    images: dict[str, np.ndarray], subject: Prepared, place: Sequence[int] | None = None
) -> Figure:
    """A slice of each image (columns) in each of three planes (rows).

    Args:
        place: where the planes meet, in voxels of `as_seen`; lines then show it. None: the middle.
    """
    figure, axes = plt.subplots(
        3, len(images), figsize=(2.7 * len(images), 7.6), squeeze=False, layout="constrained"
    )
    size = size_seen(subject.meta["affine"])
    for column, (name, image) in enumerate(images.items()):
        image = as_seen(image, subject)
        for axis in range(3):
            _show(axes[axis, column], image, axis, place[axis] if place else image.shape[axis] // 2, size)
            axes[axis, 0].set_ylabel(PLANES[axis])
            if place:
                across, up = (place[other] for other in range(3) if other != axis)
                axes[axis, column].axvline(across, color="tab:orange", lw=0.6)
                axes[axis, column].axhline(up, color="tab:orange", lw=0.6)
        axes[0, column].set_title(name)
    figure.suptitle(f"{subject.meta['id']} ({subject.meta['split']})")
    return figure


def kspace_before_after(subject: Prepared) -> Figure:
    """Log magnitude of the central k-space plane across the cut axes, of HR and of LR.

    The plane's normal is the first axis, in RAS order, that was not cut; left to right if nothing is known.
    """
    affine, keep = subject.meta["affine"], subject.meta["keep"] or [None] * 3
    uncut = [int(axis) for axis, kept in zip(_ras_axes(affine), keep, strict=True) if kept is None]
    whole = min(uncut, default=0)
    across, up = (axis for axis in range(3) if axis != whole)
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 4), layout="constrained")
    planes = []
    for image in (subject.hr, subject.lr):
        samples = np.log10(1 + np.abs(fft.fftshift(fft.fftn(turned(image, affine), workers=-1))))
        planes.append(samples.take(samples.shape[whole] // 2, axis=whole))
    edges = [edge - 0.5 for n in planes[0].shape for edge in (-(n // 2), n - n // 2)]  # DC lies at n // 2
    for ax, name, plane in zip(axes, ("HR", "LR"), planes, strict=True):
        style = {"cmap": "magma", "vmin": 0, "vmax": planes[0].max(), "extent": edges}
        drawn = ax.imshow(plane.T, origin="lower", **style)
        ax.set(
            title=f"k-space of {name}",
            xlabel=f"$k_{'xyz'[across]}$, {DIRECTIONS[across]} (samples from the centre)",
            ylabel=f"$k_{'xyz'[up]}$, {DIRECTIONS[up]} (samples from the centre)",
        )
    figure.colorbar(drawn, ax=axes, shrink=0.8, label="log$_{10}$(1 + |F|)")
    return figure


def patch_grid(subject: Prepared, patches: Sequence[Sequence[int]], patch_size: int, title: str) -> Figure:
    """Where patches lie (their first voxels given), drawn over the middle slice of each plane.

    A cube is drawn in a plane if the slice passes through it.
    """
    affine = np.array(subject.meta["affine"])
    hr, size = turned(subject.hr, affine), size_seen(affine)
    box = brain_box(turned(subject.brain, affine), margin=patch_size // 2)
    corners = _corners_seen(subject, patches, patch_size)
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.7), layout="constrained")
    for axis, ax in enumerate(axes):
        middle = (box[axis].start + box[axis].stop) // 2
        _show(ax, hr, axis, middle, size)
        u, v = (a for a in range(3) if a != axis)
        for low in corners:
            if low[axis] <= middle < low[axis] + patch_size:
                _frame(ax, (low[u], low[v]), patch_size, patch_size)
        ax.set(
            title=PLANES[axis],
            xlim=(box[u].start - 0.5, box[u].stop - 0.5),
            ylim=(box[v].start - 0.5, box[v].stop - 0.5),
        )
    figure.suptitle(f"{title}, {subject.meta['id']} ({subject.meta['split']})")
    return figure


def _corners_seen(subject: Prepared, corners: Sequence[Sequence[int]], patch_size: int) -> np.ndarray:
    """First voxels of cubes ``(n, 3)`` in the order of `turned`."""
    turn = nib.orientations.io_orientation(np.array(subject.meta["affine"]))
    stored = np.asarray(corners).reshape(-1, 3)
    from_the_end = np.array(subject.shape) - patch_size - stored
    seen = np.empty_like(stored)
    seen[:, _ras_axes(subject.meta["affine"])] = np.where(turn[:, 1] < 0, from_the_end, stored)
    return seen


def examples(steps: dict[str, np.ndarray], affine: Sequence[Sequence[float]]) -> Figure:
    """The example patch's middle axial slice: LR, SR as training went on, HR, which spans black to white.

    Args:
        steps: title -> array ``(3, x, y, z)`` of LR, SR, HR; LR and HR are the same in all.
        affine: of the head that the patch is cut from.
    """
    first = next(iter(steps.values()))
    shown = {"LR": first[0], **{f"SR, {title}": images[1] for title, images in steps.items()}, "HR": first[2]}
    shown = {title: turned(image, affine) for title, image in shown.items()}
    middle = shown["HR"].shape[2] // 2
    window = dict(zip(("vmin", "vmax"), np.percentile(shown["HR"][..., middle], (0, 100)), strict=True))
    figure, axes = plt.subplots(1, len(shown), figsize=(1.9 * len(shown), 2.2), layout="constrained")
    for ax, (title, image) in zip(axes, shown.items(), strict=True):
        _show(ax, image, 2, middle, size_seen(affine), **window)
        ax.set_title(title, fontsize=11)
    return figure


def comparison(
    made: Sequence[Reconstruction], subject: Prepared, scores: pd.DataFrame, whole_slice: bool = True
) -> Figure:
    """Zoom, axial slice, and the errors of both, one column per method, HR last.

    The axial slice is the one with most brain in it, and the zoom the square of a third of its width in which
    the first volume is furthest from HR. Error maps share one colour scale, which ends where 2 %
    of the first volume's errors are larger. Titles give the PSNR of the tables.

    Args:
        scores: rows of `sprl_utils.evaluation.score`, those of this subject and of these methods among them.
        whole_slice: show the slice, too, and not the zoom alone.
    """
    hr, size = as_seen(subject.hr, subject), size_seen(subject.meta["affine"])
    place, columns = most_brain(subject), len(made) + 1
    first = as_seen(made[0].image, subject) - hr
    zoom = _furthest(np.abs(first) * as_seen(subject.brain, subject), place, size)
    heights = (1, 1, 1.2, 1.2) if whole_slice else (1, 1)
    figure, axes = plt.subplots(
        len(heights), columns, figsize=(3 * columns, 2.9 * sum(heights)), squeeze=False, layout="constrained",
        height_ratios=heights,
    )  # fmt: skip
    limit = np.percentile(np.abs(first), 98)
    error_style = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    for column, one in zip(axes.T, made, strict=False):
        image = as_seen(one.image, subject)
        _show(column[0], image[zoom], 2, 0, size)
        _show(column[1], (image - hr)[zoom], 2, 0, size, **error_style)
        if whole_slice:
            _show(column[2], image, 2, place, size)
            _show(column[3], image - hr, 2, place, size, **error_style)
        column[0].set_title(f"{one.label}\n{_psnr(one, subject, scores)}")
    _show(axes[0, -1], hr[zoom], 2, 0, size)
    axes[0, -1].set_title("HR\n")
    if whole_slice:
        _show(axes[2, -1], hr, 2, place, size)
        across, up, _ = zoom
        for ax in axes[2]:
            _frame(ax, (across.start, up.start), across.stop - across.start, up.stop - up.start)
    for ax, label in zip(axes[:, 0], ("zoom", "zoom, minus HR", "axial", "axial, minus HR"), strict=False):
        ax.set_ylabel(label)
    for ax in axes[1::2, -1]:
        ax.axis("off")
    scale = axes[1, -1].inset_axes((0.05, 0.05, 0.08, 0.9))
    figure.colorbar(axes[1, 0].images[0], cax=scale, label="image minus HR")
    figure.suptitle(f"{subject.meta['id']} ({subject.meta['split']})")
    return figure


def _psnr(one: Reconstruction, subject: Prepared, scores: pd.DataFrame) -> str:
    """What the table says of a volume in the brain."""
    rows = scores[
        (scores["subject"] == subject.meta["id"])
        & (scores["network"] == one.network)
        & (scores["data_consistency"] == one.data_consistency)
        & (scores["region"] == "brain")
    ].head(1)  # this run's rows come first
    return ", ".join(f"{row.region} {row.psnr:.2f} dB" for row in rows.itertuples())


def shell_correlation(shells: dict[str, pd.DataFrame], first_cut: float, title: str) -> Figure:
    """Fourier shell correlation of volumes with HR by spatial frequency.

    Args:
        shells: name -> table of `sprl_utils.extras.detail.shell_correlation`.
        first_cut: frequency in cycles per voxel from which on k-space was cut.
    """
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    styles = itertools.cycle(("-", "--", "-.", ":"))  # curves often lie upon each other
    for (name, table), style in zip(shells.items(), styles, strict=False):
        axes.plot(table["frequency"], table["correlation"], style, label=name)
    axes.axvline(first_cut, color="black", linestyle="-.", linewidth=0.8, label="k-space cut from here on")
    axes.set(xlabel="spatial frequency (cycles per voxel)", ylabel="correlation with HR", ylim=(0, 1.02))
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _furthest(errors: np.ndarray, axial: int, size: Sequence[float]) -> tuple[slice, slice, slice]:
    """The square, a third of an axial slice wide, with the largest mean of ``errors``."""
    width, y = max(1, errors.shape[0] // 3), errors.shape[1]
    height = min(y, max(1, round(width * size[0] / size[1])))
    sums = np.lib.stride_tricks.sliding_window_view(errors[:, :, axial], (width, height)).sum(axis=(2, 3))
    left, back = np.unravel_index(sums.argmax(), sums.shape)
    return slice(left, left + width), slice(back, back + height), slice(axial, axial + 1)


def most_brain(subject: Prepared) -> int:
    """The axial slice of `as_seen` with most brain in it."""
    return int(as_seen(subject.brain, subject).sum(axis=(0, 1)).argmax())


def _frame(ax: Axes, low: tuple[int, int], width: int, height: int) -> None:
    """A rectangle around ``width`` x ``height`` voxels; the first voxel's centre lies on ``low``."""
    corner = (low[0] - 0.5, low[1] - 0.5)
    ax.add_patch(Rectangle(corner, width, height, fill=False, color="tab:orange"))


def save_slices(images: dict[str, dict[str, np.ndarray]], heads: Sequence[Prepared], folder: Path) -> None:
    """The axial slice with most brain in it of each head's images as PNG, a pixel as wide as the finer edge.

    ``index.json`` names the files.

    Args:
        images: head -> name of the image -> volume on the head's grid, 0 to 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, dict[str, str]] = {}
    for head in heads:
        name, size = head.meta["id"], size_seen(head.meta["affine"])[:2]
        most = most_brain(head)
        for number, (kind, image) in enumerate(images[name].items()):
            file = f"{name}_{number}.png"
            style = {"cmap": "gray", "vmin": 0, "vmax": 1, "origin": "lower", "metadata": {"Software": None}}
            plane = ndimage.zoom(
                as_seen(image, head)[:, :, most], size / size.min(), order=0, mode="nearest", grid_mode=True
            )
            plt.imsave(folder / file, plane.T, **style)
            index.setdefault(name, {})[kind] = file
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def gains(differences: pd.DataFrame) -> Figure:
    """PSNR of each method over zero-filled LR, one point per head, a line per data set; brain and whole.

    Args:
        differences: of `sprl_utils.evaluation.over_zero_filled`.
    """
    names = differences["network"] + np.where(differences["data_consistency"], ", data consistency", "")
    several = differences["source_run"].nunique() > 1
    labels = names + "\n" + differences["source_run"] if several else names
    methods = list(labels.unique())[::-1]
    rows = differences.assign(place=labels.map(methods.index), set=differences["subject"].map(data_set))
    figure, axes = plt.subplots(
        1, 2, figsize=(10, 1.2 + 0.5 * len(methods)), sharex=True, sharey=True, layout="constrained"
    )
    for ax, region in zip(axes, ("brain", "whole"), strict=True):
        _dots(ax, rows[rows["region"] == region], "psnr", methods)
        ax.axvline(0, color="black", lw=0.8)
        ax.set(title=region, xlabel="PSNR over zero-filled (dB)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return figure


def tissue_overlap(overlap: pd.DataFrame) -> Figure:
    """Dice of each tissue in each image with the tissue in HR, one point per head, a line per data set.

    Args:
        overlap: rows of `sprl_utils.extras.tissue.score`.
    """
    methods, tissues = list(overlap["network"].unique())[::-1], list(overlap["tissue"].unique())
    rows = overlap.assign(place=overlap["network"].map(methods.index), set=overlap["subject"].map(data_set))
    figure, axes = plt.subplots(
        1, len(tissues), figsize=(3.6 * len(tissues), 1.2 + 0.5 * len(methods)), sharey=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for ax, tissue in zip(axes[0], tissues, strict=True):
        _dots(ax, rows[rows["tissue"] == tissue], "dice", methods)
        ax.set(title=tissue, xlabel="Dice with HR's")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return figure


def _dots(ax: Axes, rows: pd.DataFrame, column: str, methods: Sequence[str]) -> None:
    """Points per method, at the rows' ``place``; a colour per ``set``, and a mark at the mean of several.

    A thin line leads from method to method for each head.
    """
    for name, points in rows.groupby("set", sort=False):
        (drawn,) = ax.plot(points[column], points["place"], "o", alpha=0.6, label=name)
        for _, head in points.groupby("subject"):
            ax.plot(head[column], head["place"], color=drawn.get_color(), lw=0.7, alpha=0.4)
        means = points.groupby("place")[column].agg(["mean", "size"]).query("size > 1")["mean"]
        ax.plot(means, means.index, "|", color=drawn.get_color(), ms=18, mew=2.5)
    ax.set(yticks=range(len(methods)), yticklabels=methods, ylim=(-0.5, len(methods) - 0.5))
    ax.grid(alpha=0.3)


def curves(
    history: pd.DataFrame, panels: dict[str, dict[str, str]], zero_filled: dict[str, float] | None = None
) -> Figure:
    """Columns of a training history against the step, one panel per entry, at most four in a row.

    Args:
        panels: axis label -> column drawn there -> its name; columns that the history lacks are left out.
        zero_filled: column -> what zero-filled LR scores there, drawn as a line.
    """
    rows = math.ceil(len(panels) / 4)
    across = math.ceil(len(panels) / rows)
    size = (3.5 * across, 3.1 * rows)
    figure, axes = plt.subplots(rows, across, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(panels) :]:
        ax.axis("off")
    for ax, (label, columns) in zip(axes.flat, panels.items(), strict=False):
        for column, name in columns.items():
            if column in history:
                known = history.dropna(subset=[column])
                ax.plot(known["step"], known[column], marker=".", label=name)
            if zero_filled and column in zero_filled:
                ax.axhline(zero_filled[column], color="black", ls="--", lw=0.8, label="zero-filled")
        ax.set(xlabel="step", ylabel=label)
        ax.locator_params(axis="x", integer=True)
        if ax.lines:  # before the first validation there is nothing to name
            ax.legend(fontsize=8)
        ax.grid(alpha=0.3)
    return figure


class LiveCurve:
    """A training curve in a notebook that is redrawn in place; called with the history at each checkpoint."""

    def __init__(self, panels: dict[str, dict[str, str]]):
        self.panels, self.handle = panels, None

    def __call__(self, history: pd.DataFrame) -> None:
        figure = curves(history, self.panels)
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)
        plt.close(figure)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, without the date, so that the same picture is the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def dense_network(growth_rate: int = 16, blocks: int = 4, units: int = 4) -> Figure:
    """mDCSRN as a drawing: how its blocks are wired, and how the units of one block are (paper, figure).

    The line above the layers holds all maps made so far. A layer that reads takes all of them; one that
    writes adds its own. Numbers are numbers of maps.
    """
    width, added = 2 * growth_rate, units * growth_rate
    network = [("first conv\n3x3x3", "tab:green", 0, width)]
    for i in range(blocks):
        held = width + i * (width + added)
        if i:
            network.append(("com-\npressor\n1x1x1", "tab:purple", held, 0))
        network.append((f"block {i}", "tab:blue", 0 if i else width, width + added))
    network.append(("recon-\nstruction\n1x1x1", "tab:red", width + blocks * (width + added), 0))
    unit = [("input", "lightgray", 0, width)]
    for i in range(units):
        unit.append(("BatchNorm\nELU\nconv 3x3x3", "tab:blue", width + i * growth_rate, growth_rate))
    unit.append(("output", "lightgray", width + added, 0))
    figure, axes = plt.subplots(2, 1, figsize=(10, 5.6), layout="constrained")
    _wiring(axes[0], network, "the network: all maps made so far are kept, and read again")
    _wiring(axes[1], unit, "one dense block: each unit reads all maps before it")
    axes[0].annotate("LR", (-0.38, 0), (-0.95, 0), va="center", arrowprops={"arrowstyle": "->"}, fontsize=12)
    last = len(network) - 1
    axes[0].annotate("", (last + 0.85, 0), (last + 0.38, 0), arrowprops={"arrowstyle": "->"})
    axes[0].text(last + 0.9, 0, "SR", va="center", fontsize=12)
    return figure


def _wiring(ax: Axes, layers: Sequence[tuple[str, str, int, int]], title: str) -> None:
    """Layers in a row below the line of kept maps: name, colour, maps read from it, maps written to it."""
    line = 1.15
    for place, (name, colour, reads, writes) in enumerate(layers):
        ax.add_patch(Rectangle((place - 0.38, -0.42), 0.76, 0.84, color=colour, alpha=0.35))
        ax.text(place, 0, name, ha="center", va="center", fontsize=10)
        if reads:
            ax.annotate("", (place - 0.15, 0.42), (place - 0.15, line), arrowprops={"arrowstyle": "->"})
            ax.text(place - 0.2, 0.55, reads, ha="right", fontsize=11)
        elif place:
            ax.annotate("", (place - 0.38, 0), (place - 0.62, 0), arrowprops={"arrowstyle": "->"})
        if writes:
            ax.annotate("", (place + 0.15, line), (place + 0.15, 0.42), arrowprops={"arrowstyle": "->"})
            ax.text(place + 0.2, 0.9, f"+{writes}", fontsize=11)
    ax.plot([0.15, len(layers) - 1.15], [line, line], color="black", lw=3)
    ax.set(xlim=(-1, len(layers)), ylim=(-0.5, 1.3))
    ax.set_title(title, fontsize=12)
    ax.axis("off")
