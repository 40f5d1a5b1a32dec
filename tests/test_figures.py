"""Planes, sides and proportions of pictures of heads whose file order is not RAS, in closed form."""

import itertools
import json

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_head, write_prepared

from sprl_utils import figures
from sprl_utils.evaluation import Reconstruction
from sprl_utils.networks import Generator
from sprl_utils.patches import Prepared, RandomPatches

#: Edges of a voxel in mm, along x, y, z of the world.
SIZE = np.array([1.0, 1.5, 3.0])
SHAPE = (36, 40, 32)  # of the same head in RAS order
PLACE = (("y", "z"), ("x", "z"), ("x", "y"))  # across and up in a sagittal, coronal, axial picture

orders = pytest.mark.parametrize("order", ["RAS", "LIA", "PIR", "SAL"])


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def stored(image: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
    """A RAS volume as a file of another axis order holds it, and that file's affine."""
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(order)
    )
    affine = np.diag([*SIZE, 1.0]) @ nib.orientations.inv_ornt_aff(turn, image.shape)
    return nib.orientations.apply_orientation(image, turn), affine


def head_in(folder, order: str, cut: str = "yz") -> Prepared:
    """A head whose brain fills all of the volume, with k-space cut along two world axes."""
    hr, affine = stored(make_head(SHAPE), order)
    axes = ["xyz"["RLAPSI".index(letter) // 2] for letter in order]
    head = write_prepared(folder, "head", "test", hr, [0.5 if a in cut else None for a in axes])
    np.save(head.folder / "brain.npy", np.ones_like(hr, bool))
    meta = head.meta | {"affine": affine.tolist()}
    (head.folder / "meta.json").write_text(json.dumps(meta))
    return Prepared(head.folder)


def coordinates(head: Prepared) -> dict[str, np.ndarray]:
    """World coordinates x, y, z in mm of each voxel of the file."""
    places = np.moveaxis(np.indices(head.shape), 0, -1)
    world = nib.affines.apply_affine(np.array(head.meta["affine"]), places)
    return {name: world[..., i] for i, name in enumerate("xyz")}


def grows_by(picture: np.ndarray) -> tuple[float, float]:
    """By how much an image grows from column to column and from row to row (upwards), if evenly."""
    across, up = np.diff(picture, axis=1), np.diff(picture, axis=0)
    assert np.ptp(across) < 1e-3 and np.ptp(up) < 1e-3
    return float(across.mean()), float(up.mean())


def assert_plane(axes, name: str, plane: int) -> None:
    """The picture of world coordinate ``name`` is that of a plane: its sides, its order, its proportions."""
    across, up = PLACE[plane]
    size = dict(zip("xyz", SIZE, strict=True))
    expected = size[name] * (name == across), size[name] * (name == up)
    assert grows_by(np.asarray(axes.images[0].get_array())) == pytest.approx(expected, abs=1e-3)
    assert axes.get_aspect() == pytest.approx(size[up] / size[across])


@orders
def test_three_planes_are_what_they_say(tmp_path, order):
    head = head_in(tmp_path, order)
    axes = np.array(figures.three_planes(coordinates(head), head).axes).reshape(3, 3)
    for plane, (column, name) in itertools.product(range(3), enumerate("xyz")):
        assert axes[plane, 0].get_ylabel() == ("sagittal", "coronal", "axial")[plane]
        assert_plane(axes[plane, column], name, plane)


def table(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["subject", "network", "data_consistency", "region", "psnr"])


def made_of(images: dict[str, np.ndarray]) -> list[Reconstruction]:
    return [Reconstruction(name, False, image, 0.0) for name, image in images.items()]


@orders
def test_comparison_shows_axial_planes_of_the_world(tmp_path, order):
    head = head_in(tmp_path, order)
    compared = figures.comparison(made_of(coordinates(head)), head, table([]))
    axes = np.array(compared.axes[:16]).reshape(4, 4)
    for column, name in enumerate("xyz"):
        assert_plane(axes[0, column], name, 2)
        assert_plane(axes[2, column], name, 2)
    height, width = axes[0, 0].images[0].get_array().shape
    assert height * SIZE[1] == pytest.approx(width * SIZE[0], abs=SIZE[1])  # the zoom is a square


@orders
def test_the_axial_slice_with_most_brain_is_axial(tmp_path, order):
    head = head_in(tmp_path, order)
    z = coordinates(head)["z"]
    brain = np.abs(z - 45) < 20  # a slab; in its middle plane the brain is all of the slice, elsewhere a half
    brain &= (np.abs(z - 45) < 1) | (coordinates(head)["x"] < 18)
    np.save(head.folder / "brain.npy", brain)
    axes = np.array(figures.comparison(made_of({"z": z}), head, table([])).axes)[:8].reshape(4, 2)
    assert np.unique(axes[2, 0].images[0].get_array()) == [45]


@orders
def test_the_zoom_shows_where_the_first_volume_is_furthest_from_hr_in_the_brain(tmp_path, order):
    head = head_in(tmp_path, order)
    np.save(head.folder / "brain.npy", np.ones(head.shape, bool))
    world = coordinates(head)
    x, y = (world[name] / world[name].max() for name in "xy")
    far = (np.abs(x - 0.9) < 0.05) & (np.abs(y - 0.1) < 0.05)
    axes = figures.comparison(made_of({"first": head.hr + far}), head, table([])).axes
    assert axes[2].images[0].get_array().max() == pytest.approx(1)  # the errors' zoom has it


@orders
def test_saved_slices_have_the_heads_proportions_and_sides(tmp_path, order):
    head = head_in(tmp_path, order)
    world = coordinates(head)
    images = {name: values / values.max() for name, values in world.items()}
    figures.save_slices({"head": images}, [head], tmp_path / "slices")
    x, y, z = (plt.imread(tmp_path / "slices" / f"head_{i}.png")[..., 0] for i in range(3))
    width, height = SHAPE[0] * SIZE[0], SHAPE[1] * SIZE[1]
    assert x.shape[0] / x.shape[1] == pytest.approx(height / width, rel=0.02)
    assert (np.diff(x, axis=1) >= 0).all() and x[0, 0] < x[0, -1]  # left is on the left
    assert (np.diff(y, axis=0) <= 0).all() and y[0, 0] > y[-1, 0]  # the first row is the most anterior one
    assert len(np.unique(z)) == 1


@orders
def test_a_cube_is_drawn_where_it_lies_in_the_world(tmp_path, order):
    """The frame's middle is the cube's centre, in voxels of each plane."""
    head, edge = head_in(tmp_path, order), 8
    low = np.array(head.shape) // 2 - 3  # all middle planes pass through it
    box = tuple(slice(a, a + edge) for a in low)
    centre = {name: values[box].mean() for name, values in coordinates(head).items()}
    figure = figures.patch_grid(head, [low], edge, "one cube")
    for ax, (across, up), title in zip(figure.axes, PLACE, ("sagittal", "coronal", "axial"), strict=True):
        (frame,) = ax.patches
        found = np.array(frame.get_xy()) + edge / 2  # in voxels of the picture, centres at whole numbers
        sizes = [SIZE["xyz".index(name)] for name in (across, up)]
        assert found * sizes == pytest.approx([centre[across], centre[up]]) and ax.get_title() == title
        assert (frame.get_width(), frame.get_height()) == (edge, edge)
        assert ax.get_aspect() == pytest.approx(sizes[1] / sizes[0])


@orders
@pytest.mark.parametrize("cut", ["yz", "xz", "xy"])
def test_kspace_is_shown_across_the_axes_that_were_cut(tmp_path, order, cut):
    """LR has samples within the central half of both axes of the picture alone, HR everywhere."""
    head = head_in(tmp_path, order, cut)
    hr, lr = (np.asarray(ax.images[0].get_array()) for ax in figures.kspace_before_after(head).axes[:2])
    rows, columns = (SHAPE["xyz".index(cut[i])] for i in (1, 0))
    assert lr.shape == (rows, columns)
    centre = np.zeros(lr.shape, bool)
    centre[rows // 4 - 1 : -rows // 4 + 1, columns // 4 - 1 : -columns // 4 + 1] = True
    outside = [np.square(10.0 ** picture[~centre] - 1).sum() for picture in (lr, hr)]
    assert outside[0] < 0.2 * outside[1]  # the rest is what taking the magnitude adds
    ax = plt.gcf().axes[0]
    assert ax.get_xlabel().startswith(f"$k_{cut[0]}$") and ax.get_ylabel().startswith(f"$k_{cut[1]}$")


@orders
def test_example_patches_are_axial(order):
    ras = np.stack(np.indices((6, 8, 10)), 0).astype(float) * SIZE[:, None, None, None]
    patch = np.stack([stored(image, order)[0] for image in ras])  # "LR, SR, HR": x, y, z
    affine = stored(ras[0], order)[1]
    for ax, name in zip(figures.examples({"step 1": patch}, affine).axes, "xyz", strict=True):
        assert_plane(ax, name, 2)


def test_a_patch_is_cut_from_the_subject_that_is_named(tmp_path):
    heads = [write_prepared(tmp_path, f"h{i}", "train", np.full((20, 20, 20), 0.2 + i / 10, np.float32))
             for i in range(4)]  # fmt: skip
    patches = RandomPatches(heads, 16, seed=3)
    named = [patches.subject(i).meta["id"] for i in range(24)]
    assert len(set(named)) == 4
    assert named == [f"h{round((patches.patch(i)[1].mean() - 0.2) * 10)}" for i in range(24)]


def test_titles_give_the_tables_psnr(tmp_path):
    """The number of the table, whatever the picture's own box would give."""
    head = head_in(tmp_path, "LIA")
    rows = [("head", "net", True, "whole", 12.344), ("head", "net", True, "brain", 56.786)]
    rows += [("head", "net", False, "whole", 2.0), ("b", "net", True, "whole", 1.0)]
    made = [Reconstruction("net", True, np.asarray(head.lr), 0.0)]
    title = figures.comparison(made, head, table(rows)).axes[0].get_title()
    assert "brain 56.79 dB" in title and title.count(" dB") == 1


def test_gains_have_one_point_per_head_and_method_and_the_mean_of_a_data_set():
    heads = {"ds1_sub-01": 1.0, "ds1_sub-02": -0.5, "colin27": 2.0}
    rows = [(head, "net", dc, "run", region, psnr) for head, psnr in heads.items()
            for dc in (False, True) for region in ("brain", "whole")]  # fmt: skip
    columns = ["subject", "network", "data_consistency", "source_run", "region", "psnr"]
    for ax in figures.gains(pd.DataFrame(rows, columns=columns)).axes:
        marks = {"o": [], "|": [], "None": []}
        for line in ax.lines:
            marks[line.get_marker()].append(list(line.get_xdata()))
        (several, single), (mean, none) = marks["o"], marks["|"]
        assert sorted(several) == [-0.5, -0.5, 1.0, 1.0] and mean == [0.25, 0.25]
        assert single == [2.0, 2.0] and none == []
        followed = [line for line in marks["None"] if line != [0, 0]]  # a line per head, and the upright one
        assert sorted(followed) == [[-0.5, -0.5], [1.0, 1.0], [2.0, 2.0]]


@pytest.mark.parametrize("shape", [(16, 4, 4), (8, 3, 2)])
def test_the_drawn_network_reads_as_many_maps_as_the_real_one(shape):
    convs = [m for m in Generator(*shape).modules() if isinstance(m, torch.nn.Conv3d)]
    network, block = ({text.get_text() for text in ax.texts} for ax in figures.dense_network(*shape).axes)
    assert {str(c.in_channels) for c in convs if c.kernel_size == (1, 1, 1)} <= network
    assert {str(c.in_channels) for c in convs[1:] if c.kernel_size == (3, 3, 3)} <= block
