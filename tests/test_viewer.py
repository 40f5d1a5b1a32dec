import io
import math

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from conftest import make_head, write_prepared
from test_report import browser, needs_browser, open_page  # noqa: F401 (browser is a fixture)

from sprl_utils import figures, viewer
from sprl_utils.cli import main


@pytest.fixture
def head(tmp_path):
    return write_prepared(tmp_path, "a", "test", make_head())


def test_a_still_picture_where_nobody_can_move_a_slider(head, monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delenv("VSCODE_PID", raising=False)
    shown = []
    monkeypatch.setattr(viewer, "display", shown.append)
    assert viewer.browse({"LR": head.lr, "HR": head.hr}, head) is None
    (figure,) = shown
    assert len(figure.axes) == 6
    assert matplotlib.pyplot.get_fignums() == []


def test_the_three_planes_meet_where_the_sliders_say(head, monkeypatch):
    """Each plane of a volume that holds its own coordinates, and the lines in it, at the slider's place."""
    monkeypatch.setenv("JPY_SESSION_NAME", "a.ipynb")
    drawn = []
    monkeypatch.setattr(viewer, "three_planes", lambda *args: drawn.append(figures.three_planes(*args)))
    monkeypatch.setattr(viewer, "display", lambda _: None)
    places = np.indices(head.hr.shape).astype(np.float32)
    box = viewer.browse({axis: places[i] for i, axis in enumerate("xyz")}, head)
    *sliders, _ = box.children
    low = [s.start for s in figures.brain_box(np.asarray(head.brain))]
    sliders[0].value, sliders[1].value, sliders[2].value = 3, 5, 7
    axes = np.array(drawn[-1].axes).reshape(3, 3)  # rows: planes, columns: images
    for axis in range(3):
        plane = axes[axis, axis].images[0].get_array()
        assert (plane == low[axis] + sliders[axis].value).all()
        across, up = (sliders[other].value for other in range(3) if other != axis)
        vertical, horizontal = axes[axis, axis].lines
        assert list(vertical.get_xdata()) == [across, across] and list(horizontal.get_ydata()) == [up, up]
    assert matplotlib.pyplot.get_fignums() == []


@needs_browser
def test_a_page_with_a_scan_draws_it_without_network(tmp_path, browser, capsys):  # noqa: F811
    """NiiVue, in a real browser: three planes and a rendering, each with something in it."""
    scan = tmp_path / "scan & <co>.nii.gz"
    nib.save(nib.Nifti1Image((make_head() * 1000).astype(np.int16), np.eye(4)), scan)
    assert main(["view", str(scan)]) == 0
    assert main(["view", str(scan)]) == 1
    assert "expected no file there, found one" in capsys.readouterr().err
    page, wrong = open_page(browser, tmp_path / "scan & <co>.html", viewport={"width": 600, "height": 500})
    page.wait_for_selector("#view[data-drawn=yes]", timeout=60_000)
    assert page.title() == "scan & <co>.nii.gz" and page.locator("canvas").count() == 1
    for _ in range(50):
        shot = matplotlib.pyplot.imread(io.BytesIO(page.screenshot()))[..., :3]
        grey = (np.ptp(shot, axis=2) == 0) & (shot[..., 0] > 0.2)  # not the red cross
        quarters = [grey[:250, :300], grey[:250, 300:], grey[250:, :300], grey[250:, 300:]]
        if all(q.mean() > 0.05 for q in quarters):
            break
        page.wait_for_timeout(200)
    assert all(q.mean() > 0.05 for q in quarters), [math.floor(100 * q.mean()) for q in quarters]
    assert [w for w in wrong if not w.startswith("blob:")] == []


def test_a_file_that_is_no_scan_makes_no_page(tmp_path, capsys):
    (tmp_path / "text.nii").write_text("T1w, the good one")
    assert main(["view", str(tmp_path / "text.nii")]) == 1
    assert "text.nii: expected a volume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["text.nii"]
