"""Subjects of a folder of scans: which layouts are known, and what is left out."""

from pathlib import Path

import pytest
from conftest import hcp_tree

from sprl_utils import manifest
from sprl_utils.scans.folders import find_subjects


def put(root, *names, content=b"\x1f\x8b not really a scan"):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def annexed(root, name, fetched):
    """A file as git-annex and DataLad keep it: a link to content named by its hash, or to nothing."""
    key = f".git/annex/objects/MD5-s9--{len(name)}{fetched}"
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(root / key)
    if fetched:
        put(root, key)


def found(root):
    told = []
    subjects = find_subjects(root, told.append)
    return [s.id for s in subjects], {Path(line.split(": ")[0]).name: line.split(": ")[2] for line in told}


def test_of_bids_only_magnitude_images_of_t1w_with_content_are_taken(tmp_path):
    put(tmp_path, *(f"sub-1/anat/sub-1_part-{part}_T1w.nii.gz" for part in ("mag", "phase", "real", "imag")))
    put(tmp_path, "sub-1/anat/sub-1_T2w.nii.gz", "sub-1/anat/._sub-1_T1w.nii.gz", "sub-1/anat/sub-1_T1w.json")
    put(tmp_path, "sub-2/ses-a/anat/SUB-2_SES-A_T1W.NII.GZ", "sub-2/func/sub-2_bold.nii.gz")
    put(tmp_path, "sub-3/anat/sub-3_T1w.nii.gz", content=b"/annex/objects/MD5E-s9--a.nii.gz\n")
    put(tmp_path, "sub-4/anat/sub-4_T1w.nii.gz", content=b"version https://git-lfs.github.com/spec/v1\n")
    put(tmp_path, "sub-5/anat/sub-5_T1w.nii", content=b"")
    put(tmp_path, "derivatives/fmriprep/sub-1/anat/sub-1_desc-preproc_T1w.nii.gz", "sourcedata/sub-1/a.dcm")
    ids, left_out = found(tmp_path)
    assert ids == ["sub-1_part-mag", "SUB-2_SES-A"]
    assert left_out == {
        "sub-1_part-phase_T1w.nii.gz": "no magnitude image (part-phase)",
        "sub-1_part-real_T1w.nii.gz": "no magnitude image (part-real)",
        "sub-1_part-imag_T1w.nii.gz": "no magnitude image (part-imag)",
        "sub-1_T2w.nii.gz": "no T1w image",
        "sub-3_T1w.nii.gz": "a short text in place of an image",
        "sub-4_T1w.nii.gz": "a short text in place of an image",
        "sub-5_T1w.nii": "an empty file",
        "derivatives": "no raw data of BIDS",
        "sourcedata": "no raw data of BIDS",
    }


def test_of_a_datalad_tree_the_fetched_files_are_taken_under_their_own_names(tmp_path):
    """A key of git-annex need not end as the file does, and the ending tells the format."""
    names = [f"sub-{i}/anat/sub-{i}_T1w.nii.gz" for i in (1, 22)]
    for name, fetched in zip(names, (True, False), strict=True):
        annexed(tmp_path, name, fetched)
    ids, left_out = found(tmp_path)
    assert ids == ["sub-1"] and left_out == {"sub-22_T1w.nii.gz": "a link whose target is missing"}
    manifest.write_manifest(find_subjects(tmp_path, print), tmp_path / "heads.csv")
    assert manifest.read_manifest(tmp_path / "heads.csv")[0].member == str(tmp_path.resolve() / names[0])
    with pytest.raises(FileNotFoundError, match="expected T1w scans with their content, found none"):
        (tmp_path / names[0]).unlink()
        find_subjects(tmp_path, print)


def test_a_pair_is_left_out_if_one_of_it_has_no_content(tmp_path):
    for fetched, name in ((True, "a.nii.gz"), (False, "bb.nii.gz")):
        put(tmp_path, f"HR/{name}")
        annexed(tmp_path, f"LR/{name}", fetched)
    put(tmp_path, "HR/c.nii", "LR/c.nii", content=b"/annex/objects/MD5-s9--c\n")
    put(tmp_path, "HR/D.NII.GZ", "LR/D.NII.GZ")
    ids, left_out = found(tmp_path)
    assert ids == ["D", "a"] and list(left_out) == ["c.nii", "bb.nii.gz"]


def test_hcp_without_content_is_left_out(tmp_path):
    hcp_tree(tmp_path, "100206")
    put(tmp_path, "100307/unprocessed/3T/T1w_MPR1/100307_3T_T1w_MPR1.nii.gz")
    assert found(tmp_path) == (["100307"], {"100206_3T_T1w_MPR1.nii.gz": "an empty file"})


def test_a_folder_of_dicom_says_so(tmp_path):
    put(tmp_path, "a/b/IM0001", content=bytes(128) + b"DICM" + bytes(9))
    with pytest.raises(FileNotFoundError, match="expected HCP's layout, BIDS .*found DICOM, which dcm2niix"):
        find_subjects(tmp_path)


def test_what_the_notebooks_do_not_read_is_left_out(tmp_path):
    put(tmp_path, "HR/a.nrrd", "HR/b.nii.gz")
    ids, left_out = found(tmp_path)
    assert ids == ["b"] and left_out == {
        "a.nrrd": "a format that the notebooks do not read; convert it to NIfTI"
    }
