"""A profile's keys and types against the notebooks' parameters."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sprl_utils.profiles import all_parameters, check_profile, notebook_parameters, profile_for, read_profile

ROOT = Path(__file__).resolve().parents[1]
HEADER = """\
# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""
FIRST = f"""\
{HEADER}# %% [markdown]
# # Title

# %% tags=["parameters"]
profile = "smoke"  # folder name
keep = 0.25  # share of samples
steps = 10  # updates
flips = True  # mirror patches
crop = [8, 8]  # edges; empty: none
leave_out = []  # anything
scale = None  # None: found from the data
low = -0.5  # a negative number

# %%
derived = steps * 2
"""
SECOND = f'{HEADER}# %% tags=["parameters"]\nprofile = "smoke"  # folder name\njobs = 1  # processes\n'


@pytest.fixture
def notebooks(tmp_path) -> list[Path]:
    (tmp_path / "profiles").mkdir()
    paths = [tmp_path / "01_first.py", tmp_path / "02_second.py"]
    for path, text in zip(paths, (FIRST, SECOND), strict=True):
        path.write_text(text)
    return paths


def write_profile(notebooks: list[Path], text: str) -> Path:
    path = notebooks[0].parent / "profiles" / "mine.yaml"
    path.write_text(text)
    return path


def test_parameters_are_those_of_the_tagged_cell(notebooks):
    assert notebook_parameters(notebooks[0]) == {
        "profile": "smoke",
        "keep": 0.25,
        "steps": 10,
        "flips": True,
        "crop": [8, 8],
        "leave_out": [],
        "scale": None,
        "low": -0.5,
    }
    assert set(all_parameters(notebooks)) == set(notebook_parameters(notebooks[0])) | {"jobs"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# %%\na = 1\n", "01_first.py: expected a parameters cell, found none"),
        ('# %% tags=["parameters"]\na = 2 * b\n', "01_first.py: a: expected a literal, found 2 [*] b"),
    ],
)
def test_a_bad_parameters_cell_is_said(notebooks, text, message):
    notebooks[0].write_text(HEADER + text)
    with pytest.raises(ValueError, match=message):
        notebook_parameters(notebooks[0])


@pytest.mark.parametrize("other", ["1", "True", "10.0", "'10'"])
def test_notebooks_that_disagree_about_a_default(notebooks, other):
    notebooks[1].write_text(f'{HEADER}# %% tags=["parameters"]\nsteps = {other}  # updates\n')
    with pytest.raises(ValueError, match=f"02_second.py: steps: expected 10 as in 01_.*, found {other}$"):
        all_parameters(notebooks)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "keep: 1",
        "steps: 5",
        "flips: false",
        "crop: []",
        "crop: [1, 2, 3]",
        "leave_out: [1, a]",
        "scale: 4095.0",
        "scale: null",
        "scale: [1]",
        "jobs: 4",
        "low: 5.0e-6",
    ],
)
def test_what_fits_passes(notebooks, line):
    check_profile(write_profile(notebooks, f"profile: mine\n{line}\n"), notebooks)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("stepz: 5", "profile mine: stepz: expected a parameter of a notebook, found none of that name"),
        ("steps: 5.0", "profile mine: steps: expected int, found float: 5.0"),
        ("steps: true", "profile mine: steps: expected int, found bool: True"),
        ("keep: true", "profile mine: keep: expected float, found bool: True"),
        ("keep: 5e-6", "profile mine: keep: expected float, found str: '5e-6'"),
        ("flips: 1", "profile mine: flips: expected bool, found int: 1"),
        ("crop: 8", "profile mine: crop: expected list of int, found int: 8"),
        ("crop: [8, 8.5]", "profile mine: crop: expected list of int, found list of float or int"),
        ("steps: null", "profile mine: steps: expected int, found NoneType: None"),
        ("leave_out: all", "profile mine: leave_out: expected list, found str: 'all'"),
    ],
)
def test_what_does_not_fit_is_named(notebooks, line, message):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        check_profile(write_profile(notebooks, f"profile: mine\n{line}\n"), notebooks)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps: 5\n", "profile mine: profile: expected 'mine', found None"),
        ("profile: demo\n", "profile mine: profile: expected 'mine', found 'demo'"),
        ("profile: mine\nsteps: 5\nsteps: 6\n", "profile mine: steps: expected once, found 2 times"),
        ("- a\n", "profile mine: expected names and values, found list"),
        ("", "profile mine: expected names and values, found NoneType"),
        ("1: 2\n", "profile mine: expected names and values"),
        ("a: [1\n", "profile mine: expected YAML, found "),
    ],
)
def test_a_bad_profile_is_said_in_one_line(notebooks, text, message):
    with pytest.raises(ValueError, match="^[^\n]*$") as error:
        check_profile(write_profile(notebooks, text), notebooks)
    assert message in str(error.value)


def test_an_unknown_profile_lists_the_known(notebooks):
    mine = write_profile(notebooks, "profile: mine\n")
    with pytest.raises(ValueError, match="profile other: expected one of mine, found no file other.yaml"):
        read_profile(mine.with_name("other.yaml"))


def test_each_notebook_gets_its_own_share(notebooks):
    mine = write_profile(notebooks, "profile: mine\nsteps: 5\njobs: 2\n")
    assert profile_for(mine, notebooks[0]) == {"profile": "mine", "steps": 5}
    assert profile_for(mine, notebooks[1]) == {"profile": "mine", "jobs": 2}


def test_command_line_prints_the_share_or_one_line_of_error(notebooks):
    mine = write_profile(notebooks, "profile: mine\nsteps: 5\njobs: 2\n")
    command = [sys.executable, "-m", "sprl_utils.profiles", mine]
    done = subprocess.run([*command, notebooks[1]], cwd=ROOT, capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout) == {"profile": "mine", "jobs": 2}
    mine.write_text("profile: mine\nstepz: 5\n")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "stepz" in done.stderr
