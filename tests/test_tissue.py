import numpy as np
import pytest
from conftest import write_prepared

from sprl_utils.evaluation import Reconstruction
from sprl_utils.extras import tissue


@pytest.fixture(scope="module")
def brain():
    """White matter within grey matter within fluid: spheres, with noise, in air."""
    radius = np.linalg.norm(np.indices((48, 44, 46)) - np.array([24, 22, 23])[:, None, None, None], axis=0)
    labels = np.select([radius < 12, radius < 16, radius < 20], [3, 2, 1], 0)
    image = np.array([0, 0.25, 0.47, 0.65])[labels] + np.random.default_rng(0).normal(0, 0.03, labels.shape)
    return labels, np.abs(image).astype(np.float32)


def test_spheres_of_tissue_are_found_in_noise(brain):
    labels, image = brain
    found = tissue.segment(image, labels > 0)
    assert (found[labels == 0] == 0).all()
    assert all(tissue.dice(found == k, labels == k) > 0.98 for k in (1, 2, 3))


def test_hr_agrees_with_itself_and_an_inverted_image_does_not(brain, tmp_path):
    labels, image = brain
    subject = write_prepared(tmp_path, "anna", "test", image)
    made = [Reconstruction("same", False, image, 0.0), Reconstruction("inverted", True, 0.9 - image, 0.0)]
    rows = tissue.score(subject, made, "run").set_index(["network", "tissue"])["dice"]
    assert (rows["same"] == 1).all()
    assert rows["inverted", "white matter"] < 0.5


def test_dice_of_two_overlapping_rows():
    a, b = np.zeros(10, bool), np.zeros(10, bool)
    a[:6], b[4:8] = True, True
    assert tissue.dice(a, b) == pytest.approx(2 * 2 / (6 + 4))
