"""Look around in a head in a notebook, with a slider per axis."""

import os

import numpy as np
from IPython.display import display
from ipywidgets import IntSlider, VBox, interactive_output
from matplotlib import pyplot as plt

from sprl_utils.figures import as_seen, three_planes
from sprl_utils.patches import Prepared

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
