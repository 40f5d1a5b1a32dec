import io
import math

import matplotlib
import nibabel as nib
import numpy as np
import pytest
from browser import needs_browser, open_page
from conftest import make_head, write_prepared

from sprl_utils import figures
from sprl_utils.extras import viewer
from sprl_utils.scans import page as pages
from sprl_utils.scans.cli import main


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
def test_a_page_with_a_scan_draws_it_without_network(tmp_path, browser, capsys):
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


def shown(page):
    """What stands in the page, grey against red: ``(grey, crosshair)``, bool ``(rows, columns)``."""
    page.wait_for_selector("#view[data-drawn=yes]", timeout=60_000)
    page.wait_for_timeout(1500)
    shot = matplotlib.pyplot.imread(io.BytesIO(page.screenshot()))[26:, :, :3]  # below the names
    return (np.ptp(shot, axis=2) == 0) & (shot[..., 0] > 0.2), (shot[..., 0] > 0.9) & (shot[..., 1] < 0.1)


@needs_browser
def test_what_a_browser_does_not_read_is_drawn_all_the_same(tmp_path, browser):
    head = make_head()
    nib.save(nib.Nifti1Pair(head, np.eye(4)), tmp_path / "pair.img")
    nib.save(
        nib.Nifti1Image((head * 1000).astype(np.int64), np.eye(4), dtype=np.int64), tmp_path / "i.NII.BZ2"
    )
    nib.save(nib.Nifti1Image(head * np.float32(1e-30), np.eye(4)), tmp_path / "faint.nii")
    nib.save(nib.Nifti1Image(head[:, :, 19:20], np.eye(4)), tmp_path / "slice.nii")
    for name in ("pair.img", "i.NII.BZ2", "faint.nii", "slice.nii"):
        assert main(["view", str(tmp_path / name), str(tmp_path / "page.html"), "--force"]) == 0
        page, _ = open_page(browser, tmp_path / "page.html", viewport={"width": 500, "height": 400})
        assert shown(page)[0].mean() > 0.1, name
        page.close()


def span(mask, axis):
    """First and last place with something in it."""
    places = np.flatnonzero(mask.any(axis=axis))
    return places[0], places[-1]


@needs_browser
def test_two_scans_show_one_place(tmp_path, browser):
    """A ball on two grids, one with a margin: a click in one view moves both crosshairs to one part of it."""
    coarse = nib.affines.from_matvec(np.diag([-2, 2, 4]), [31, -31, -30])  # x from right to left
    fine = nib.affines.from_matvec(np.diag([1, 1, 1]), [-41, -36, -50])
    for name, affine, shape in (("before.nii", coarse, (32, 32, 16)), ("after.nii.gz", fine, (84, 76, 90))):
        place = nib.affines.apply_affine(affine, np.moveaxis(np.indices(shape), 0, -1))
        ball = (np.linalg.norm(place, axis=-1) < 25).astype(np.float32)
        nib.save(nib.Nifti1Image(ball, affine), tmp_path / name)
    assert main(["view", str(tmp_path / "before.nii"), str(tmp_path / "after.nii.gz")]) == 0
    file = tmp_path / "before_and_after.html"
    page, _ = open_page(browser, file, viewport={"width": 1200, "height": 426})
    top_left = shown(page)[0][:200, :300]  # the coronal plane
    (left, right), (top, bottom) = span(top_left, 0), span(top_left, 1)
    page.mouse.click(left + 0.7 * (right - left), 26 + top + 0.3 * (bottom - top))
    grey, red = shown(page)
    found = []
    for half in (0, 600):
        view, cross = (mask[:200, half : half + 300] for mask in (grey, red))
        across, up = cross.mean(axis=0).argmax(), cross.mean(axis=1).argmax()
        (left, right), (top, bottom) = span(view, 0), span(view, 1)
        found.append(((across - left) / (right - left), (up - top) / (bottom - top)))
    assert found[0] == pytest.approx((0.7, 0.3), abs=0.08)  # the ball is drawn in voxels of 2 and 4 mm
    assert found[1] == pytest.approx(found[0], abs=0.08)


@pytest.mark.parametrize(
    ("shape", "move", "words"),
    [
        ((2, 2, 2049), 0, "2048 per edge"),
        ((600, 600, 600), 0, "million voxels"),
        ((9, 9, 9), 50, "of one place"),
    ],
)
def test_what_a_browser_cannot_draw_makes_no_page(tmp_path, monkeypatch, capsys, shape, move, words):
    """Of the large one a stand-in is read: 216 million voxels as one number with strides of 0."""
    small = pages.Volume(np.arange(729, dtype=np.float32).reshape(9, 9, 9), np.eye(4), nib.Nifti1Header())
    place = nib.affines.from_matvec(np.eye(3), [move] * 3)
    other = pages.Volume(np.broadcast_to(np.float32(1), shape), place, nib.Nifti1Header())
    monkeypatch.setattr(pages, "read_scan", lambda path: small if path.name == "a.nii" else other)
    assert main(["view", str(tmp_path / "a.nii"), str(tmp_path / "b.nii")]) == 1
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_arguments_that_are_no_pair_of_scans(tmp_path, capsys):
    names = [str(tmp_path / name) for name in ("a.nii", "b.nii", "c.nii", "page.html")]
    assert main(["view", *names]) == 1 and "or two to compare, found 3" in capsys.readouterr().err
    assert main(["view", names[-1]]) == 1 and "expected a scan before the page" in capsys.readouterr().err


def test_a_file_that_is_no_scan_makes_no_page(tmp_path, capsys):
    (tmp_path / "text.nii").write_text("T1w, the good one")
    assert main(["view", str(tmp_path / "text.nii")]) == 1
    assert "text.nii: expected a volume" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["text.nii"]
