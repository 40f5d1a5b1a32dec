"""Synthetic heads: what a seed fixes, what a staircase is, whose anatomy is used."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import ndimage

from sprl_utils.extras import synthetic
from sprl_utils.manifest import Subject
from sprl_utils.patches import Prepared
from sprl_utils.prepare import Recipe, load_prepared, volume_arrays, write_prepared
from sprl_utils.volumes import Volume

STILL = synthetic.Look(rotation=0, scale=0, bend=0)


def ball(shape=(40, 44, 48), radius=14, soft=2.0):
    """A bright ball in air, with a smooth edge."""
    grid = np.indices(shape) - (np.array(shape) / 2)[:, None, None, None]
    return ndimage.gaussian_filter((np.sqrt((grid**2).sum(0)) < radius).astype(np.float32), soft)


def test_noise_level_is_the_sd_of_white_noise_on_a_smooth_image():
    rng = np.random.default_rng(0)
    image = ball(radius=18) + 0.04 * rng.standard_normal((40, 44, 48)).astype(np.float32)
    assert synthetic.noise_level(image) == pytest.approx(0.04, rel=0.05)
    assert synthetic.noise_level(ball(radius=18)) < 0.005


def test_without_rotation_scale_and_bend_nothing_moves():
    image = ball()
    np.testing.assert_allclose(synthetic.deform(image, np.random.default_rng(0), STILL), image, atol=1e-5)


def test_half_a_turn_about_each_axis_shows_the_volume_from_behind():
    """Angles are drawn up to ``rotation``; a generator that draws the extreme makes the turn exact."""

    class Extreme:
        uniform = staticmethod(lambda low, high, size: np.array([high, 0, 0]) if high > 1 else np.zeros(size))
        standard_normal = staticmethod(np.zeros)

    image = np.random.default_rng(0).random((8, 9, 10), dtype=np.float32)
    turned = synthetic.deform(image, Extreme(), dataclasses.replace(STILL, rotation=180.0))
    np.testing.assert_allclose(turned[:, 1:-1, 1:-1], image[:, ::-1, ::-1][:, 1:-1, 1:-1], atol=1e-3)


def test_a_slope_becomes_a_step_between_flat_classes():
    ramp = np.broadcast_to(np.linspace(0, 1, 101, dtype=np.float32)[:, None, None], (101, 20, 20))
    look = dataclasses.replace(STILL, classes=(5, 5), edge=0.01)
    steps = np.diff(synthetic.classes_to_intensity(ramp, np.random.default_rng(0), look)[:, 0, 0])
    assert (steps >= -1e-6).all()  # the classes keep their order
    assert ((steps > 0.02).sum(), (steps < 1e-3).sum()) == pytest.approx((4, 96), abs=3)


def test_a_synthetic_head_has_sharper_edges_than_its_source():
    source = ball()
    look = dataclasses.replace(STILL, classes=(2, 2), blur=0, texture=0, bias=0, noise=0)
    head = synthetic.synthetic_head(source, 0, look)
    steepest = [np.abs(np.diff(image / image.max(), axis=0)).max() for image in (source, head)]
    assert steepest[1] > 2 * steepest[0]


def test_a_seed_is_a_head():
    first, again, other = (synthetic.synthetic_head(ball(), seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1
    assert first.dtype == np.float32 and first.min() >= 0


@pytest.fixture
def prepared(tmp_path):
    for name, split in (("a", "train"), ("b", "test")):
        subject = Subject(name, "local", "", group=f"family {name}", split=split)
        arrays, facts = volume_arrays(subject, Volume(ball(), np.eye(4), None), Recipe())
        write_prepared(tmp_path / name, subject, arrays, facts, {"axes": [1, 2]})
    (tmp_path / "index.json").write_text(json.dumps(["a", "b"]))
    return tmp_path


def test_synthetic_heads_join_the_training_split_in_their_sources_group(prepared):
    made = synthetic.add_synthetic(load_prepared(prepared, "train"), 2, prepared, Recipe())
    listed = load_prepared(prepared, "train")
    assert [p.meta["id"] for p in listed] == ["a", "synthetic000", "synthetic001"]
    assert {p.meta["group"] for p in made} == {"family a"} and {p.meta["kind"] for p in made} == {"synthetic"}
    assert not np.array_equal(made[0].hr, made[1].hr)
    assert made[0].lr.shape == made[0].hr.shape
    before = [(p.folder / "hr.npy").stat().st_mtime_ns for p in made]
    synthetic.add_synthetic(load_prepared(prepared, "train")[:1], 2, prepared, Recipe())
    assert [(p.folder / "hr.npy").stat().st_mtime_ns for p in made] == before
    assert json.loads((prepared / "index.json").read_text()).count("synthetic000") == 1


def test_a_head_of_another_split_is_no_source(prepared):
    with pytest.raises(ValueError, match="b: expected a head of split 'train', found 'test'"):
        synthetic.add_synthetic([Prepared(prepared / "b")], 1, prepared, Recipe())


def test_a_fixed_scale_divides_once(tmp_path):
    """By 4095, as the original project did: synthetic heads must be as bright as their source."""
    recipe, subject = Recipe(fixed_scale=4095.0), Subject("a", "local", "", group="a", split="train")
    arrays, facts = volume_arrays(subject, Volume(4095 * ball(), np.eye(4), None), recipe)
    write_prepared(tmp_path / "a", subject, arrays, facts, {"axes": [1, 2]})
    (tmp_path / "index.json").write_text('["a"]')
    (head,) = synthetic.add_synthetic([Prepared(tmp_path / "a")], 1, tmp_path, recipe)
    bright = np.percentile(arrays["hr"], 99), np.percentile(head.hr, 99)
    assert 0.5 < bright[1] / bright[0] < 2  # twice divided it would be a thousandth


def test_a_head_with_lr_of_its_own_is_no_source(tmp_path):
    subject = Subject("a", "local", "", group="a", split="train")
    arrays, facts = volume_arrays(subject, Volume(ball(), np.eye(4), None), Recipe())
    write_prepared(tmp_path / "a", subject, arrays, facts | {"keep": None}, {"axes": [1, 2]})
    with pytest.raises(ValueError, match="a: expected LR cut from HR, found LR of its own"):
        synthetic.add_synthetic([Prepared(tmp_path / "a")], 1, tmp_path, Recipe())
