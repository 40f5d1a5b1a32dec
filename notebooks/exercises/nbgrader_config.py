"""nbgrader's configuration for this course; nbgrader reads it when it is started in this folder."""

from pathlib import Path

c = get_config()  # noqa: F821  nbgrader defines it

# Release, submissions, grades and the gradebook lie in a folder that git ignores.
c.CourseDirectory.root = str(Path(__file__).resolve().parents[2] / "runs" / "course")
c.ClearSolutions.code_stub = {"python": "# Write your code here.\nraise NotImplementedError()"}
# A cell that runs for longer is stopped and gets no points: solutions take seconds.
c.Execute.timeout = 180
c.ExecutePreprocessor.kernel_name = "python3"
# A test cell that a student has deleted comes back.
c.OverwriteCells.add_missing_cells = True
