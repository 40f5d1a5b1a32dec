"""Files of subjects: out of packages, from S3, from where they lie; the cache, and what cannot be had."""

import hashlib
import json
import os
import warnings
import zipfile
from pathlib import Path
from urllib.request import Request, urlopen

import fsspec
import nibabel as nib
import numpy as np
import papermill
import pytest
from conftest import make_head
from moto.server import ThreadedMotoServer

from sprl_utils import fetch
from sprl_utils.fetch import SourceUnavailable
from sprl_utils.manifest import Subject, assign_splits, find_subjects, hcp_subjects, read_manifest
from sprl_utils.scans.cli import main

HEAD = b"a head"
SHA = hashlib.sha256(HEAD).hexdigest()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder that pip takes for its only index, with one wheel in it; the real pip does the rest."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "heads-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("heads/t1.nii", HEAD)
        wheel.writestr("heads/t2.nii", HEAD)
        wheel.writestr("heads-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: heads\nVersion: 1.0\n")
        wheel.writestr("heads-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("heads-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel_head(subject_id="one", member="heads/t1.nii", source="pypi:heads==1.0", sha256=SHA):
    return Subject(subject_id, source, member, sha256=sha256, group=subject_id)


def test_fetch_then_cache_then_repair(tmp_path, index, monkeypatch):
    cache = tmp_path / "cache"
    (file,) = fetch.fetch(wheel_head(), cache)
    assert file == cache / "one" / "t1.nii"
    assert file.read_bytes() == HEAD
    assert os.listdir(cache / "one") == ["t1.nii"]

    file.write_bytes(b"a hea")
    with pytest.warns(UserWarning, match="subject one: cached .*t1.nii: expected sha256 .*fetching it again"):
        fetch.fetch(wheel_head(), cache)
    assert file.read_bytes() == HEAD

    monkeypatch.setattr(fetch, "_download", None)  # a full cache needs no pip
    with warnings.catch_warnings(action="error"):
        assert fetch.fetch(wheel_head(), cache) == [file]


def test_fetch_all_downloads_each_package_once(tmp_path, index, monkeypatch):
    sources = []
    download = fetch._download
    monkeypatch.setattr(fetch, "_download", lambda *asked: sources.append(asked[0]) or download(*asked))
    (tmp_path / "c.nii").write_bytes(HEAD)
    heads = [
        wheel_head(),
        Subject("own", "local", str(tmp_path / "c.nii"), sha256=SHA),
        wheel_head("two", "heads/t2.nii;heads/t1.nii", sha256=f"{SHA};{SHA}"),
    ]
    found = fetch.fetch_all(heads, tmp_path / "cache")
    assert list(found) == ["one", "own", "two"]
    assert [file.name for file in found["two"]] == ["t2.nii", "t1.nii"]
    assert sources == ["pypi:heads==1.0"]


def test_one_bad_file_of_a_package_does_not_cost_the_others(tmp_path, index):
    cache, lines = tmp_path / "cache", []
    fetch.fetch(wheel_head("kept"), cache)
    heads = [wheel_head("kept"), wheel_head("gone", "heads/t3.nii"), wheel_head("new", "heads/t2.nii")]
    assert list(fetch.fetch_all(heads, cache, log=lines.append)) == ["kept", "new"]
    assert len(lines) == 1 and "skipped gone: subject gone: pypi:heads==1.0: expected the file" in lines[0]
    with pytest.raises(ValueError, match="subject gone"):
        fetch.fetch_all(heads, cache, stop_at_failure=True)


def test_wrong_download_leaves_nothing(tmp_path, index):
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=f"subject one: heads/t1.nii .*expected sha256 0{{64}}, found {SHA}"):
        fetch.fetch(wheel_head(sha256="0" * 64), cache)
    with pytest.raises(ValueError, match="subject one: pypi:heads.*: expected .* heads/t3.nii, found none"):
        fetch.fetch(wheel_head(member="heads/t3.nii"), cache)
    assert not list(cache.rglob("*.*"))


def test_unavailable_package(tmp_path, index, monkeypatch):
    with pytest.raises(SourceUnavailable, match="pypi:heads==2.0: expected .*, found none"):
        fetch.fetch_all([wheel_head(source="pypi:heads==2.0")], tmp_path, stop_at_failure=True)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    needs_npm = wheel_head("bb1", source="npm:heads@1.0")
    with pytest.raises(SourceUnavailable, match="npm:heads@1.0: expected npm on this machine, found none"):
        fetch.fetch(needs_npm, tmp_path)
    lines = []
    assert list(fetch.fetch_all([needs_npm, wheel_head()], tmp_path, log=lines.append)) == ["one"]
    assert lines == ["skipped bb1: npm:heads@1.0: expected npm on this machine, found none"]


NPM = """#!/bin/sh
for option in "$@"; do [ "$option" = --silent ] && exit 1; done
cat >&2 <<'EOF'
npm error code {0}
npm error errno {0}
npm error {1}
npm error A complete log of this run can be found in: /home/anna/.npm/_logs/debug-0.log
EOF
exit 1
"""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("EAI_AGAIN", "request to https://registry.npmjs.org/heads failed, reason: getaddrinfo EAI_AGAIN"),
        ("E404", "404 Not Found - GET https://registry.npmjs.org/heads - Not found"),
        ("ETARGET", "notarget No matching version found for heads@1.0."),
    ],
)
def test_why_npm_fails_reaches_the_user(tmp_path, monkeypatch, code, why):
    npm = tmp_path / "npm"
    npm.write_text(NPM.format(code, why))
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(SourceUnavailable) as error:
        fetch.fetch(wheel_head(source="npm:heads@1.0"), tmp_path / "cache")
    assert why in str(error.value) and "anna" not in str(error.value)


def test_a_file_without_a_hash_is_not_read(tmp_path, monkeypatch):
    """A thousand scans are not hashed at each start to be compared with nothing."""
    monkeypatch.setattr(fetch, "sha256", None)
    (tmp_path / "one").mkdir()
    for name in ("a.nii", "one/t1.nii"):
        (tmp_path / name).write_bytes(HEAD)
    assert fetch.fetch(Subject("a", "local", str(tmp_path / "a.nii")), tmp_path)
    assert fetch.fetch(wheel_head(sha256=""), tmp_path)


def test_local_files(tmp_path):
    (tmp_path / "a.nii").write_bytes(HEAD)
    a = Subject("a", "local", str(tmp_path / "a.nii"))
    assert fetch.fetch(a, tmp_path) == [tmp_path / "a.nii"]
    with pytest.raises(FileNotFoundError, match="subject b: expected .*b.nii, found no such file"):
        fetch.fetch(Subject("b", "local", str(tmp_path / "b.nii")), tmp_path)
    with pytest.raises(FileNotFoundError, match="subject a: expected .*lr.mat, found no such file"):
        fetch.fetch(Subject("a", "local", a.member, lr=str(tmp_path / "lr.mat")), tmp_path)
    with pytest.raises(ValueError, match=f"subject a: .*a.nii: expected sha256 1{{64}}, found {SHA}"):
        fetch.fetch(Subject("a", "local", a.member, sha256="1" * 64), tmp_path)


# ---- S3: a server of its protocol on loopback ---------------------------------------------------------

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAOFTHETEST", "AWS_SECRET_ACCESS_KEY": "secretofthetest"}
ROOT = "s3://hcp/HCP_1200"
IDS = ["100206", "100307", "100408", "100610", "101006", "101107"]


def address(subject_id: str) -> str:
    return f"{ROOT}/{subject_id}/unprocessed/3T/T1w_MPR1/{subject_id}_3T_T1w_MPR1.nii.gz"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """HCP's folders on S3: small heads, the last of them cut off half-way."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST"))  # buckets outlive a server
    settings = KEYS | {"AWS_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    s3 = fsspec.filesystem("s3")
    s3.mkdir("hcp")
    for i, subject_id in enumerate(IDS):
        file = tmp_path / "head.nii.gz"
        nib.save(nib.Nifti1Image((make_head(seed=i) * 1000).astype(np.int16), np.eye(4)), file)
        content = file.read_bytes()
        s3.pipe(address(subject_id), content[: len(content) // 2] if subject_id == IDS[-1] else content)
    s3.pipe("s3://hcp/HCP_1200/README.txt", b"no subject")
    yield s3
    server.stop()
    s3.clear_instance_cache()


def test_subjects_on_s3_are_listed_copied_once_and_checked(bucket, tmp_path, monkeypatch):
    listed = tmp_path / "ids.csv"
    listed.write_text("Subject\n" + "\n".join(IDS))
    subjects = find_subjects(ROOT)
    assert subjects == hcp_subjects(ROOT, listed) and [s.id for s in subjects] == IDS
    assert main(["manifest", ROOT, str(tmp_path / "hcp.csv")]) == 0
    assert read_manifest(tmp_path / "hcp.csv") == assign_splits(subjects)

    cache = tmp_path / "cache"
    (file,) = fetch.fetch(subjects[0], cache)
    assert file.read_bytes() == bucket.cat(address(IDS[0]))
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    bucket.rm(address(IDS[0]))  # what is cached is not asked for again
    assert fetch.fetch(subjects[0], cache) == [file]
    file.unlink()
    with pytest.raises(SourceUnavailable, match="subject 100206: s3://.*: expected an object that your cred"):
        fetch.fetch(subjects[0], cache)
    wrong = Subject(IDS[1], "s3", address(IDS[1]), sha256=sha)
    with pytest.raises(ValueError, match=f"subject 100307: s3://.*expected sha256 {sha}, found"):
        fetch.fetch(wrong, cache)
    lines = []
    assert list(fetch.fetch_all(subjects, cache, log=lines.append)) == IDS[1:]
    assert len(lines) == 1 and lines[0].startswith("skipped 100206: subject 100206: s3://")
    assert not [p for p in cache.rglob(".*")]


def test_no_credentials_and_no_server_are_said_in_a_line(bucket, tmp_path, monkeypatch, capsys):
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    bucket.clear_instance_cache()
    assert main(["manifest", ROOT, str(tmp_path / "hcp.csv")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected a folder that your credentials open, found" in error
    assert not (tmp_path / "hcp.csv").exists()


@pytest.mark.filterwarnings("ignore")
def test_the_notebook_reads_s3_goes_on_without_a_bad_head_and_tells_no_key(bucket, tmp_path, monkeypatch):
    repository = Path(__file__).parents[1]
    for name in ("sprl_utils", "notebooks"):
        (tmp_path / name).symlink_to(repository / name)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "1")
    listed, done = tmp_path / "ids.csv", tmp_path / "done.ipynb"
    listed.write_text("\n".join(["Subject", *IDS]))
    values = {"hcp_root": ROOT, "hcp_ids": str(listed), "subjects": [], "crop": [], "synthetic_heads": 0}
    source = str(repository / "notebooks" / "01_prepare_data.ipynb")
    papermill.execute_notebook(
        source, str(done), values, cwd=str(tmp_path), progress_bar=False, kernel_name="python3"
    )
    index = tmp_path / "runs" / "smoke" / "prepared" / "index.json"
    assert json.loads(index.read_text()) == IDS[:-1]
    assert f"not prepared: {IDS[-1]}: " in done.read_text()
    heads = json.loads((tmp_path / "results/smoke/01_environment.json").read_text())["profile"]["heads"]
    assert list(heads) == IDS[:-1]
    written = [
        done,
        *(p for p in (tmp_path / "results").rglob("*") if p.is_file()),
        *index.parent.glob("*/*.json"),
    ]
    for path in written:
        assert not any(secret.encode() in path.read_bytes() for secret in KEYS.values()), path
