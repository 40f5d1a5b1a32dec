"""What may happen to a run: it is killed, the disk is full, the files are garbage."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_head, write_prepared
from hypothesis import given, settings, strategies as st
from test_training import run_pretrain, same_files

from sprl_utils import manifest
from sprl_utils.volumes import read_volume

TESTS = Path(__file__).parent
IMPORTS = f"import sys; sys.path[:0] = [{str(TESTS.parent)!r}, {str(TESTS)!r}]\n"
PREPARE = """
import warnings
from pathlib import Path
from sprl_utils.manifest import Subject
from sprl_utils.prepare import Recipe, prepare_all
warnings.simplefilter("ignore")
def run(scans, out):
    subjects = [Subject(p.name[:2], "local", str(p), split="train") for p in sorted(Path(scans).iterdir())]
    return prepare_all(subjects, {s.id: [Path(s.member)] for s in subjects}, Path(out), Recipe())
"""


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(4):
        image = nib.Nifti1Image((make_head(seed=i) * 1000).astype(np.int16), np.eye(4))
        nib.save(image, folder / f"s{i}.nii.gz")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_preparation_killed_at_any_moment_ends_with_the_same_files(tmp_path, scans):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code = IMPORTS + PREPARE + "print('ready', flush=True); run(sys.argv[1], sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, scans, whole], check=True, capture_output=True)
    killed.mkdir()
    for begun in (1, 2, 3):  # a folder that is there may be finished, or still have its own name to come
        command = [sys.executable, "-c", code, scans, killed]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            while process.poll() is None and len(list(killed.iterdir())) < begun:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
        assert not (killed / "index.json").exists(), "preparation was not stopped half-way"
    subprocess.run([sys.executable, "-c", code, scans, killed], check=True, capture_output=True)
    left_over = [p for p in killed.iterdir() if p.name.startswith(".")]
    for folder in left_over:  # a killed process cannot tidy up; nobody reads what begins with a dot
        shutil.rmtree(folder)
    assert contents(whole) == contents(killed)


# ---- a full disk: a tmpfs of some megabytes, in a mount namespace of its own --------------------------


def on_small_disk(folder: Path, size: str, code: str, *arguments) -> str:
    """What ``code`` prints while ``folder`` is a disk of that size; skipped where nothing can be mounted."""
    folder.mkdir()
    mount = f"mount -t tmpfs -o size={size} none '{folder}'"
    namespace = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, mount], capture_output=True).returncode:
        pytest.skip("needs Linux and the right to mount a tmpfs in a namespace")
    quoted = " ".join(f"'{a}'" for a in (sys.executable, folder.with_name("code.py"), folder, *arguments))
    folder.with_name("code.py").write_text(IMPORTS + code)
    done = subprocess.run(
        [*namespace, f"{mount} && exec {quoted}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_preparation_on_a_full_disk_stops_and_goes_on_when_there_is_room(tmp_path, scans):
    code = f"""{PREPARE}
disk = Path(sys.argv[1])
filler = disk / "filler"
filler.write_bytes(bytes(2 * 2**20))
try:
    run(sys.argv[2], disk / "out")
except OSError as error:
    print(error)
print(sorted(p.name for p in (disk / "out").iterdir()))
filler.unlink()
print([p.meta["id"] for p in run(sys.argv[2], disk / "out")])
"""
    said, left, done = on_small_disk(tmp_path / "disk", "4m", code, scans).splitlines()
    assert said.startswith("[Errno 28] subject s") and "free bytes" in said
    assert left in ("['s0', 's1']", "['s0', 's1', 's2']")
    assert done == "['s0', 's1', 's2', 's3']"


def test_a_checkpoint_that_finds_no_room_leaves_the_last_one(tmp_path):
    head = write_prepared(tmp_path / "prepared", "train-head", "train", make_head())
    run_pretrain(head.folder.parent, tmp_path / "whole")
    code = """
from test_training import *
disk, prepared, out = map(Path, sys.argv[1:])
save = checkpoints.Run.save
def save_and_fill(self, step):
    save(self, step)
    if step == 3:
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - 2**20))
import shutil
checkpoints.Run.save = save_and_fill
try:
    run_pretrain(prepared, disk / "run")
except OSError as error:
    print(error)
checkpoints.Run.save = save
print(checkpoints.read_checkpoint(disk / "run" / "checkpoint.pt")["step"])
(disk / "filler").unlink()
run_pretrain(prepared, disk / "run")
shutil.copytree(disk / "run", out)
"""
    arguments = (head.folder.parent, tmp_path / "resumed")
    said, step = on_small_disk(tmp_path / "disk", "24m", code, *arguments).splitlines()
    assert "checkpoint.pt: expected to write" in said and "No space left on device" in said
    assert "the old file is kept" in said and step == "3"
    assert same_files(tmp_path / "whole", tmp_path / "resumed", ["generator.safetensors", "history.csv"])


# ---- garbage ------------------------------------------------------------------------------------------

SCAN = nib.Nifti1Image(np.arange(1, 28, dtype=np.int16).reshape(3, 3, 3), np.eye(4)).to_bytes()
FUZZ = settings(max_examples=300, deadline=None, derandomize=True)
BYTES = st.lists(st.tuples(st.integers(0, len(SCAN) - 1), st.integers(0, 255)), min_size=1, max_size=12)


@pytest.mark.filterwarnings("ignore")
@FUZZ
@given(changes=BYTES, cut=st.integers(0, len(SCAN)), trailing=st.binary(max_size=40))
def test_any_scan_is_read_or_refused_in_words(tmp_path_factory, changes, cut, trailing):
    raw = bytearray(SCAN)
    for place, value in changes:
        raw[place] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.nii"
    path.write_bytes(bytes(raw[: len(SCAN) - cut if cut < 40 else None]) + trailing)
    try:
        volume = read_volume(path)
    except ValueError as error:
        assert "expected" in str(error) and "found" in str(error)
    else:
        assert volume.data.ndim == 3 and np.isfinite(volume.data).all() and np.isfinite(volume.affine).all()


CELL = st.sampled_from(
    ["a", "b", "pypi:p==1", "local", "s3", "s3://b/k", "x.nii", "", "train", "1 2", "0 0", "../x"]
)
TEXT = st.text(st.sampled_from('ab,;"\n\r\t 012\x00é/.'), max_size=30)
HEADER = st.lists(st.sampled_from([*manifest.COLUMNS, "note"]), min_size=1, max_size=12)


@FUZZ
@given(header=HEADER, rows=st.lists(st.one_of(TEXT, st.lists(CELL, max_size=12).map(",".join)), max_size=5))
def test_any_manifest_is_read_or_refused_in_words(tmp_path_factory, header, rows):
    path = tmp_path_factory.getbasetemp() / "fuzzed.csv"
    path.write_bytes("\n".join([",".join(header), *rows]).encode())
    try:
        subjects = manifest.read_manifest(path)
    except ValueError as error:
        assert "expected" in str(error) and "found" in str(error)
    else:
        manifest.write_manifest(subjects, path)
        assert manifest.read_manifest(path) == subjects
