"""Seeds, hashes, environment.json without anything personal, and the way back to the repository's root."""

import getpass
import json
import os
import random
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from sprl_utils import __version__, files, provenance, runs

ROOT = Path(__file__).resolve().parents[1]


def test_a_run_begins_with_all_three_generators_seeded(monkeypatch):
    def draw(seed):
        runs.start_run("mine", "environment.json", seed)
        return random.random(), np.random.rand(), torch.rand(1).item()

    monkeypatch.setattr(runs, "tune_process", dict)  # of the process that runs all tests
    first = draw(7)
    assert draw(7) == first
    assert draw(8) != first


@pytest.mark.parametrize("folder", [".", "notebooks", "notebooks/profiles"])
def test_repo_root_from_anywhere_in_it(monkeypatch, folder):
    monkeypatch.chdir(ROOT / folder)
    assert provenance.repo_root() == ROOT


def test_repo_root_prefers_the_checkout_one_stands_in(monkeypatch, tmp_path):
    (tmp_path / "sprl_utils").mkdir()
    (tmp_path / "sprl_utils" / "__init__.py").touch()
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert provenance.repo_root() == tmp_path


def test_repo_root_from_outside_is_where_the_package_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert provenance.repo_root() == ROOT


def test_no_repository_at_all_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "elsewhere" / "sprl_utils" / "provenance.py"))
    with pytest.raises(FileNotFoundError, match="expected sprl_utils/ and notebooks/ in .* found none"):
        provenance.repo_root()


def test_environment_says_what_ran(tmp_path):
    outside = tmp_path / "subject-0042.nii.gz"
    outside.write_bytes(b"abc")
    profile = {"steps": 5, "keep": (None, np.float32(0.25)), "hcp_root": "/data/HCP", "out": ROOT / "runs"}
    found = provenance.environment(profile, inputs=[ROOT / "pyproject.toml", outside])
    assert found["sprl_utils"] == __version__
    assert found["packages"]["torch"] == torch.__version__
    expected = {"steps": 5, "keep": [None, 0.25], "hcp_root": provenance.OUTSIDE, "out": "runs"}
    assert found["profile"] == expected
    assert found["inputs"]["pyproject.toml"] == files.sha256(ROOT / "pyproject.toml")
    assert found["inputs"][f"{provenance.OUTSIDE}, file 2"] == files.sha256(outside)
    assert found["cpu"]["count"] <= os.cpu_count() and found["outputs"] == {}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be taken away here")
def test_the_number_of_processors_is_of_those_allowed():
    """As SLURM and containers give them: one of many."""
    code = (
        "import os; os.cpu_count = lambda: 96; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from sprl_utils import provenance; from sprl_utils.extras import stages\n"
        "threads = stages.torchrun_command('', 1)[1]['OMP_NUM_THREADS']\n"
        "print(provenance.environment({})['cpu']['count'], threads)"
    )
    plain = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=plain, capture_output=True, text=True)
    assert done.stdout.split() == ["1", "1"], done.stderr


def test_a_hash_is_remembered_until_the_file_changes(monkeypatch, tmp_path):
    for folder in ("sprl_utils", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "sprl_utils" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(provenance, "TICK", 0)
    read, scan = [], tmp_path / "anna.nii"
    monkeypatch.setattr(provenance, "sha256", lambda path: read.append(path) or files.sha256(path))
    scan.write_bytes(b"abc")
    time.sleep(0.01)
    found = [provenance.known_sha256(scan) for _ in range(3)]
    assert set(found) == {files.sha256(scan)} and len(read) == 1
    scan.write_bytes(b"abd")  # of the same size
    assert provenance.known_sha256(scan) == files.sha256(scan) != found[0]
    assert not any("anna" in str(path.relative_to(tmp_path)) for path in tmp_path.rglob("runs/cache/**/*"))
    monkeypatch.setattr(provenance, "TICK", 3600)  # it may change again without a newer time
    scan.write_bytes(b"abe")
    before = len(read)
    assert provenance.known_sha256(scan) == provenance.known_sha256(scan) and len(read) == before + 2


def test_environment_names_no_person_and_no_place(tmp_path):
    outside = tmp_path / "subject-0042.nii.gz"
    outside.write_bytes(b"abc")
    text = json.dumps(provenance.environment({"hcp_root": str(tmp_path)}, inputs=[outside]))
    for secret in (str(tmp_path), str(ROOT), str(Path.home()), outside.name, socket.gethostname()):
        assert secret not in text
    assert f'"{getpass.getuser()}"' not in text


def test_environment_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.environment({})["git"] == {"commit": None, "dirty": None}


def test_dirty_is_any_change_but_to_results(tmp_path):
    def git(*args):
        subprocess.run(["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e", *args], check=True)

    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "-m", "m")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.md").write_text("new")
    assert provenance._git(tmp_path)["dirty"] is False
    (tmp_path / "code.py").write_text("2")
    assert provenance._git(tmp_path)["dirty"] is True
    assert len(provenance._git(tmp_path)["commit"]) == 40


def test_files_in_the_repository_of_another_work_have_no_commit(tmp_path):
    inner = tmp_path / "tools" / "study"
    inner.mkdir(parents=True)
    (inner / "code.py").write_text("1")
    git = ["git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "other work"], check=True)
    assert provenance._git(inner) == {"commit": None, "dirty": None}
    subprocess.run([*git, "add", "."], check=True)  # now it is part of that work
    subprocess.run([*git, "commit", "--quiet", "-m", "study"], check=True)
    assert len(provenance._git(inner)["commit"]) == 40


@pytest.mark.parametrize("name", ["anna's study", "runs [v1]", 'a "b" & #c', "Kopf-Größe"])
def test_no_place_is_left_in_a_notebook(tmp_path, name):
    root = tmp_path / name
    note = {"text": [f"{root}/sprl_utils/prepare.py:3: UserWarning: {root}/x", "anna's study/ [v1]/"]}
    text = json.dumps(note, indent=1, ensure_ascii=False)
    kept = json.loads(provenance.without_place(text, root))
    assert kept == {"text": ["sprl_utils/prepare.py:3: UserWarning: x", note["text"][1]]}


def test_a_run_that_is_validated_anew_was_still_trained_where_it_was(tmp_path):
    trained = {"git": {"commit": "a"}, "profile": {"steps": 5, "validation_patches": 1},
               "outputs": {"w.safetensors": "1", "history.csv": "2"}}  # fmt: skip
    looked = {"git": {"commit": "b"}, "profile": {"steps": 5, "validation_patches": 3},
              "outputs": {"w.safetensors": "1", "history.csv": "3"}}  # fmt: skip
    provenance.keep_record(tmp_path, trained)
    told = provenance.keep_record(tmp_path, looked)
    assert told == looked | {"git": {"commit": "a"}}
    assert json.loads((tmp_path / "environment.json").read_text()) == told


def test_a_missing_input_is_said():
    with pytest.raises(FileNotFoundError, match="nowhere.nii"):
        provenance.environment({}, inputs=["nowhere.nii"])


def test_a_finished_run_that_is_opened_again_keeps_what_was_told_of_it(tmp_path):
    made = {"git": {"commit": "a", "dirty": True}, "profile": {}, "outputs": {"weights": "1"}}
    opened = made | {"git": {"commit": "b", "dirty": False}}
    retrained = opened | {"outputs": {"weights": "2"}}
    told = [provenance.keep_record(tmp_path, found) for found in (made, opened, retrained, opened)]
    assert told == [made, made, retrained, opened]


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "new" / "environment.json"
    provenance.write_json(path, {"a": 1})
    for bad in ({"a": float("nan")}, {"a": object()}):
        with pytest.raises((ValueError, TypeError)):
            provenance.write_json(path, bad)
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(path.parent.iterdir()) == [path]


def test_tuned_process_says_what_it_set():
    """In a process of its own: the allocator's settings cannot be taken back."""
    code = "from sprl_utils.provenance import tune_process as t; import json; print(json.dumps([t(1), t()]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    first, again = json.loads(done.stdout)
    assert first == again
    assert set(first) == {"allocator_tuned", "flush_denormal", "threads"} and first["threads"] == 1


def test_elsewhere_than_on_glibc_the_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(provenance.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(provenance.torch, "set_flush_denormal", lambda on: False)
    assert provenance.tune_process()["allocator_tuned"] is False
