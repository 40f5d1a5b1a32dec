"""One list of exact versions: environment.yml, what the Makefile reads from it, and what is installed."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path

import yaml

from sprl_utils import provenance

ROOT = Path(__file__).resolve().parents[1]
LISTED = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
PINS = next(entry["pip"] for entry in LISTED if isinstance(entry, dict))
NAMES = {pin.split("==")[0] for pin in PINS}


def test_every_version_is_exact():
    assert LISTED[0] == "python=3.11"
    assert all(re.fullmatch(r"[a-z0-9-]+==\d+(\.\d+)+", pin) for pin in PINS)
    assert len(NAMES) == len(PINS)


def test_the_makefile_reads_the_same_list():
    done = subprocess.run(
        ["make", "--silent", "--no-print-directory", "pins"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == PINS


def test_installed_is_what_is_listed():
    installed = {f"{name}=={importlib.metadata.version(name).split('+')[0]}" for name in NAMES}
    assert installed == set(PINS)


def test_what_the_package_needs_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) <= NAMES
    assert set(provenance.PACKAGES) <= NAMES
