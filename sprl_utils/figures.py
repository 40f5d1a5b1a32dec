"""Every picture of the study.

Heads are cut to the brain, because some of the test heads have a face, and turned to RAS order by their
affine, so that an axial plane is axial whatever the file's axis order: left is on the left of a picture,
anterior or superior is up. Pixels have the proportions of the voxels.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
from IPython.display import Markdown, display
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy import ndimage

from sprl_utils.extras import detail
from sprl_utils.kspace import spectrum
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
    figure, axes = plt.subplots(1, 2, figsize=(7.5, 4), layout="constrained")
    top = None
    for ax, (name, image) in zip(axes, {"HR": subject.hr, "LR": subject.lr}.items(), strict=True):
        samples = spectrum(turned(image, affine))
        plane = samples.take(samples.shape[whole] // 2, axis=whole)
        top = plane.max() if top is None else top
        ax.imshow(plane.T, origin="lower", cmap="magma", vmin=0, vmax=top)
        ax.set(
            title=f"k-space of {name}, log$_{{10}}$(1 + |F|)",
            xlabel=f"$k_{'xyz'[across]}$, {DIRECTIONS[across]} (samples)",
            ylabel=f"$k_{'xyz'[up]}$, {DIRECTIONS[up]} (samples)",
        )
    return figure


def patch_grid(subject: Prepared, patches: Sequence[Sequence[int]], patch_size: int) -> Figure:
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
    """The example patch's middle axial slice: LR, SR as training went on, HR.

    Args:
        steps: title -> array ``(3, x, y, z)`` of LR, SR, HR; LR and HR are the same in all.
        affine: of the head that the patch is cut from.
    """
    first = next(iter(steps.values()))
    shown = {"LR": first[0], **{f"SR, {title}": images[1] for title, images in steps.items()}, "HR": first[2]}
    figure, axes = plt.subplots(1, len(shown), figsize=(1.9 * len(shown), 2.3), layout="constrained")
    for ax, (title, image) in zip(axes, shown.items(), strict=True):
        image = turned(image, affine)
        _show(ax, image, 2, image.shape[2] // 2, size_seen(affine))
        ax.set_title(title, fontsize=9)
    return figure


def comparison(images: dict[str, np.ndarray], subject: Prepared, scores: pd.DataFrame) -> Figure:
    """LR | SR | ... | HR in three planes, their error maps below each, and a zoom into the axial plane.

    The axial plane is the one with most brain in it, the others are the middle ones. Error maps share one
    colour scale, which ends where 2 % of the first image's errors are larger. Titles give the
    tables' PSNR, of the whole volume and of the brain.

    Args:
        images: method -> volume; HR is added as the last column.
        scores: rows of `sprl_utils.evaluation.score`, those of this subject and these methods among them.
    """
    hr, size = as_seen(subject.hr, subject), size_seen(subject.meta["affine"])
    psnr = scores[scores["subject"] == subject.meta["id"]].set_index(["method", "region"])["psnr"]
    shown = {name: as_seen(image, subject) for name, image in images.items()} | {"HR": hr}
    figure, axes = plt.subplots(
        7, len(shown), figsize=(2.5 * len(shown), 16.5), squeeze=False, layout="constrained"
    )
    largest = np.percentile(np.abs(next(iter(shown.values())) - hr), 98)
    error_style = {"cmap": "RdBu_r", "vmin": -largest, "vmax": largest}
    places = (hr.shape[0] // 2, hr.shape[1] // 2, _most_brain(subject))
    zoom = _zoom_box(hr.shape, places[2], size)
    contrast = dict(zip(("vmin", "vmax"), np.percentile(hr[zoom], (1, 99)), strict=True))
    for column, (name, image) in enumerate(shown.items()):
        for axis, place in enumerate(places):
            _show(axes[2 * axis, column], image, axis, place, size)
            axes[2 * axis, 0].set_ylabel(PLANES[axis])
            axes[2 * axis + 1, 0].set_ylabel("minus HR")
            if name == "HR":  # minus itself is nothing to see: room for the scale
                axes[2 * axis + 1, column].axis("off")
                scale = axes[2 * axis + 1, column].inset_axes((0.1, 0.1, 0.08, 0.8))
                figure.colorbar(axes[2 * axis + 1, 0].images[0], cax=scale)
            else:
                _show(axes[2 * axis + 1, column], image - hr, axis, place, size, **error_style)
        _show(axes[6, column], image[zoom], 2, 0, size, **contrast)
        _frame_zoom(axes[4, column], zoom)
        regions = () if name == "HR" else ("whole", "brain")
        lines = [name, *(f"{region}: {psnr[name, region]:.2f} dB" for region in regions)]
        axes[0, column].set_title("\n".join(lines), fontsize=10)
    axes[6, 0].set_ylabel("zoom, axial\n(contrast stretched)")
    figure.suptitle(
        f"{subject.meta['id']} ({subject.meta['split']}): PSNR of the whole volume and of the brain"
    )
    return figure


def shell_correlation(images: dict[str, np.ndarray], subject: Prepared) -> Figure:
    """Fourier shell correlation of each image with HR, and where k-space was cut first."""
    figure, axes = plt.subplots(figsize=(7, 3.8), layout="constrained")
    hr = np.asarray(subject.hr)
    styles = itertools.cycle(("-", "-", "--", ":"))  # curves often lie upon each other
    for (name, image), style in zip(images.items(), styles, strict=False):
        shells = detail.shell_correlation(image, hr)
        axes.plot(shells["frequency"], shells["correlation"], style, label=name)
    if subject.meta["keep"] is not None:
        first = detail.first_cut_frequency(hr.shape, subject.meta["keep"])
        axes.axvline(first, color="black", linestyle="-.", linewidth=0.8, label="k-space cut from here on")
    axes.set(xlabel="spatial frequency (cycles per voxel)", ylabel="correlation with HR", ylim=(0, 1.02))
    axes.set_title(f"{subject.meta['id']} ({subject.meta['split']})", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def _zoom_box(shape: Sequence[int], axial: int, size: Sequence[float]) -> tuple[slice, slice, slice]:
    """A square of a third of an axial slice, behind and to one side, where cortex is folded."""
    x, y, _ = shape
    left, back, width = x * 9 // 16, y // 8, x // 3
    height = max(1, round(width * size[0] / size[1]))
    return slice(left, left + width), slice(back, back + height), slice(axial, axial + 1)


def _most_brain(subject: Prepared) -> int:
    """The axial slice of `as_seen` with most brain in it."""
    return int(as_seen(subject.brain, subject).sum(axis=(0, 1)).argmax())


def _frame_zoom(ax: Axes, zoom: tuple[slice, slice, slice]) -> None:
    """Mark what is enlarged elsewhere."""
    across, up, _ = zoom
    _frame(ax, (across.start, up.start), across.stop - across.start, up.stop - up.start)


def _frame(ax: Axes, low: tuple[int, int], width: int, height: int) -> None:
    """A rectangle around ``width`` x ``height`` voxels; the first voxel's centre lies on ``low``."""
    corner = (low[0] - 0.5, low[1] - 0.5)
    ax.add_patch(Rectangle(corner, width, height, fill=False, color="tab:orange"))


def strip(images: dict[str, np.ndarray], subject: Prepared) -> Figure:
    """An axial slice of each image, side by side, and a zoom below: the picture for a front page."""
    figure, axes = plt.subplots(
        2, len(images), figsize=(3 * len(images), 6.4), squeeze=False, layout="constrained",
        height_ratios=(1.25, 1),
    )  # fmt: skip
    axial, size = _most_brain(subject), size_seen(subject.meta["affine"])
    for (above, below), (name, image) in zip(axes.T, images.items(), strict=True):
        image = as_seen(image, subject)
        zoom = _zoom_box(image.shape, axial, size)
        _show(above, image, 2, axial, size)
        _frame_zoom(above, zoom)
        _show(below, image[zoom], 2, 0, size)
        above.set_title(name)
    return figure


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
        most = _most_brain(head)
        for number, (kind, image) in enumerate(images[name].items()):
            file = f"{name}_{number}.png"
            style = {"cmap": "gray", "vmin": 0, "vmax": 1, "origin": "lower", "metadata": {"Software": None}}
            plane = ndimage.zoom(
                as_seen(image, head)[:, :, most], size / size.min(), order=0, mode="nearest", grid_mode=True
            )
            plt.imsave(folder / file, plane.T, **style)
            index.setdefault(name, {})[kind] = file
    (folder / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def bars(scores: pd.DataFrame) -> Figure:
    """PSNR of each method minus zero-filled LR's, one panel a head, whole volume and brain; SSIM as text.

    Nearest and linear interpolation, which lie far below, are left out.
    """
    left_out = ("nearest", "linear", "zero-filled")
    values = scores.set_index(["subject", "region", "method"])[["psnr", "ssim"]]
    change = values - values.xs("zero-filled", level="method")
    methods = [m for m in scores["method"].unique() if m not in left_out][::-1]
    heads, height = scores["subject"].unique(), 0.4
    size = (3 + 3.6 * len(heads), 1.2 + 0.5 * len(methods))
    figure, axes = plt.subplots(
        1, len(heads), figsize=size, sharex=True, sharey=True, squeeze=False, layout="constrained"
    )
    for ax, head in zip(axes[0], heads, strict=True):
        for place, (region, color) in enumerate({"brain": "tab:orange", "whole": "tab:blue"}.items()):
            rows = change.loc[head, region].reindex(methods)
            where = np.arange(len(methods)) + (place - 0.5) * height
            bar = ax.barh(where, rows["psnr"], height, color=color, label=region)
            rounded = rows.round({"psnr": 2, "ssim": 3}) + 0.0  # no minus before a 0
            told = ["" if np.isnan(r.psnr) else f"{r.psnr:+.2f}, {r.ssim:+.3f}" for r in rounded.itertuples()]
            ax.bar_label(bar, told, padding=3, fontsize=7)
        ax.axvline(0, color="black", lw=0.8)
        ax.set(title=head, yticks=range(len(methods)), yticklabels=methods, xlabel="PSNR (dB)")
        ax.margins(x=0.5)  # room for the text
        ax.locator_params(axis="x", nbins=7)
        ax.grid(axis="x", alpha=0.3)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle("Test heads against zero-filled LR: bars PSNR, text PSNR (dB) and SSIM", fontsize=10)
    return figure


def curves(
    history: pd.DataFrame, panels: dict[str, dict[str, str]], zero_filled: dict[str, float] | None = None
) -> Figure:
    """Columns of a training history against the step, one panel per entry.

    Args:
        panels: axis label -> column drawn there -> its name; columns that the history lacks are left out.
        zero_filled: column -> what zero-filled LR scores there, drawn as a line.
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 3.1), squeeze=False, layout="constrained"
    )
    for ax, (label, columns) in zip(axes[0], panels.items(), strict=True):
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


def speed(ratios: pd.DataFrame) -> Figure:
    """How many times faster each task is, and how inference grows with the volume.

    Args:
        ratios: of `sprl_utils.comparison.bench.ratios`.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    last = ratios.assign(voxels=_voxels(ratios["size"])).sort_values("voxels").groupby("task").tail(1)
    last = last.dropna(subset=["times_faster"]).sort_values("times_faster")
    bars = left.barh(last["task"] + "\n" + last["size"], last["times_faster"] - 1, left=1, color="tab:blue")
    left.bar_label(bars, [f"{times:.1f}x" for times in last["times_faster"]], padding=3, fontsize=8)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="times faster than the original procedure")
    left.margins(x=0.15)
    left.tick_params(axis="y", labelsize=8)
    for task, style in {"inference": "o-", "inference, air skipped": "s--"}.items():
        rows = ratios[ratios["task"] == task]
        rows = rows.assign(voxels=_voxels(rows["size"])).sort_values("voxels")
        if task == "inference":
            right.plot(rows["voxels"], rows["original_seconds"], "k^-", label="original procedure")
        right.plot(rows["voxels"], rows["ours_seconds"], style, label=f"ours: {task}")
    right.set(xscale="log", yscale="log", xlabel="voxels of the volume", ylabel="seconds")
    right.grid(alpha=0.3, which="both")
    right.legend(fontsize=8)
    for axis in (left.xaxis, right.yaxis):  # matplotlib's own labels overlap on short axes
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())
    return figure


def _voxels(sizes: pd.Series) -> pd.Series:
    """Voxels of sizes such as ``64x64x64``; 1 for a size of another kind."""
    edges = sizes.str.extract(r"^(\d+)x(\d+)x(\d+)$").fillna(1).astype(int)
    return edges.prod(axis=1)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, without the date, so that the same picture is the same file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def ablations(effects: pd.DataFrame) -> Figure:
    """Change of PSNR against the reference and gain over the variant's own LR, one bar each, both symlog.

    The changes have their range over seeds. Scales are linear within 0.01 dB: effects span three decades.
    """
    shown = effects.iloc[::-1]
    change, gain = shown["psnr_change"], shown["gain"]
    size = (11, 0.9 + 0.36 * len(shown))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    spread = [change - shown["psnr_change_least"], shown["psnr_change_most"] - change]
    labels = ("PSNR against the reference (dB)", "PSNR over the variant's own LR (dB)")
    for ax, values, xerr, label in zip(axes, (change, gain), (spread, None), labels, strict=True):
        bars = ax.barh(shown.index, values, xerr=xerr, color="tab:blue", ecolor="black", error_kw={"lw": 1})
        ax.bar_label(bars, [f"{value:+.3f}" for value in values], padding=4, fontsize=8)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xlim(-30 * max(0.1, -values.min()), 30 * max(0.1, values.max()))
        ax.set(xlabel=label)
        ax.grid(axis="x", alpha=0.3)
    figure.suptitle("Mean over test heads and seeds", fontsize=10)
    return figure
