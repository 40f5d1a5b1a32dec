"""The course pack with the real nbgrader: what students get, what points answers get, what is refused."""

import re
import shutil
from pathlib import Path

import jupytext
import nbformat
import pytest

from sprl_utils.grading import course as pack
from sprl_utils.grading.course import (
    EXERCISES,
    check,
    grade,
    mistakes,
    per_exercise,
    per_student,
    possible_points,
    read_source,
    release,
    sources,
    submissions,
    write_tables,
)

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sources(ROOT)
each_assignment = pytest.mark.parametrize("assignment", SOURCES)


def cells_of(notebook, kind: str) -> dict:
    """nbgrader's cells of a kind, ``"grade"`` or ``"solution"``, by id."""
    facts = [(cell.metadata.get("nbgrader", {}), cell) for cell in notebook.cells]
    return {fact["grade_id"]: cell for fact, cell in facts if fact.get(kind)}


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course folder with a release, made without touching the home folder."""
    folder = tmp_path_factory.mktemp("course")
    home = folder / "home"
    home.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        release(ROOT, folder / "course")
        yield folder / "course"
        assert not list(home.iterdir())


@pytest.fixture(scope="module")
def graded(course, tmp_path_factory):
    """Points of the first assignment for a good, a cheating and a broken submission."""
    folder = tmp_path_factory.mktemp("submitted")
    solved, cheat = read_source(SOURCES["01_kspace"]), read_source(course / "release/01_kspace/kspace.ipynb")
    first, *others = cells_of(cheat, "grade").values()
    cheat.cells.remove(first)
    for cell in others:
        cell.source = "pass"
    texts = {"anna müller": nbformat.writes(solved), "O'Brien": nbformat.writes(cheat), "ben": "{"}
    for student, text in texts.items():
        (folder / student / "01_kspace").mkdir(parents=True)
        (folder / student / "01_kspace" / "kspace.ipynb").write_text(text, encoding="utf-8")
    cells = grade(ROOT, submissions(ROOT, folder), course)
    for student, text in texts.items():
        assert (folder / student / "01_kspace" / "kspace.ipynb").read_text(encoding="utf-8") == text
        assert [p.name for p in (folder / student / "01_kspace").iterdir()] == ["kspace.ipynb"]
    return cells


@each_assignment
def test_students_get_no_solution_and_no_hidden_test(course, assignment):
    path = course / "release" / assignment / f"{SOURCES[assignment].stem}.ipynb"
    assert not re.search("BEGIN|END|jupytext", path.read_text(encoding="utf-8"))
    mine, theirs = read_source(SOURCES[assignment]), nbformat.read(path, as_version=4)
    assert list(cells_of(theirs, "solution")) == list(cells_of(mine, "solution"))
    assert all("raise NotImplementedError()" in c.source for c in cells_of(theirs, "solution").values())
    assert not [cell for cell in theirs.cells if cell.get("outputs")]
    hidden = re.findall(
        r"### BEGIN HIDDEN TESTS\n(.*?)### END", "\n".join(c.source for c in mine.cells), re.S
    )
    assert len(hidden) == len(cells_of(theirs, "grade")) and not [h for h in hidden if h in path.read_text()]


def test_solutions_get_all_points_whatever_is_done_to_the_tests(graded):
    table = per_student(per_exercise(graded)).set_index("student")
    total = table["total (of 10)"]
    assert total["anna müller"] == 10 and total["O'Brien"] == 0
    assert total.isna().to_dict() == {"anna müller": False, "O'Brien": False, "ben": True}


def test_tables_are_written_as_csv_and_markdown(graded, tmp_path):
    write_tables(graded, tmp_path)
    assert "anna müller,01_kspace,1: Cut k-space,5.0,5" in (tmp_path / "grades.csv").read_text(
        encoding="utf-8"
    )
    header, _, *rows = (tmp_path / "grades.md").read_text(encoding="utf-8").splitlines()
    assert "1: Cut k-space (of 5)" in header and len(rows) == 3 and "nan" not in "".join(rows)


def question(number: int, solution: str, hidden: str) -> str:
    """An exercise of one point in py:percent: a function that doubles a number."""
    facts = '# %% nbgrader={{"grade": {}, "grade_id": "{}", "locked": {}, "points": 1, "schema_version": 3, '
    facts += '"solution": {}, "task": false}}'
    return f"""# %% [markdown]
# ## Exercise {number}: Twice

{facts.format("false", f"twice{number}", "false", "true")}
### BEGIN SOLUTION
twice{number} = lambda x: {solution}
### END SOLUTION

{facts.format("true", f"e{number}a", "true", "false")}
assert twice{number}(2) == 4
### BEGIN HIDDEN TESTS
{hidden}
### END HIDDEN TESTS

"""


def test_check_finds_a_wrong_solution_and_a_test_that_does_not_notice_a_mistake(tmp_path):
    exercises = tmp_path / "repository" / EXERCISES
    (exercises / "source" / "numbers").mkdir(parents=True)
    shutil.copy(ROOT / EXERCISES / "nbgrader_config.py", exercises)
    right, unnoticed = question(1, "2 * x", "assert twice1(3) == 6"), question(2, "2 * x", "pass")
    wrong = question(3, "x + 3", "assert twice3(3) == 6")
    (exercises / "source" / "numbers" / "twice.py").write_text(right + unnoticed + wrong)
    (exercises / "mistakes.py").write_text(
        "\n\n".join(f'# %% tags=["twice{n}", "e{n}a"]\ntwice{n} = lambda x: x + 2' for n in (1, 2, 3))
    )
    assert set(check(tmp_path / "repository", tmp_path / "course")) == {
        "mistakes 1: e2a: expected 0 of 1 points, found 1",
        "solutions: e3a: expected 1 of 1 points, found 0",
    }


@each_assignment
def test_executed_pair_is_in_step_and_without_error(assignment):
    """Else: `make exercises`."""
    source = SOURCES[assignment]
    notebook = nbformat.read(source.with_suffix(".ipynb"), as_version=4)
    mine = [(c.cell_type, c.source, c.metadata.get("nbgrader")) for c in jupytext.read(source).cells]
    assert [(c.cell_type, c.source, c.metadata.get("nbgrader")) for c in notebook.cells] == mine
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [
        o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"
    ]


def test_each_test_has_a_mistake_that_it_has_to_notice():
    noticed = {test for _, tests, _ in mistakes(ROOT) for test in tests}
    solutions = {solution for solution, _, _ in mistakes(ROOT)}
    for source in SOURCES.values():
        notebook = read_source(source)
        assert (
            set(cells_of(notebook, "grade")) <= noticed and set(cells_of(notebook, "solution")) <= solutions
        )


def test_each_exercise_gives_five_points():
    for source in SOURCES.values():
        assert set(possible_points(source).groupby("exercise")["possible"].sum()) == {5}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("anna/02_netz/network.ipynb", "anna: expected assignments named 01_kspace, .* found 02_netz"),
        (
            "anna/01_kspace/kspace (1).ipynb",
            r"anna/01_kspace: expected kspace.ipynb, found kspace \(1\).ipynb",
        ),
        ("an[n]a/01_kspace/kspace.ipynb", r"an\[n\]a: expected a name without any of"),
        ("01_kspace/kspace.ipynb", "expected <student>/<assignment>/<notebook>.ipynb, found 01_kspace/ks"),
        ("class/anna/01_kspace/kspace.ipynb", "<notebook>.ipynb, found class/anna/01_kspace/kspace.ipynb"),
        ("anna/notes.txt", "expected <student>/<assignment>/<notebook>.ipynb, found none"),
    ],
)
def test_what_nbgrader_would_pass_over_is_refused(tmp_path, path, message):
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    with pytest.raises(ValueError, match=message):
        submissions(ROOT, tmp_path)


def test_submissions_where_grading_works_are_refused_and_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "repo_root", lambda: tmp_path)
    notebook = tmp_path / "runs/course/submitted/anna/01_kspace/kspace.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.touch()
    with pytest.raises(ValueError, match="expected a folder outside of .*runs/course"):
        pack.main("grade", str(tmp_path / "runs/course/submitted"))
    assert notebook.is_file()


def test_a_folder_that_nbgrader_takes_for_a_pattern_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected a folder without any of"):
        release(ROOT, tmp_path / "runs [v1]")
