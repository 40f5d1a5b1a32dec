"""Profiles: the values that one run gives to the notebooks' parameters, checked before anything runs.

A notebook's parameters stand in its ``parameters`` cell, the only place where their defaults are. A profile
is a YAML file of values that replace some of them; one profile serves all notebooks. Imports no other module.

``python -m sprl_utils.profiles PROFILE.yaml [NOTEBOOK.py]`` checks a profile and prints a notebook's share.
"""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml


def study_notebooks(folder: Path) -> list[Path]:
    """The study's notebooks, sorted: ``01_prepare_data.py``, but not ``01_prepare_data-Copy1.py``."""
    return sorted(p for p in Path(folder).glob("*.py") if re.fullmatch(r"\d\d_[a-z_]+", p.stem))


def notebook_parameters(notebook: Path) -> dict[str, Any]:
    """Names and defaults of a notebook's ``parameters`` cell, as papermill reads them.

    Args:
        notebook: the py:percent source, or its ``.ipynb``.

    Raises:
        ValueError: no such cell, or a default that is no literal.
    """
    import jupytext  # a second of imports that only this needs
    import papermill

    where, parameters = f"notebook {Path(notebook).name}", {}
    for name, facts in papermill.inspect_notebook(jupytext.read(notebook)).items():
        try:
            parameters[name] = ast.literal_eval(facts["default"])
        except (ValueError, SyntaxError):
            raise ValueError(f"{where}: {name}: expected a literal, found {facts['default']}") from None
    if not parameters:
        raise ValueError(f"{where}: expected a parameters cell, found none")
    return parameters


def all_parameters(notebooks: Iterable[Path]) -> dict[str, Any]:
    """Names and defaults of all notebooks' parameters.

    Raises:
        ValueError: two notebooks disagree about a default.
    """
    parameters, owner = {}, {}
    for notebook in map(Path, notebooks):
        for name, value in notebook_parameters(notebook).items():
            first = parameters.setdefault(name, value)
            if (type(first), first) != (type(value), value):
                raise ValueError(
                    f"notebook {notebook.name}: {name}: expected {first!r} as in {owner[name]}, "
                    f"found {value!r}"
                )
            owner.setdefault(name, notebook.name)
    return parameters


def read_profile(path: Path) -> dict[str, Any]:
    """A profile's values.

    Raises:
        ValueError: no such file, not YAML, a key twice, or anything but a mapping of names to values.
    """
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
        raise ValueError(f"profile {path.stem}: expected one of {known}, found no file {path.name}")
    try:
        text = path.read_text(encoding="utf-8")
        values, node = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        found = " ".join(str(error).split())
        raise ValueError(f"profile {path.stem}: expected YAML, found {found}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ValueError(f"profile {path.stem}: expected names and values, found {type(values).__name__}")
    for key, count in Counter(key.value for key, _ in node.value).items():
        if count > 1:
            raise ValueError(f"profile {path.stem}: {key}: expected once, found {count} times")
    return values


def check_profile(profile: Path, notebooks: Iterable[Path]) -> None:
    """Check that every key is a parameter of some notebook and has its default's type.

    An int may stand for a float (but True is no number), and a default of None takes anything. A list's
    elements must have the type of one of the default's elements; an empty default takes any.

    Raises:
        ValueError: names profile, key, what was expected and what was found; also when ``profile`` is not the
            file's own name.
    """
    profile = Path(profile)
    values, defaults = read_profile(profile), all_parameters(notebooks)
    if (name := values.get("profile")) != profile.stem:
        raise ValueError(f"profile {profile.stem}: profile: expected {profile.stem!r}, found {name!r}")
    for key, value in values.items():
        where = f"profile {profile.stem}: {key}"
        if key not in defaults:
            raise ValueError(f"{where}: expected a parameter of a notebook, found none of that name")
        if not _fits(value, defaults[key]):
            raise ValueError(f"{where}: expected {_kind(defaults[key])}, found {_kind(value)}: {value!r}")


def profile_for(profile: Path, notebook: Path) -> dict[str, Any]:
    """The share of a profile that a notebook has parameters for: papermill warns about any other."""
    own = notebook_parameters(notebook)
    return {key: value for key, value in read_profile(profile).items() if key in own}


def _fits(value: Any, default: Any) -> bool:
    if isinstance(default, list) and isinstance(value, list):
        return not default or all(any(_fits(v, d) for d in default) for v in value)
    return default is None or type(value) is type(default) or (type(default) is float and type(value) is int)


def _kind(value: Any) -> str:
    """A value's type in words."""
    if isinstance(value, list):
        kinds = sorted({_kind(v) for v in value})
        return f"list of {' or '.join(kinds)}" if kinds else "list"
    return type(value).__name__


def main(profile: str, notebook: str | None = None) -> None:
    """Check ``profile`` against the notebooks above its folder; print the share of ``notebook`` as YAML."""
    path = Path(profile)
    check_profile(path, study_notebooks(path.parent.parent))
    if notebook:
        print(yaml.safe_dump(profile_for(path, Path(notebook)), sort_keys=False), end="")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
