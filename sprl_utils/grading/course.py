"""The course pack: the students' release of the exercises, points per student, and a check of both.

nbgrader does the work, with `notebooks/exercises/nbgrader_config.py`. ``python -m sprl_utils.grading.course
release``, ``grade FOLDER`` and ``check`` are `make course`, `make grade SUBMITTED=FOLDER` and
`make course-check`. All files go to ``runs/course/`` and, of the check, to ``runs/course-check/``.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
import pandas as pd
from nbformat import NotebookNode

from sprl_utils.files import write_atomically
from sprl_utils.provenance import repo_root

#: Folder of nbgrader's configuration, the sources with solutions, and the common mistakes.
EXERCISES = Path("notebooks/exercises")
#: Characters that nbgrader takes for a pattern in a path.
SPECIAL = re.compile(r"[*?\[\]{}]")
#: Where Jupyter, IPython and matplotlib keep what would go to the user's home folder.
KEPT = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "MPLCONFIGDIR")


class Submission(NamedTuple):
    """One notebook that a student has handed in."""

    student: str
    assignment: str
    notebook: Path


def sources(root: Path) -> dict[str, Path]:
    """Assignment -> py:percent source of its notebook, in the order of the course."""
    return {path.parent.name: path for path in sorted((root / EXERCISES / "source").glob("*/*.py"))}


def read_source(source: Path) -> NotebookNode:
    """A notebook with solutions, which has no pair where it goes."""
    notebook = jupytext.read(source)
    notebook.metadata.pop("jupytext", None)
    return notebook


def release(root: Path, course: Path) -> Path:
    """Write the students' notebooks, without solutions and hidden tests, to ``course/release``.

    Args:
        root: the repository.
        course: nbgrader's course folder. A gradebook that is there already is kept.

    Raises:
        ValueError: nbgrader cannot work in such a folder, or refuses a notebook.
    """
    if SPECIAL.search(str(course.resolve())):
        raise ValueError(f"course: expected a folder without any of *?[]{{}} in its path, found {course}")
    for name in ("source", "release"):
        shutil.rmtree(course / name, ignore_errors=True)
    for assignment, source in sources(root).items():
        target = course / "source" / assignment / f"{source.stem}.ipynb"
        write_atomically(target, nbformat.writes(read_source(source)))
    if log := nbgrader("generate_assignment", root, course):
        raise ValueError(f"course: expected nbgrader to make a release, found:\n{log}")
    return course / "release"


def nbgrader(command: str, root: Path, course: Path) -> str:
    """Run a command of nbgrader for all assignments; returns the log if it failed, else ``""``."""
    course = course.resolve()
    (course / "settings").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {name: str(course / "settings" / name.lower()) for name in KEPT}
    environment |= {"PYTHONPATH": str(root.resolve()), "JUPYTER_PREFER_ENV_PATH": "1"}
    # It calls alembic, which lies beside Python.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    options = ["--force", "--create", f"--CourseDirectory.root={course}"]
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", command, "*", *options],
        cwd=root / EXERCISES,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    return done.stdout + done.stderr if done.returncode else ""


def submissions(root: Path, folder: Path) -> list[Submission]:
    """What lies in ``folder/<student>/<assignment>/<notebook>.ipynb``, nbgrader's layout.

    Raises:
        ValueError: names each folder that nbgrader would pass over.
    """
    known, found, wrong = sources(root), [], []
    for path in sorted(folder.rglob("*.ipynb")):
        place = path.relative_to(folder).parts
        if len(place) != 3 and not any(part.startswith(".") for part in place):
            wrong.append(f"expected <student>/<assignment>/<notebook>.ipynb, found {'/'.join(place)}")
    for place in sorted(path for path in folder.glob("[!.]*/[!.]*") if path.is_dir()):
        student, assignment = place.parent.name, place.name
        notebook = place / f"{known[assignment].stem}.ipynb" if assignment in known else None
        if SPECIAL.search(student):
            wrong.append(f"{student}: expected a name without any of *?[]{{}}")
        elif notebook is None:
            wrong.append(f"{student}: expected assignments named {', '.join(known)}, found {assignment}")
        elif not notebook.is_file():
            there = ", ".join(sorted(path.name for path in place.iterdir())) or "nothing"
            wrong.append(f"{student}/{assignment}: expected {notebook.name}, found {there}")
        else:
            found.append(Submission(student, assignment, notebook))
    if not found and not wrong:
        wrong.append("expected <student>/<assignment>/<notebook>.ipynb, found none")
    if wrong:
        raise ValueError("\n".join(f"submissions in {folder}: {one}" for one in wrong))
    return found


def grade(root: Path, handed_in: Sequence[Submission], course: Path) -> pd.DataFrame:
    """Grade submissions with what `release` has left in ``course``. They are copied, and only read.

    Returns:
        One row per submission and test cell: student, assignment, exercise, cell, points, possible. The
        points of a notebook that nbgrader could not run are NaN, and ``course/nbgrader.log`` says why.
    """
    for student, assignment, notebook in handed_in:
        place = course / "submitted" / student / assignment / notebook.name
        place.parent.mkdir(parents=True)
        shutil.copyfile(notebook, place)
    write_atomically(course / "nbgrader.log", nbgrader("autograde", root, course))
    tables = []
    for student, assignment, notebook in handed_in:
        graded = course / "autograded" / student / assignment / notebook.name
        points = gradebook(course, student, assignment, notebook.stem) if graded.is_file() else {}
        if not points:
            print(f"{student}/{assignment}: expected a notebook that runs, see nbgrader.log", file=sys.stderr)
        table = possible_points(sources(root)[assignment])
        table["points"] = table["cell"].map(points).astype(float)
        tables.append(table.assign(student=student, assignment=assignment))
    columns = ["student", "assignment", "exercise", "cell", "points", "possible"]
    return pd.concat(tables, ignore_index=True)[columns]


def gradebook(course: Path, student: str, assignment: str, notebook: str) -> dict[str, float]:
    """Points per test cell that nbgrader has noted."""
    from nbgrader.api import Gradebook  # teachers have it; the installed package does not need it

    with Gradebook(f"sqlite:///{course.resolve()}/gradebook.db") as book:
        grades = book.find_submission_notebook(notebook, assignment, student).grades
        return {one.name: one.score for one in grades}


def possible_points(source: Path) -> pd.DataFrame:
    """One row per test cell of a notebook: exercise (its heading), cell, possible points."""
    rows, exercise = [], ""
    for cell in read_source(source).cells:
        if cell.cell_type == "markdown" and (title := re.search(r"^## Exercise (.+)$", cell.source, re.M)):
            exercise = title[1]
        facts = cell.metadata.get("nbgrader", {})
        if facts.get("grade"):
            rows.append({"exercise": exercise, "cell": facts["grade_id"], "possible": facts["points"]})
    return pd.DataFrame(rows)


def per_exercise(cells: pd.DataFrame) -> pd.DataFrame:
    """Points per student and exercise: a long table."""
    keys = ["student", "assignment", "exercise"]
    return cells.groupby(keys, sort=False)[["points", "possible"]].sum(min_count=1).reset_index()


def per_student(exercises: pd.DataFrame) -> pd.DataFrame:
    """One row per student, one column per exercise with its possible points, and the total.

    Where nothing was handed in, or could not be run, there is no number.
    """
    possible = exercises.groupby("exercise")["possible"].first()
    order = sorted(possible.index, key=lambda title: int(title.split(":")[0]))
    table = exercises.pivot(index="student", columns="exercise", values="points")[order]
    table[f"total (of {possible.sum():g})"] = table.sum(axis=1, min_count=1)
    return table.rename(columns={title: f"{title} (of {possible[title]:g})" for title in order}).reset_index()


def write_tables(cells: pd.DataFrame, course: Path) -> str:
    """Write ``grades.csv`` (per student and exercise) and ``grades.md`` (per student); returns the latter."""
    exercises = per_exercise(cells)
    table = per_student(exercises)
    markdown = table.astype(object).where(table.notna(), None).to_markdown(index=False, missingval="")
    write_atomically(course / "grades.csv", exercises.to_csv(index=False))
    write_atomically(course / "grades.md", f"{markdown}\n")
    return markdown


def mistakes(root: Path) -> list[tuple[str, list[str], str]]:
    """Common wrong solutions: the solution cell, the test cells that have to notice, and the code."""
    cells = jupytext.read(root / EXERCISES / "mistakes.py").cells
    tagged = [cell for cell in cells if cell.metadata.get("tags")]
    return [(cell.metadata["tags"][0], cell.metadata["tags"][1:], cell.source) for cell in tagged]


def with_mistakes(root: Path, source: Path) -> list[tuple[NotebookNode, set[str]]]:
    """Notebooks with one mistake per solution cell each, and the test cells that have to notice them."""
    made, number = [], Counter()
    ids = {cell.metadata.get("nbgrader", {}).get("grade_id") for cell in read_source(source).cells}
    for solution, tests, code in mistakes(root):
        if solution not in ids:
            continue
        if number[solution] == len(made):
            made.append((read_source(source), set()))
        notebook, noticed = made[number[solution]]
        number[solution] += 1
        noticed.update(tests)
        for cell in notebook.cells:
            if cell.metadata.get("nbgrader", {}).get("grade_id") == solution:
                cell.source = code
    return made


def check(root: Path, course: Path, only: Sequence[str] = ()) -> list[str]:
    """Grade the solutions, the release as it is, and the common mistakes.

    Solutions have to get full points and the release none. A mistake has to lose the points of the test cells
    that it names, and of no other.

    Args:
        only: assignments; empty: all.

    Returns:
        Each test cell with other points, in one sentence.
    """
    shutil.rmtree(course, ignore_errors=True)
    released, expected, handed_in = release(root, course), {}, []
    for assignment, source in sources(root).items():
        if only and assignment not in only:
            continue
        tests = set(possible_points(source)["cell"])
        empty = nbformat.read(released / assignment / f"{source.stem}.ipynb", as_version=4)
        answers = {"solutions": (read_source(source), set()), "nothing": (empty, tests)}
        answers |= {f"mistakes {i}": answer for i, answer in enumerate(with_mistakes(root, source), 1)}
        for student, (notebook, lost) in answers.items():
            path = course / "answers" / student / assignment / f"{source.stem}.ipynb"
            write_atomically(path, nbformat.writes(notebook))
            handed_in.append(Submission(student, assignment, path))
            expected |= {(student, test): test not in lost for test in tests}
    cells = grade(root, handed_in, course)
    print(write_tables(cells, course))
    right = [expected[one.student, one.cell] * one.possible for one in cells.itertuples()]
    return [
        f"{one.student}: {one.cell}: expected {points:g} of {one.possible:g} points, found {one.points:g}"
        for one, points in zip(cells.itertuples(), right, strict=True)
        if one.points != points
    ]


def main(command: str, what: str | None = None) -> None:
    """Run ``release``, ``grade FOLDER`` or ``check [ASSIGNMENT]`` in this repository.

    Raises:
        ValueError: what is wrong with the folder, the notebooks or the points.
    """
    root = repo_root()
    course = root / "runs" / "course"
    if command == "release":
        print(f"The students' notebooks are in {release(root, course)}")
    elif command == "grade":
        if Path(what).resolve().is_relative_to(course.resolve()):
            raise ValueError(
                f"submissions: expected a folder outside of {course}, which grading empties; move it"
            )
        handed_in = submissions(root, Path(what))
        shutil.rmtree(course, ignore_errors=True)
        release(root, course)
        cells = grade(root, handed_in, course)
        print(write_tables(cells, course))
        print(f"Points per student and exercise are in {course}/grades.csv and grades.md")
        if cells["points"].isna().any():
            raise ValueError(
                f"submissions: expected all to run, found some without points; see {course}/nbgrader.log"
            )
    elif wrong := check(root, course.with_name("course-check"), [what] if what else ()):
        raise ValueError("\n".join(wrong))
    else:
        print("Solutions get all points, empty notebooks none, and each common mistake loses its points.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The course pack: release, grade, check")
    parser.add_argument("command", choices=["release", "grade", "check"])
    parser.add_argument("what", nargs="?", help="grade: folder of submissions; check: an assignment (all)")
    arguments = parser.parse_args()
    if arguments.command == "grade" and not arguments.what:
        parser.error("grade: expected a folder of submissions, found none")
    try:
        main(**vars(arguments))
    except ValueError as error:
        sys.exit(str(error))
