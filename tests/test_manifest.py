"""The manifest: what it reads, refuses, and splits."""

import hashlib
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from sprl_utils import manifest
from sprl_utils.manifest import Subject

DEMO = Path(__file__).parents[1] / "data_manifest" / "demo.csv"
HEAD = b"a head"
SHA = hashlib.sha256(HEAD).hexdigest()


def write_csv(folder, text):
    path = folder / "heads.csv"
    path.write_text(text)
    return path


def read(folder, text):
    return manifest.read_manifest(write_csv(folder, text))


def local(subject_id, **columns):
    return Subject(subject_id, "local", f"/data/{subject_id}.nii", **({"group": subject_id} | columns))


# ---- read and write -----------------------------------------------------------------------------------


def test_demo_has_the_heads_of_the_study():
    subjects = manifest.read_manifest(DEMO)
    assert {s.id: s.split for s in subjects} == {
        "oasis": "train",
        "cn200": "train",
        "mni2009c": "validation",
        "colin27": "test",
        "bb1": "test",
        "bb2": "test",
    }
    assert all(s.sha256 and s.licence and s.axes == (1, 2) for s in subjects)
    assert [s.kind for s in subjects] == ["average"] * 3 + ["person"] * 3


def test_only_three_columns_are_needed(tmp_path):
    (subject,) = read(tmp_path, "id,source,member\nanna,local,scans/anna.nii.gz\n")
    assert subject == Subject("anna", "local", str(tmp_path.resolve() / "scans/anna.nii.gz"), group="anna")
    assert (subject.axes, subject.kind, subject.split) == ((1, 2), "person", "")


def test_paths_are_absolute_and_know_home(tmp_path):
    (subject,) = read(tmp_path, "id,source,member,lr\nanna,local,~/a.nii,/data/a_LR.mat\n")
    assert subject.member == str((Path.home() / "a.nii").resolve())
    assert subject.lr == "/data/a_LR.mat"


def test_trailing_comma_is_tolerated(tmp_path):
    assert read(tmp_path, "id,source,member,\nanna,local,a.nii,\n")[0].id == "anna"


def test_written_manifest_reads_back(tmp_path):
    subjects = manifest.read_manifest(DEMO)
    manifest.write_manifest(subjects, tmp_path / "new" / "demo.csv")
    assert manifest.read_manifest(tmp_path / "new" / "demo.csv") == subjects
    assert os.listdir(tmp_path / "new") == ["demo.csv"]


HEADER = "id,source,member"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "heads.csv: expected a header and one row a subject, found no subject"),
        (f"{HEADER}\n", "heads.csv: expected a header .* found no subject"),
        ("id,member\na,a.nii\n", "heads.csv: expected the columns id,source,member, found no source"),
        (f"{HEADER},weight\na,local,a,3\n", "heads.csv: expected columns out of .*, found weight"),
        (f"{HEADER}\na,local,a\na,local,b\n", "subject a: .*heads.csv: .* each id once, found it 2 times"),
        (f"{HEADER}\n../a,local,a\n", r"subject ../a: .*heads.csv: id: expected letters.*found '../a'"),
        (f"{HEADER}\n,local,a\n", r"subject \(no id\): .*heads.csv: id: expected letters.*found ''"),
        (f"{HEADER}\na,local,a,b\n", "subject a: .*heads.csv: row: .*no more values than columns, found 'b'"),
        (f"{HEADER}\na,ftp:x,a\n", "subject a: .*heads.csv: source: expected pypi.*found 'ftp:x'"),
        (f"{HEADER}\na,pypi:--pre==1,a\n", "subject a: .*source: expected pypi.*found 'pypi:--pre==1'"),
        (f"{HEADER}\na,local,\n", "subject a: .*heads.csv: member: expected one file.*found ''"),
        (f"{HEADER}\na,local,x/a;y/a\n", "subject a: .*member: expected .*different names.*'x/a;y/a'"),
        (f"{HEADER},lr\na,npm:x@1,a,b.nii\n", "subject a: .*lr: expected none for a package.*found 'b.nii'"),
        (f"{HEADER},sha256\na,local,a,12ab\n", "subject a: .*sha256: expected 1 of 64 hexa.*found '12ab'"),
        (f"{HEADER},sha256\na,local,a;b,{SHA}\n", "subject a: .*sha256: expected 2 of 64 hexadecimal digits"),
        (f"{HEADER},split\na,local,a,dev\n", "subject a: .*split: expected one of train, .*found 'dev'"),
        (f"{HEADER},axes\na,local,a,1 3\n", "subject a: .*axes: expected different ones of 0 1 2.*'1 3'"),
        (f"{HEADER},axes\na,local,a,1 1\n", "subject a: .*axes: expected different ones of 0 1 2.*'1 1'"),
        (f"{HEADER},kind\na,local,a,cat\n", "subject a: .*kind: expected person or average, found 'cat'"),
        (
            f"{HEADER},group,split\na,local,a,g,train\nb,local,b,g,test\n",
            "subject b: .*heads.csv: expected leakage group g in one split, found a in train and b in test",
        ),
    ],
)
def test_bad_manifest(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value)


def test_missing_or_binary_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.csv: expected a CSV file, found none"):
        manifest.read_manifest(tmp_path / "none.csv")
    (tmp_path / "image.csv").write_bytes(b"\x1f\x8b\x08\x00\xff\xfe")
    with pytest.raises(ValueError, match="image.csv: expected a CSV file, found one that cannot be read"):
        manifest.read_manifest(tmp_path / "image.csv")


# ---- split --------------------------------------------------------------------------------------------


def test_seeded_split_does_not_depend_on_order():
    subjects = [local(f"s{i}") for i in range(40)]
    split = {s.id: s.split for s in manifest.assign_splits(subjects, seed=3)}
    random.Random(0).shuffle(subjects)
    assert {s.id: s.split for s in manifest.assign_splits(subjects, seed=3)} == split
    assert {s.id: s.split for s in manifest.assign_splits(subjects, seed=4)} != split
    assert Counter(split.values()) == {"train": 28, "validation": 4, "evaluation": 4, "test": 4}


def test_seeded_split_keeps_groups_whole_and_given_splits():
    subjects = [local(f"s{i}", group=f"g{i // 3}") for i in range(30)]
    subjects[4] = local("s4", group="g1", split="test")
    done = manifest.assign_splits(subjects)
    assert [s.id for s in done] == [s.id for s in subjects]
    assert all(len({s.split for s in done if s.group == group}) == 1 for group in {s.group for s in done})
    assert {s.split for s in done if s.group == "g1"} == {"test"}


def test_original_split_has_its_sizes_and_order():
    subjects = [local(str(100000 + i)) for i in range(1113)]
    done = manifest.assign_splits(subjects, rule="original")
    assert Counter(s.split for s in done) == {"train": 780, "validation": 111, "evaluation": 111, "test": 111}
    assert done == manifest.assign_splits(subjects, rule="original", seed=5)


def test_bad_split():
    with pytest.raises(ValueError, match="expected 'seeded' or 'original', found 'random'"):
        manifest.assign_splits([local("a")], rule="random")
    with pytest.raises(ValueError, match=r"shares: expected 4 that sum to 1, found \[0.5, 0.1\]"):
        manifest.assign_splits([local("a")], shares=(0.5, 0.1))
    with pytest.raises(ValueError, match="expected leakage group g in one split, found .* in .* and .* in "):
        manifest.assign_splits([local(f"s{i}", group="g") for i in range(20)], rule="original")


# ---- folders ------------------------------------------------------------------------------------------


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
    subjects = manifest.find_subjects(root, told.append)
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
    manifest.write_manifest(manifest.find_subjects(tmp_path, print), tmp_path / "heads.csv")
    assert manifest.read_manifest(tmp_path / "heads.csv")[0].member == str(tmp_path.resolve() / names[0])
    with pytest.raises(FileNotFoundError, match="expected T1w scans with their content, found none"):
        (tmp_path / names[0]).unlink()
        manifest.find_subjects(tmp_path, print)


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
        manifest.find_subjects(tmp_path)


# ---- HCP ----------------------------------------------------------------------------------------------


def hcp_tree(root, *ids, lr=False):
    for i in ids:
        folder = root / i / "unprocessed" / "3T" / "T1w_MPR1"
        folder.mkdir(parents=True)
        (folder / f"{i}_3T_T1w_MPR1.nii.gz").touch()
        if lr:
            (folder / f"{i}_LR.mat").touch()


@pytest.mark.parametrize("text", ["Subject,Age,\n100206,26,\n\n100307,31,\n,,\n", "100206\n100307\n"])
def test_hcp_list(tmp_path, text):
    hcp_tree(tmp_path, "100206", "100307", lr=True)
    listed = write_csv(tmp_path, text)
    subjects = manifest.hcp_subjects(tmp_path, listed)
    assert [(s.id, s.axes, s.lr) for s in subjects] == [("100206", (1, 2), ""), ("100307", (1, 2), "")]
    assert subjects[0].member.endswith("100206/unprocessed/3T/T1w_MPR1/100206_3T_T1w_MPR1.nii.gz")
    assert manifest.hcp_subjects(tmp_path, listed, own_lr=True)[1].lr.endswith("T1w_MPR1/100307_LR.mat")


def test_bad_hcp(tmp_path):
    hcp_tree(tmp_path, "100206")
    with pytest.raises(FileNotFoundError, match=r"subject 1: expected .*1_3T.*, found no .*\(2 of 3 files"):
        manifest.hcp_subjects(tmp_path, write_csv(tmp_path, "100206\n1\n2\n"))
    with pytest.raises(FileNotFoundError, match="subject 100206: expected .*100206_LR.mat, found no"):
        manifest.hcp_subjects(tmp_path, write_csv(tmp_path, "100206\n"), own_lr=True)
    with pytest.raises(ValueError, match="subject 100206: list .*heads.csv: .* once, found it 2 times"):
        manifest.hcp_subjects(tmp_path, write_csv(tmp_path, "100206\n100206\n"))
    with pytest.raises(ValueError, match="subject x7: list .*heads.csv: .* id of digits, found 'x7'"):
        manifest.hcp_subjects(tmp_path, write_csv(tmp_path, "100206\nx7\n"))
    with pytest.raises(ValueError, match="heads.csv: expected subject ids in the first column, found none"):
        manifest.hcp_subjects(tmp_path, write_csv(tmp_path, "Subject,\n,\n"))
    with pytest.raises(FileNotFoundError, match="none.csv: expected a CSV file, found none"):
        manifest.hcp_subjects(tmp_path, tmp_path / "none.csv")


def test_whole_groups_move_to_another_split():
    subjects = [
        local("a", group="p", split="test"),
        local("b", group="p", split="test"),
        local("c", split="train"),
    ]
    moved = manifest.move_groups(subjects, {"p": "train"})
    assert [s.split for s in moved] == ["train", "train", "train"]
    assert [s.split for s in subjects] == ["test", "test", "train"]
    with pytest.raises(ValueError, match="leakage group of a subject, found 'q'"):
        manifest.move_groups(subjects, {"q": "train"})
    with pytest.raises(ValueError, match="group p: expected one of train.*found 'Test'"):
        manifest.move_groups(subjects, {"p": "Test"})
