"""What `make` does with a place, a variable of the shell, or a name that it was not written for."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACES = ["plain", "anna's study", "runs [v1]", "a & b #c"]


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess:
    python = [] if "VIRTUAL_ENV" in variables else [f"PYTHON={sys.executable}"]
    command = ["make", "--no-print-directory", *python, *arguments]
    environment = {k: v for k, v in os.environ.items() if k not in ("PROFILE", "MAKEFLAGS")} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8")


@pytest.fixture
def clone(tmp_path, request) -> Path:
    """The checkout's own files in a folder of that name, without runs."""
    folder = tmp_path / getattr(request, "param", "plain")
    folder.mkdir()
    for name in ("Makefile", "environment.yml"):
        shutil.copy(ROOT / name, folder)
    for name in ("notebooks", "sprl_utils"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    return folder


def add_probe(clone: Path, recipe: str) -> None:
    with (clone / "Makefile").open("a") as file:
        file.write(f"\nprobe:\n\t@{recipe}\n")


@pytest.mark.parametrize("profile", ["", ".", "..", "../runs", "cache", "*", "%", "demo smoke", "demo/"])
def test_clean_deletes_the_runs_of_one_profile_and_nothing_else(clone, profile):
    for name in ("cache", "demo", "smoke"):
        (clone / "runs" / name).mkdir(parents=True)
    done = make(clone, "clean", f"PROFILE={profile}")
    assert done.returncode != 0 and "PROFILE: expected one of" in done.stderr
    assert sorted(p.name for p in (clone / "runs").iterdir()) == ["cache", "demo", "smoke"]
    assert make(clone, "clean", "PROFILE=smoke").returncode == 0
    assert sorted(p.name for p in (clone / "runs").iterdir()) == ["cache", "demo"]


@pytest.mark.parametrize("clone", PLACES, indirect=True)
def test_a_clone_may_lie_anywhere_and_its_notebooks_do_not_tell(clone):
    """The recipe of a notebook, with a papermill that leaves a file of this machine, as warnings do."""
    (clone / "papermill.py").write_text(
        "import sys, pathlib, json, sprl_utils\n"
        "inspect_notebook = lambda notebook: {'profile': {'default': '\"smoke\"'}}\n"
        "text = json.dumps({'warning': sprl_utils.__file__}, ensure_ascii=False)\n"
        "if __name__ == '__main__':\n"
        "    pathlib.Path(sys.argv[-1]).write_text(text, encoding='utf-8')\n"
    )
    done = make(clone, "results/smoke/05_speed.ipynb", "PROFILE=smoke")
    assert done.returncode == 0, done.stderr
    for folder in ("runs", "results"):
        kept = json.loads((clone / folder / "smoke" / "05_speed.ipynb").read_text())
        assert kept == {"warning": "sprl_utils/__init__.py"}
    assert not list((clone / "runs/smoke").glob("*.running.ipynb"))


@pytest.mark.parametrize("clone", [*PLACES, "anna's"], indirect=True)
def test_an_active_environment_may_lie_anywhere(clone):
    """Make cannot look into a folder with a space or a bracket, so .venv is used there."""
    active = clone / "venv"
    for package in ("torch", "papermill"):
        (active / "lib/python3.11/site-packages" / package).mkdir(parents=True)
    (active / "bin").mkdir()
    (active / "bin/python").write_text("#!/bin/sh\necho ours\n")
    (active / "bin/python").chmod(0o755)
    add_probe(clone, "echo $(python)")
    found = str(active / "bin/python") if clone.name in ("plain", "anna's") else ".venv/bin/python"
    assert make(clone, "probe", VIRTUAL_ENV=str(active)).stdout.strip() == found


def test_packages_of_the_shell_do_not_stand_before_those_of_the_environment(clone, tmp_path):
    (tmp_path / "site").mkdir()
    for name in ("edt.py", "yaml.py", "sprl_utils.py"):
        (tmp_path / "site" / name).write_text("")
    add_probe(clone, "$(python) -c 'import edt, yaml, sprl_utils; print(edt, yaml, sprl_utils)'")
    done = make(clone, "probe", PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 0 and str(tmp_path / "site") not in done.stdout
    assert str(clone / "sprl_utils") in done.stdout


def test_a_duplicated_notebook_is_not_run(clone):
    for ending in ("py", "ipynb"):
        original = clone / "notebooks" / f"01_prepare_data.{ending}"
        shutil.copy(original, original.with_stem("01_prepare_data-Copy1"))
    for target in ("test", "notebooks"):
        done = make(clone, "--dry-run", target)
        assert done.returncode == 0 and "01_prepare_data" in done.stdout and "Copy1" not in done.stdout
