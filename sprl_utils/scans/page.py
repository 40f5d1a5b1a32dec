"""A page that shows a scan, or two side by side, in NiiVue's viewer, without a server or network."""

import base64
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import ipyniivue
import nibabel as nib
import numpy as np
from ipywidgets.embed import embed_data
from jinja2 import Environment, PackageLoader, select_autoescape

from sprl_utils.scans.formats import read_scan, stem
from sprl_utils.volumes import Volume

#: Chromium draws a page of this many voxels (360 MB; its texts end at 512 MB), and edges of this length.
MOST_VOXELS, LONGEST_EDGE = 2**27, 2048


def page(scans: Sequence[Path]) -> str:
    """One HTML page with a scan, or with two side by side: three planes and a rendering.

    Two scans share one window of grey values, and their crosshairs show the same place in mm. The viewer is
    ipyniivue's; the page stands in for the notebook that it expects around it.

    Raises:
        ValueError, FileNotFoundError: as `sprl_utils.scans.formats.read_scan`; not one or two scans; scans
            too large to be drawn, or two that lie apart.
    """
    images = _images(scans)
    widgets = [_widget(f"{stem(scan)}.nii", image) for scan, image in zip(scans, images, strict=True)]
    places = [_place(image) for image in images]
    to_other = [np.linalg.inv(other) @ own for own, other in zip(places, reversed(places), strict=True)]
    views = [{"model": w.model_id, "to_other": m.tolist()} for w, m in zip(widgets, to_other, strict=True)]
    models = embed_data(views=widgets, drop_defaults=False)["manager_state"]["state"]
    for model in models.values():  # its program is in the page once
        model["state"].pop("_esm", None)
        model["state"].pop("_css", None)
    program = (Path(ipyniivue.__file__).parent / "static" / "widget.js").read_bytes()
    templates = Environment(loader=PackageLoader("sprl_utils.scans", ""), autoescape=select_autoescape())
    return templates.get_template("page.html").render(
        names=[scan.name for scan in scans],
        views=views,
        models=models,
        widget=base64.b64encode(program).decode(),
    )


def _images(scans: Sequence[Path]) -> list[nib.Nifti1Image]:
    """The scans as NIfTI in RAS order with 16-bit integers, in which 0 is black and 1 is white."""
    if not 1 <= len(scans) <= 2:
        raise ValueError(f"expected one scan, or two to compare, found {len(scans)}")
    volumes = [read_scan(scan) for scan in scans]
    shapes = [volume.data.shape for volume in volumes]
    if sum(map(math.prod, shapes)) > MOST_VOXELS or max(map(max, shapes)) > LONGEST_EDGE:
        raise ValueError(
            f"{' and '.join(map(str, scans))}: expected at most {MOST_VOXELS / 1e6:.0f} million voxels and "
            f"{LONGEST_EDGE} per edge, which a browser draws, found {' and '.join(map(str, shapes))}; crop it"
        )
    low, high = _window([volume.data for volume in volumes])
    images = [_image(volume, low, high) for volume in volumes]
    if not _overlap(images):
        raise ValueError(
            f"expected two scans of one place, found {scans[0]} and {scans[1]} apart; "
            "register them first, or show one"
        )
    return images


def _image(volume: Volume, low: float, high: float) -> nib.Nifti1Image:
    shown = (volume.data - np.float32(low)) / np.float32(high - low)
    image = nib.as_closest_canonical(nib.Nifti1Image(shown, volume.affine))
    image.set_data_dtype("<i2")
    return image


def _widget(name: str, image: nib.Nifti1Image) -> ipyniivue.NiiVue:
    """NiiVue with an image, whose format it knows by the name; both views have their planes in one order."""
    widget = ipyniivue.NiiVue(
        multiplanar_layout=ipyniivue.MultiplanarType.GRID, multiplanar_show_render=ipyniivue.ShowRender.ALWAYS
    )
    widget.load_volumes([{"data": image.to_bytes(), "name": name, "cal_min": 0, "cal_max": 1}])
    return widget


def _place(image: nib.Nifti1Image) -> np.ndarray:
    """The matrix from NiiVue's fractions of the field of view, 0 to 1 per axis, to mm."""
    return image.affine @ nib.affines.from_matvec(np.diag(image.shape), [-0.5] * 3)


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
