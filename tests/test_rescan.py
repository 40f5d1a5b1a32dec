import json

import numpy as np
import pytest
from conftest import make_head
from scipy import ndimage
from scipy.spatial.transform import Rotation

from sprl_utils.extras import rescan
from sprl_utils.patches import Prepared


def prepared(folder, name: str, hr: np.ndarray, group: str, affine=None) -> Prepared:
    folder = folder / name
    folder.mkdir()
    np.save(folder / "hr.npy", hr.astype(np.float32))
    np.save(folder / "brain.npy", hr > 0.3)
    affine = np.eye(4) if affine is None else affine
    meta = {"id": name, "group": group, "kind": "person", "shape": hr.shape, "affine": affine.tolist()}
    (folder / "meta.json").write_text(json.dumps(meta))
    return Prepared(folder)


def test_a_head_that_moved_is_brought_back(tmp_path):
    head = ndimage.gaussian_filter(make_head((60, 56, 52)), 1)
    turn = Rotation.from_euler("xyz", [4, -3, 5], degrees=True).as_matrix()
    centre = np.array(head.shape) / 2
    moved = ndimage.affine_transform(head, turn, centre - turn @ centre + [2, -1.5, 1], order=3)
    still, other = prepared(tmp_path, "a", head, "p"), prepared(tmp_path, "b", 2 * moved, "p")
    stranger = prepared(tmp_path, "c", moved, "q")
    before = np.corrcoef(moved.ravel(), head.ravel())[0, 1]
    after = np.corrcoef(rescan.align(other, still).ravel(), head.ravel())[0, 1]
    assert before < 0.95 and after > 0.995
    table = rescan.score_rescans([still, other, stranger])
    assert table[["subject", "rescan"]].to_numpy().tolist() == [["a", "b"]]
    assert table["psnr"].min() > 25  # the factor between both was found


def test_nobody_scanned_twice_is_an_empty_table(tmp_path):
    assert rescan.score_rescans([prepared(tmp_path, "a", make_head((20, 20, 20)), "p")]).empty


def test_other_axes_are_refused(tmp_path):
    head = make_head((20, 20, 20))
    a, b = prepared(tmp_path, "a", head, "p"), prepared(tmp_path, "b", head, "p", np.diag([-1, 1, 1, 1]))
    with pytest.raises(ValueError, match="b: rescan: expected axes RAS as in a, found LAS"):
        rescan.align(b, a)
