"""Measure the house: lines of each room as `wc -l` counts them, and the longest function.

Run it with `python tests/measure_house.py`. Tests and notebooks are not counted.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sprl_utils"


def lines(files: list[Path]) -> int:
    return sum(file.read_bytes().count(b"\n") for file in files)


def functions(file: Path) -> list[tuple[int, str]]:
    """Length and place of each function, decorators and docstring included."""
    found = [
        n for n in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)
    ]
    starts = [min([f.lineno, *(d.lineno for d in f.decorator_list)]) for f in found]
    name = file.relative_to(PACKAGE.parent)
    return [(f.end_lineno - a + 1, f"{f.name} in {name}") for f, a in zip(found, starts, strict=True)]


core = list(PACKAGE.glob("*.py"))
package = list(PACKAGE.rglob("*.py"))
length, place = max(max(functions(file), default=(0, "")) for file in package)
print(f"core: {lines(core):,} lines in {len(core)} files")
for room in sorted({file.parent for file in package} - {PACKAGE}):
    print(f"{room.name}: {lines(list(room.glob('*.py'))):,} lines")
print(f"package: {lines(package):,} lines")
print(f"longest function: {length} lines, {place}")
