import json
import os
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
from conftest import make_head

from sprl_utils.manifest import Subject
from sprl_utils.original.recipe import OriginalRecipe
from sprl_utils.prepare import Recipe, load_prepared, prepare_all, prepare_subject


def save(path, data):
    nib.save(nib.Nifti1Image(data, np.diag([1, 1, 2, 1])), path)
    return path


def subject_of(path, name="s1", split="train", lr=""):
    return Subject(
        id=name,
        source="local",
        member=str(path),
        lr=str(lr),
        sha256="",
        licence="",
        group=name,
        split=split,
        axes=(1, 2),
        kind="person",
    )


# these little heads have no scalp, and so no brain within one
pytestmark = pytest.mark.filterwarnings("ignore:brain mask")


@pytest.fixture
def scan(tmp_path):
    return save(tmp_path / "scan.nii.gz", make_head() * 900)


def test_hr_and_lr_share_one_scale_that_leads_back_to_the_input(tmp_path, scan):
    prepared = prepare_subject(subject_of(scan), [scan], tmp_path / "out", Recipe(keep=0.5))
    original = nib.load(scan).get_fdata(dtype=np.float32)
    inside = original < 1.2 * prepared.meta["scale"]
    np.testing.assert_allclose((prepared.hr * prepared.meta["scale"])[inside], original[inside], rtol=1e-5)
    assert prepared.lr.shape == prepared.hr.shape and prepared.hr.dtype == np.float32
    inside = prepared.foreground
    assert prepared.lr[inside].mean() == pytest.approx(prepared.hr[inside].mean(), rel=0.05)
    np.testing.assert_array_equal(prepared.meta["affine"], np.diag([1, 1, 2, 1]))


def test_a_crop_knows_where_it_was_cut(tmp_path, scan):
    whole = prepare_subject(subject_of(scan), [scan], tmp_path / "whole", Recipe())
    cut = prepare_subject(subject_of(scan), [scan], tmp_path / "cut", Recipe(crop=(16, 20, 12)))
    assert cut.hr.shape == (16, 20, 12)
    x, y, z = np.linalg.solve(np.array(whole.meta["affine"]), np.array(cut.meta["affine"])[:, 3])[:3].astype(
        int
    )
    np.testing.assert_array_equal(cut.hr, whole.hr[x : x + 16, y : y + 20, z : z + 12])


def test_an_own_lr_is_taken_as_it_is(tmp_path, scan):
    low = make_head(seed=9) * 900
    own = save(tmp_path / "low.nii.gz", low)
    prepared = prepare_subject(subject_of(scan, lr=own), [scan], tmp_path / "out", Recipe())
    np.testing.assert_allclose(prepared.lr * prepared.meta["scale"], low, rtol=1e-5, atol=1e-3)
    assert prepared.meta["keep"] is None


def test_an_own_lr_of_another_size_is_refused_and_nothing_is_left(tmp_path, scan):
    own = save(tmp_path / "low.nii.gz", make_head((40, 44, 30)))
    with pytest.raises(ValueError, match=r"s1: .*\(40, 44, 38\).*\(40, 44, 30\)"):
        prepare_subject(subject_of(scan, lr=own), [scan], tmp_path / "out", Recipe())
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_what_is_there_is_kept_until_recipe_or_file_change(tmp_path, scan):
    out = tmp_path / "out"
    first = (prepare_subject(subject_of(scan), [scan], out, Recipe()).folder / "hr.npy").stat().st_mtime_ns
    assert (
        prepare_subject(subject_of(scan), [scan], out, Recipe()).folder / "hr.npy"
    ).stat().st_mtime_ns == first
    again = prepare_subject(subject_of(scan), [scan], out, Recipe(keep=0.5))
    assert again.meta["keep"] == [None, 0.5, 0.5]
    before = np.array(again.hr)
    save(scan, make_head(seed=5) * 900)
    assert not np.array_equal(prepare_subject(subject_of(scan), [scan], out, Recipe(keep=0.5)).hr, before)


def test_a_scan_is_known_by_its_bytes_wherever_and_whenever_they_lie(tmp_path, scan):
    out, elsewhere = tmp_path / "out", tmp_path / "another name.nii.gz"
    first = prepare_subject(subject_of(scan), [scan], out, Recipe())
    made, voxels = (first.folder / "hr.npy").stat().st_mtime_ns, np.array(first.hr)
    os.utime(scan, ns=(1, 1))
    shutil.copyfile(scan, elsewhere)
    for path in (scan, elsewhere):
        again = prepare_subject(subject_of(path), [path], out, Recipe())
        assert again.meta == first.meta and (again.folder / "hr.npy").stat().st_mtime_ns == made
    scan.write_bytes(save(tmp_path / "other.nii.gz", make_head(seed=5) * 900).read_bytes())
    os.utime(scan, ns=(1, 1))
    assert not np.array_equal(prepare_subject(subject_of(scan), [scan], out, Recipe()).hr, voxels)


def test_a_head_that_changes_sides_in_the_manifest_changes_sides(tmp_path, scan):
    """Its voxels are as they were, so they are not made again."""
    out = tmp_path / "out"
    made = set()
    for split in ("train", "test"):
        prepare_all([subject_of(scan, split=split)], {"s1": [scan]}, out, Recipe())
        (head,) = load_prepared(out, split)
        made.add((head.folder / "hr.npy").stat().st_mtime_ns)
    assert len(made) == 1


def test_a_bad_head_is_listed_and_left_out_unless_asked(tmp_path, scan):
    """The error of one, a line at the end; the others are done, and no half folder stays."""
    bad = save(tmp_path / "bad.nii.gz", np.full((8, 8, 8), np.nan, np.float32))
    out = tmp_path / "out"
    subjects = [subject_of(scan), subject_of(bad, "s2")]
    files, lines = {"s1": [scan], "s2": [bad]}, []
    with pytest.raises(ValueError, match="s2: .*bad.nii.gz"):
        prepare_all(subjects, files, out, Recipe(), stop_at_failure=True)
    assert [p.name for p in out.iterdir()] == ["s1"]
    ready = prepare_all(subjects[::-1], files, out, Recipe(), log=lines.append)
    assert [p.meta["id"] for p in ready] == [p.meta["id"] for p in load_prepared(out, "train")] == ["s1"]
    (line,) = lines
    with pytest.raises(ValueError, match="expected one at least, found none of 1 usable"):
        prepare_all(subjects[1:], files, tmp_path / "none", Recipe(), log=lambda _: None)
    assert line.startswith("not prepared: s2: ") and "bad.nii.gz" in line
    assert sorted(p.name for p in out.iterdir()) == ["index.json", "s1"]


# In a process of its own: a cluster leaves variables in the environment of the process that starts it.
CLUSTER = """
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        input()
"""
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}


def test_processes_and_a_dask_cluster_prepare_the_same(tmp_path, scan):
    """By the original project's recipe: one that core does not know goes to other processes, too."""
    recipe = OriginalRecipe(fixed_scale=900.0)
    subjects = [subject_of(scan, f"s{i}") for i in range(3)]
    files = {s.id: [scan] for s in subjects}
    with subprocess.Popen([sys.executable, "-c", CLUSTER], **PIPES) as cluster:
        runs = [
            prepare_all(subjects, files, tmp_path / "one", recipe),
            prepare_all(subjects, files, tmp_path / "two", recipe, jobs=2),
            prepare_all(
                subjects, files, tmp_path / "dask", recipe, dask_address=cluster.stdout.readline().strip()
            ),
        ]
        cluster.stdin.close()
    for one, *others in zip(*runs, strict=True):
        for other in others:
            assert all(np.array_equal(getattr(one, k), getattr(other, k)) for k in ("hr", "lr", "brain"))
            assert one.meta == other.meta


def test_splits_come_back_in_the_manifests_order(tmp_path, scan):
    subjects = [subject_of(scan, f"s{i}", split) for i, split in enumerate(["test", "train", "test"])]
    prepare_all(subjects, {s.id: [scan] for s in subjects}, tmp_path, Recipe())
    assert [p.meta["id"] for p in load_prepared(tmp_path, "test")] == ["s0", "s2"]
    assert json.loads((tmp_path / "index.json").read_text()) == ["s0", "s1", "s2"]
    with pytest.raises(ValueError, match="heads of split 'validation', found only"):
        load_prepared(tmp_path, "validation")


def test_nothing_prepared_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="index.json: expected the list that 01_prepare_data writes"):
        load_prepared(tmp_path, "train")


def test_a_crop_larger_than_the_head_is_refused(tmp_path, scan):
    with pytest.raises(ValueError, match=r"s1: crop: expected at most the head's .* found \(99, 9, 9\)"):
        prepare_subject(subject_of(scan), [scan], tmp_path / "out", Recipe(crop=(99, 9, 9)))
