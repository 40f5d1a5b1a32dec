"""Text is UTF-8, whatever the locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("source", sorted((ROOT / "sprl_utils").rglob("*.py")), ids=lambda p: p.stem)
def test_every_text_file_is_opened_as_utf_8(source):
    nodes = ast.walk(ast.parse(source.read_text(encoding="utf-8")))
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        mode = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        binary = name == "open" and any("b" in m for m in mode[-1:])
        text = name in ("read_text", "write_text") or isinstance(call.func, ast.Name) and name == "open"
        told = {keyword.arg for keyword in call.keywords}
        text = text or "text" in told  # of a process
        assert "encoding" in told or not text or binary, f"{source.name}:{call.lineno}"


def test_profiles_are_read_in_an_ascii_locale(tmp_path):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "profiles").mkdir()
    (tmp_path / "01_first.py").write_text(
        "# ---\n# jupyter:\n#   kernelspec:\n#     display_name: Python 3\n#     language: python\n"
        "#     name: python3\n# ---\n\n"
        '# %% tags=["parameters"]\nprofile = "smoke"  # Größe\n',
        encoding="utf-8",
    )
    (tmp_path / "profiles/smoke.yaml").write_text("# Größe\nprofile: smoke\n", encoding="utf-8")
    note = tmp_path / "note.ipynb"
    note.write_text('{"a": "Größe"}', encoding="utf-8")
    for module, *arguments in (
        ("profiles", tmp_path / "profiles/smoke.yaml", tmp_path / "01_first.py"),
        ("provenance", note, note),
    ):
        command = [sys.executable, "-m", f"sprl_utils.{module}", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=os.environ | plain, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert note.read_text(encoding="utf-8") == '{"a": "Größe"}'
