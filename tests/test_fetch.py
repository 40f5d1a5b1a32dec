"""Files of subjects: out of packages, from S3, from where they lie; the cache, and what cannot be had."""

import hashlib
import io
import json
import os
import tarfile
import threading
import warnings
import zipfile
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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
from sprl_utils.manifest import Subject, assign_splits, read_manifest
from sprl_utils.original.hcp import hcp_subjects
from sprl_utils.scans.cli import main
from sprl_utils.scans.folders import find_subjects

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
    with pytest.warns(
        UserWarning, match="subject one: cached .*t1.nii: expected sha256 .*it is fetched again"
    ):
        fetch.fetch(wheel_head(), cache)
    assert file.read_bytes() == HEAD

    monkeypatch.setattr(fetch, "_download_package", None)  # a full cache needs no pip
    with warnings.catch_warnings(action="error"):
        assert fetch.fetch(wheel_head(), cache) == [file]


def test_fetch_all_downloads_each_package_once(tmp_path, index, monkeypatch):
    sources = []
    download = fetch._download_package
    monkeypatch.setattr(
        fetch, "_download_package", lambda *asked: sources.append(asked[0]) or download(*asked)
    )
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
    with pytest.raises(SourceUnavailable, match="expected one package, found none .*ERROR: .*nobody==1.0"):
        fetch.fetch(wheel_head(source="pypi:nobody==1.0"), tmp_path)


# ---- npm's registry and plain addresses: a server on loopback -----------------------------------------


class Server(SimpleHTTPRequestHandler):
    """Serves a folder, but no ``.nii`` to whoever lets it compress the transfer."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if ".nii" in self.path and "gzip" in self.headers.get("Accept-Encoding", ""):
            self.send_error(500)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A registry with one package, ``@lab/heads``, that npm's settings name; it lists what it is asked."""
    folder = tmp_path / "served" / "@lab" / "heads" / "-"
    folder.mkdir(parents=True)
    with tarfile.open(folder / "heads-1.0.tgz", "w:gz") as tarball:
        for name in ("t1.nii", "t2.nii"):
            about = tarfile.TarInfo(f"package/{name}")
            about.size = len(HEAD)
            tarball.addfile(about, io.BytesIO(HEAD))
    (folder / "heads-2.0.tgz").write_bytes((folder / "heads-1.0.tgz").read_bytes()[:-40])
    (tmp_path / "served" / "t1.nii").write_bytes(HEAD)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, directory=str(tmp_path / "served")))
    httpd.asked = []
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", address)
    monkeypatch.delenv("npm_config_registry", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield address, httpd.asked
    httpd.shutdown()
    httpd.server_close()


def npm_head(subject_id, version="1.0", member="package/t1.nii", sha256=SHA):
    return wheel_head(subject_id, member, f"npm:@lab/heads@{version}", sha256)


def test_a_package_of_npm_comes_from_the_users_registry_without_npm(tmp_path, server, monkeypatch):
    address, asked = server
    both = "package/t1.nii;package/t2.nii"
    heads = [npm_head("one"), npm_head("two", member=both, sha256=f"{SHA};{SHA}")]
    found = fetch.fetch_all(heads, tmp_path / "cache", stop_at_failure=True)
    assert [file.read_bytes() for files in found.values() for file in files] == [HEAD] * 3
    assert asked == ["/@lab/heads/-/heads-1.0.tgz"]
    assert sorted(p.name for p in (tmp_path / "cache").rglob("*")) == [
        "one",
        "t1.nii",
        "t1.nii",
        "t2.nii",
        "two",
    ]

    monkeypatch.delenv("NPM_CONFIG_REGISTRY")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".npmrc").write_text(f"; mine\nfund=false\nregistry = {address}/\n")
    assert fetch.fetch(npm_head("three"), tmp_path / "cache")


def test_a_package_that_cannot_be_had_is_said_once_and_the_others_come(tmp_path, server, index):
    lines = []
    heads = [npm_head("bb1", "9.9"), npm_head("bb2", "9.9"), npm_head("cut", "2.0"), wheel_head()]
    for stop in (False, True):  # heads of npm stop nobody
        assert list(fetch.fetch_all(heads, tmp_path / "cache", stop, lines.append)) == ["one"]
    assert lines[:2] == lines[2:] and "\n" not in "".join(lines)
    assert lines[0].startswith(
        f"skipped bb1, bb2: {server[0]}/@lab/heads/-/heads-9.9.tgz: expected a file, found"
    )
    assert "404" in lines[0]
    assert lines[1].startswith(
        "skipped cut: subject cut: npm:@lab/heads@2.0: expected a package, found one that"
    )
    with pytest.raises(ValueError, match="subject x: npm:.*: expected the file package/t3.nii, found none"):
        fetch.fetch(npm_head("x", member="package/t3.nii"), tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["t1.nii"]


def test_a_file_comes_from_its_address_unchanged_and_checked(tmp_path, server, monkeypatch):
    """The manifest takes https alone; loopback has no certificate."""
    head = Subject("one", "https", f"{server[0]}/t1.nii?v=1", sha256=SHA)
    (file,) = fetch.fetch(head, tmp_path / "cache")
    assert file == tmp_path / "cache" / "one" / "t1.nii" and file.read_bytes() == HEAD
    wrong = Subject("two", "https", f"{server[0]}/t1.nii", sha256="0" * 64)
    with pytest.raises(ValueError, match=f"subject two: http.*t1.nii: expected sha256 0{{64}}, found {SHA}"):
        fetch.fetch(wrong, tmp_path / "cache")
    with pytest.raises(SourceUnavailable, match="t3.nii: expected a file, found none .*404"):
        fetch.fetch(Subject("x", "https", f"{server[0]}/t3.nii"), tmp_path / "cache")
    with pytest.raises(SourceUnavailable, match="127.0.0.1:9/a.nii: expected a file, found none"):
        fetch.fetch(Subject("x", "https", "http://127.0.0.1:9/a.nii"), tmp_path / "cache")
    assert [p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()] == ["t1.nii"]


def test_a_folder_of_heads_spares_the_download_of_the_right_bytes_alone(tmp_path, server, monkeypatch):
    """Two files have one name and differ by their hash. Without the right one the network is asked."""
    for person, content in (("a", b"another head"), ("b", HEAD)):
        (tmp_path / "there" / person).mkdir(parents=True)
        (tmp_path / "there" / person / "t1.nii").write_bytes(content)
    monkeypatch.setenv("SPRL_HEADS", str(tmp_path / "there"))
    address = "https://nowhere.invalid/b/t1.nii"
    (file,) = fetch.fetch(Subject("b", "https", address, sha256=SHA), tmp_path / "cache")
    assert file == tmp_path / "cache" / "b" / "t1.nii" and file.read_bytes() == HEAD
    for unknown in (hashlib.sha256(b"a third head").hexdigest(), ""):
        with pytest.raises(SourceUnavailable):
            fetch.fetch(Subject("c", "https", address, sha256=unknown), tmp_path / "cache")


def test_the_people_are_real_and_no_reserved_one_is_among_them():
    people = read_manifest(Path(__file__).parents[1] / "data_manifest" / "people.csv")
    openneuro = [s for s in people if s.source == "https"]
    counts = Counter((s.id.split("_")[0], s.split) for s in openneuro)
    assert counts == {
        ("ds002748", "train"): 36, ("ds002748", "validation"): 4, ("ds002748", "test"): 10,
        ("ds000011", "train"): 4, ("ds000011", "test"): 2,
    }  # fmt: skip
    assert all(len(s.sha256) == 64 and s.licence in ("CC0", "PDDL") for s in openneuro)
    group_of = {s.sha256: s.group for s in people}  # a head may be listed once per pair of axes
    assert all(s.group == group_of[s.sha256] for s in people)
    assert len({(s.sha256, s.axes) for s in people}) == len(people)


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
    with pytest.raises(
        SourceUnavailable, match="subject 100206: s3://.*: expected an object that may be read"
    ):
        fetch.fetch(subjects[0], cache)
    wrong = Subject(IDS[1], "s3", address(IDS[1]), sha256=sha)
    with pytest.raises(ValueError, match=f"subject 100307: s3://.*expected sha256 {sha}, found"):
        fetch.fetch(wrong, cache)
    lines = []
    assert list(fetch.fetch_all(subjects, cache, log=lines.append)) == IDS[1:]
    assert len(lines) == 1 and lines[0].startswith("skipped 100206: subject 100206: s3://")
    assert not [p for p in cache.rglob(".*")]


def forget_credentials(bucket, tmp_path, monkeypatch) -> None:
    """From here on nobody has credentials."""
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    bucket.clear_instance_cache()


def test_a_public_bids_bucket_is_listed_and_copied_without_credentials(bucket, tmp_path, monkeypatch):
    """OpenNeuro's layout; who has no credentials can neither list nor read a bucket that asks for them."""
    root, head = "s3://openneuro/ds1", bucket.cat(address(IDS[0]))
    bucket.mkdir("openneuro")
    for name in (
        "sub-01/anat/sub-01_part-imag_T1w",  # no magnitude image, and the first by name
        "sub-01/anat/sub-01_run-1_T1w",
        "sub-01/anat/sub-01_run-2_T1w",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w",
    ):
        bucket.pipe(f"{root}/{name}.nii.gz", head)
    for name in ("sub-02/ses-1/anat/sub-02_ses-1_T2w.nii.gz", "derivatives/sub-03/anat/sub-03_T1w.nii.gz"):
        bucket.pipe(f"{root}/{name}", head)
    for key in bucket.find(root):
        bucket.chmod(key, "public-read")
    forget_credentials(bucket, tmp_path, monkeypatch)
    assert main(["manifest", root, str(tmp_path / "signed.csv")]) == 1
    assert main(["manifest", root, str(tmp_path / "public.csv"), "--unsigned"]) == 0
    subjects = read_manifest(tmp_path / "public.csv")
    assert [(s.id, s.group) for s in subjects] == [("sub-01_run-1", "sub-01"), ("sub-02_ses-1", "sub-02")]
    (file,) = fetch.fetch(subjects[0], tmp_path / "cache")
    assert file.read_bytes() == head


def test_no_credentials_and_no_server_are_said_in_a_line(bucket, tmp_path, monkeypatch, capsys):
    forget_credentials(bucket, tmp_path, monkeypatch)
    assert main(["manifest", ROOT, str(tmp_path / "hcp.csv")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected a folder that may be listed, found" in error
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
