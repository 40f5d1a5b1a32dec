"""What every notebook keeps to, and every profile against every notebook."""

import ast
import itertools
import re
from pathlib import Path

import jupytext
import pytest

from sprl_utils.profiles import (
    all_parameters,
    check_profile,
    notebook_parameters,
    read_profile,
    study_notebooks,
)

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
STAGES = ["01_prepare_data", "02_pretrain_generator", "03_train_gan", "04_evaluate"]
SOURCES = study_notebooks(FOLDER)
PROFILES = sorted((FOLDER / "profiles").glob("*.yaml"))

each_notebook = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
each_profile = pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)


def contents(path: Path) -> list[tuple]:
    """Type, source and tags of each cell."""
    return [(c.cell_type, c.source, c.metadata.get("tags", [])) for c in jupytext.read(path).cells]


def code_cells(path: Path) -> list:
    return [cell for cell in jupytext.read(path).cells if cell.cell_type == "code" and cell.source]


def test_the_four_stages_and_profiles_are_there():
    assert set(STAGES) <= {path.stem for path in SOURCES}
    assert {"smoke", "demo", "original", "paper"} <= {path.stem for path in PROFILES}
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SOURCES}


@each_notebook
def test_pair_is_in_step(source):
    """Else: `make notebooks`."""
    assert contents(source.with_suffix(".ipynb")) == contents(source)


@each_notebook
def test_committed_notebook_was_executed_in_order_and_without_error(source):
    cells = code_cells(source.with_suffix(".ipynb"))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs and not [output for output in outputs if output.output_type == "error"]


@each_notebook
def test_committed_notebook_holds_nothing_that_changes_with_each_run(source):
    notebook = jupytext.read(source.with_suffix(".ipynb"))
    assert set(notebook.metadata) <= {"jupytext", "kernelspec"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert not [cell for cell in notebook.cells if set(cell.metadata) - {"tags"}]
    paths = r'"/[^"]*/sprl_utils/'  # of the machine that ran it, in warnings
    assert not re.search(paths, source.with_suffix(".ipynb").read_text(encoding="utf-8"))


def executed(root: Path) -> list[Path]:
    """All executed notebooks that are committed."""
    found = sorted([*root.glob("notebooks/*.ipynb"), *root.glob("results/*/*.ipynb")])
    assert {path.parent.name for path in found} >= {"notebooks", "demo"}
    return found


def test_what_is_to_be_seen_follows_a_picture(committed):
    """Also where a run was finished before its notebook was executed."""
    unseen = [
        f"{path.relative_to(committed)}: {after.source[:60]!r}"
        for path in executed(committed)
        for before, after in itertools.pairwise(jupytext.read(path).cells)
        if after.cell_type == "markdown" and "What is to be seen" in after.source
        if not any("image/png" in output.get("data", {}) for output in before.get("outputs", []))
    ]
    assert unseen == []


def test_no_progress_bar_and_no_path_of_a_machine_is_kept(committed):
    kept = re.compile(r"\d+%\||/[^\s\"]*/sprl_utils/")
    found = {
        f"{path.relative_to(committed)}: {hit[0]}"
        for path in executed(committed)
        for cell in jupytext.read(path).cells
        for output in cell.get("outputs", [])
        if (hit := kept.search(output.get("text", "")))
    }
    assert found == set()


@each_notebook
def test_one_title_at_the_top(source):
    cells = jupytext.read(source).cells
    titles = [
        i
        for i, cell in enumerate(cells)
        if cell.cell_type == "markdown"
        for _ in re.findall(r"^# \S", cell.source, re.MULTILINE)
    ]
    assert titles == [0]


@each_notebook
def test_a_function_in_a_cell_is_short_and_says_what_it_does(source):
    """It teaches; what is longer, and every class, belongs to the package."""
    defined = [n for n in ast.walk(ast.parse(source.read_text(encoding="utf-8"))) if hasattr(n, "name")]
    functions = [n for n in defined if isinstance(n, ast.FunctionDef)]
    assert not [n.name for n in defined if isinstance(n, (ast.ClassDef, ast.AsyncFunctionDef))]
    assert not [f.name for f in functions if f.end_lineno - f.lineno > 12 or not ast.get_docstring(f)]


@each_notebook
def test_parameters_are_literals_each_with_help(source):
    """One ``=`` a line: papermill reads the comment behind it as the parameter's help."""
    assert notebook_parameters(source).get("profile", "smoke") == "smoke"
    (cell,) = (c for c in code_cells(source) if "parameters" in c.metadata.get("tags", []))
    lines = cell.source.splitlines()
    for line in lines:
        assert re.fullmatch(r"[a-z][a-z0-9_]* = [^=#]+  # [^=]+", line), line
    assert len(notebook_parameters(source)) == len(lines)


@each_profile
def test_profile_fits_the_notebooks(profile):
    check_profile(profile, SOURCES)


@each_profile
def test_profile_opens_with_its_command_and_its_needs(profile):
    first, *rest = profile.read_text(encoding="utf-8").splitlines()
    stem = profile.stem
    command = rf"make reproduce( PROFILE={stem}){'?' if stem == 'demo' else ''}"
    if stem in ("bench", "rehearsal"):
        command = f"make {stem}"
    elif stem in ("ablations", "comparison", "people") or stem.startswith("study"):
        command = "make study"
    assert re.match(rf"# {command}(\s|$)", first)
    assert any(line.startswith("# Needs: ") for line in rest)


def test_smoke_is_the_notebooks_default():
    smoke = read_profile(FOLDER / "profiles" / "smoke.yaml")
    assert all_parameters(SOURCES) | smoke == all_parameters(SOURCES)
