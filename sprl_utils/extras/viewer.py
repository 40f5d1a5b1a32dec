"""Look around in a head: sliders in the notebook, or a page with NiiVue that needs no server or network."""

from __future__ import annotations

import base64
import itertools
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import ipyniivue
import nibabel as nib
import numpy as np
from IPython.display import display
from ipywidgets import IntSlider, VBox, interactive_output
from ipywidgets.embed import embed_data
from jinja2 import Environment, PackageLoader, select_autoescape
from matplotlib import pyplot as plt

from sprl_utils.figures import as_seen, three_planes
from sprl_utils.patches import Prepared
from sprl_utils.volumes import Volume, read_volume

NAMES = ("left to right", "back to front", "bottom to top")


def has_front_end() -> bool:
    """Whether somebody can move a slider: JupyterLab and VS Code start kernels with these variables set.

    papermill, nbconvert and nbval, which start kernels themselves, do not.
    """
    return any(name in os.environ for name in ("JPY_SESSION_NAME", "VSCODE_PID"))


def browse(images: dict[str, np.ndarray], subject: Prepared) -> VBox | None:
    """Show images (columns) in three planes (rows) that meet where the sliders say; the lines show where.

    Without a front end, a still picture of the middle.

    Args:
        images: name -> volume on the subject's grid, 0 to 1. A difference is seen best as ``a - b + 0.5``.

    Returns:
        The widget, or None where a picture was shown.
    """
    if not has_front_end():
        display(three_planes(images, subject))
        plt.close()
        return None
    shape = as_seen(next(iter(images.values())), subject).shape
    sliders = {
        f"axis{axis}": IntSlider(
            n // 2, 0, n - 1, description=name, continuous_update=False, style={"description_width": "8em"}
        )
        for axis, (n, name) in enumerate(zip(shape, NAMES, strict=True))
    }

    def draw(**place: int) -> None:
        display(three_planes(images, subject, list(place.values())))
        plt.close()

    return VBox([*sliders.values(), interactive_output(draw, sliders)])


# Chromium draws a page of this many voxels (360 MB; its texts end at 512 MB) with edges of up to this length.
MOST_VOXELS, LONGEST_EDGE = 2**27, 2048


def page(scans: Sequence[Path], read: Callable[[Path], Volume] = read_volume) -> str:
    """One HTML page with a scan, or with two side by side, in NiiVue's viewer: three planes and a rendering.

    Two scans share one window of grey values, and their crosshairs show the same place in mm. The viewer is
    ipyniivue's; the page stands in for the notebook that it expects around it. It gets each scan as NIfTI
    with 16-bit integers, whatever the file is, in which 0 is black and 1 is white.

    Args:
        read: reads one; `sprl_utils.scans.formats.read_scan` knows more formats.

    Raises:
        ValueError, FileNotFoundError: as ``read``; not one or two scans; scans too
            large to be drawn, or two that lie apart.
    """
    if not 1 <= len(scans) <= 2:
        raise ValueError(f"expected one scan, or two to compare, found {len(scans)}")
    volumes = [read(scan) for scan in scans]
    shapes = [volume.data.shape for volume in volumes]
    if sum(map(math.prod, shapes)) > MOST_VOXELS or max(max(shape) for shape in shapes) > LONGEST_EDGE:
        raise ValueError(
            f"{' and '.join(map(str, scans))}: expected at most {MOST_VOXELS / 1e6:.0f} million voxels and "
            f"{LONGEST_EDGE} per edge, which a browser draws, found {' and '.join(map(str, shapes))}; crop it"
        )
    low, high = _window([volume.data for volume in volumes])
    images = [_image(volume, low, high) for volume in volumes]
    if not _overlap(images):
        raise ValueError(f"expected two scans of one place, found {scans[0]} and {scans[1]} apart")
    widgets = []
    for scan, image in zip(scans, images, strict=True):
        widget = ipyniivue.NiiVue(
            multiplanar_layout=ipyniivue.MultiplanarType.GRID,  # the same places in both views
            multiplanar_show_render=ipyniivue.ShowRender.ALWAYS,
        )
        widget.load_volumes(  # NiiVue knows the format by the name
            [{"data": image.to_bytes(), "name": f"{scan.name}.nii", "cal_min": 0, "cal_max": 1}]
        )
        widgets.append(widget)
    places = [_place(image) for image in images]
    to_other = [np.linalg.inv(other) @ own for own, other in zip(places, reversed(places), strict=True)]
    models = embed_data(views=widgets, drop_defaults=False)["manager_state"]["state"]
    for model in models.values():  # its program stands in the page once
        model["state"].pop("_esm", None)
        model["state"].pop("_css", None)
    program = (Path(ipyniivue.__file__).parent / "static" / "widget.js").read_bytes()
    templates = Environment(loader=PackageLoader("sprl_utils.extras", ""), autoescape=select_autoescape())
    return templates.get_template("viewer.html").render(
        title=" and ".join(scan.name for scan in scans),
        names=[scan.name for scan in scans],
        views=_json(
            [{"model": w.model_id, "to_other": m.tolist()} for w, m in zip(widgets, to_other, strict=True)]
        ),
        models=_json(models),
        widget=base64.b64encode(program).decode(),
    )


def _image(volume: Volume, low: float, high: float) -> nib.Nifti1Image:
    """16-bit integers in RAS order, scaled so that ``low`` becomes 0 and ``high`` 1."""
    shown = (volume.data - np.float32(low)) / np.float32(high - low)
    image = nib.as_closest_canonical(nib.Nifti1Image(shown, volume.affine))
    image.set_data_dtype("<i2")
    return image


def _json(value: object) -> str:
    return json.dumps(value).replace("<", "\\u003c")


def _place(image: nib.Nifti1Image) -> np.ndarray:
    """The matrix from NiiVue's fractions of the field of view, 0 to 1 per axis, to mm."""
    shape = np.array(image.shape)
    return image.affine @ nib.affines.from_matvec(np.diag(shape), [-0.5] * 3)


def _overlap(images: Sequence[nib.Nifti1Image]) -> bool:
    """Whether the boxes around the fields of view have a part in common."""
    corners = list(itertools.product((0, 1), repeat=3))
    boxes = [nib.affines.apply_affine(_place(image), corners) for image in images]
    lowest, highest = ([extreme(box, axis=0) for box in boxes] for extreme in (np.min, np.max))
    return bool((np.max(lowest, axis=0) < np.min(highest, axis=0)).all())


def _window(images: Sequence[np.ndarray]) -> tuple[float, float]:
    """Grey values from black to white: percentiles, or all where nearly all voxels are alike."""
    low, high = np.mean([np.percentile(image, (2, 99.8)) for image in images], axis=0)
    if low < high:
        return float(low), float(high)
    return float(min(image.min() for image in images)), float(max(image.max() for image in images))
