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
        ("", "heads.csv: expected a header and one row per subject, found no subject"),
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
        (
            f"{HEADER}\na,https,s3://b/a\n",
            "subject a: .*member: expected https:// or s3:// as the source says",
        ),
        (f"{HEADER}\na,local,https://b/a\n", "subject a: .*member: expected https:// or s3:// as the source"),
        (f"{HEADER}\na,https,https://b/a?x=1;https://c/a\n", "subject a: .*member: .*different names"),
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


def test_bad_split():
    with pytest.raises(ValueError, match=r"shares: expected 4 that sum to 1, found \[0.5, 0.1\]"):
        manifest.assign_splits([local("a")], shares=(0.5, 0.1))
