"""The data manifest: which heads, from where, in which split; read it, check it, split it, write it.

A manifest is a CSV with one row per subject; `data_manifest/README.md` explains each column.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from sprl_utils.files import atomic_write

SPLITS = ("train", "validation", "evaluation", "test")
KINDS = ("person", "average")
ID = r"\w[\w.-]*"
SOURCE = re.compile(
    r"local|s3|s3-unsigned|https|pypi:[A-Za-z0-9][\w.-]*==[\w.!+-]+|npm:(@[\w.-]+/)?[A-Za-z0-9][\w.-]*@[\w.+-]+"
)


@dataclass(frozen=True)
class Subject:
    """One row of a manifest.

    Attributes:
        id: name of the subject, also of its folder in the cache.
        source: ``pypi:NAME==VERSION``, ``npm:NAME@VERSION``, ``https``, ``s3`` (with the user's credentials),
            ``s3-unsigned`` (a public bucket, without any) or ``local``.
        member: the HR file within the package, its ``https://`` or ``s3://`` address, or its absolute path;
            several files are joined by ``;``.
        lr: absolute path of the subject's own LR (local only); empty when LR is made from HR.
        sha256: of each file of ``member``, joined by ``;``; empty when unknown, and then not checked.
        licence: as the source states it.
        group: leakage group: what shows the same person, or averages over the same people, shares one.
        split: one of `SPLITS`, or empty until `assign_splits`.
        axes: array axes to degrade.
        kind: ``person`` or ``average``.
        draw: how often training draws a patch from it, relative to the others.
    """

    id: str
    source: str
    member: str
    lr: str = ""
    sha256: str = ""
    licence: str = ""
    group: str = ""
    split: str = ""
    axes: tuple[int, ...] = (1, 2)
    kind: str = "person"
    draw: float = 1.0

    @property
    def members(self) -> list[str]:
        """Files of ``member``, in order."""
        return self.member.split(";")

    @property
    def hashes(self) -> list[str]:
        """The sha256 of each of `members`; empty strings where none is given."""
        return self.sha256.split(";") if self.sha256 else [""] * len(self.members)


def file_name(member: str) -> str:
    """Name of a member's file in the cache; of an address without its query."""
    return Path(member.partition("?")[0]).name


COLUMNS = tuple(field.name for field in fields(Subject))
REQUIRED = COLUMNS[:3]
#: The split of each id, of the subjects, a seed and the shares of `SPLITS`.
Rule = Callable[[Sequence[Subject], int, Sequence[float]], dict[str, str]]


# ---- read, check, write -------------------------------------------------------------------------------


def read_manifest(path: str | os.PathLike) -> list[Subject]:
    """Read and check a manifest. Paths of local files come back absolute, taken from the CSV's own folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: anything else that is wrong with it: one line naming subject, file, expected and found.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"manifest {path}: expected a CSV file, found none")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"manifest {path}: expected a CSV file, found one that cannot be read ({error})"
        ) from error
    if not rows:
        raise ValueError(f"manifest {path}: expected a header and one row per subject, found no subject")
    names = [name for name in rows[0] if name]  # a trailing comma makes a column without a name
    if missing := [name for name in REQUIRED if name not in names]:
        raise ValueError(
            f"manifest {path}: expected the columns {','.join(REQUIRED)}, found no {','.join(missing)}"
        )
    if unknown := [name for name in names if name not in COLUMNS]:
        raise ValueError(
            f"manifest {path}: expected columns out of {','.join(COLUMNS)}, found {','.join(unknown)}"
        )
    subjects = [_parse(row, path) for row in rows]
    for subject_id, count in Counter(s.id for s in subjects).items():
        if count > 1:
            raise ValueError(
                f"subject {subject_id}: manifest {path}: expected each id once, found it {count} times"
            )
    _check_groups(subjects, f"manifest {path}")
    return subjects


def _parse(row: dict, path: Path) -> Subject:
    """One row of the CSV as a checked `Subject`."""
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    values["sha256"] = values["sha256"].lower()
    defaults = {"axes": "1 2", "kind": "person", "draw": "1"}
    values |= {name: values[name] or default for name, default in defaults.items()}
    members = [member.strip() for member in values["member"].split(";")]
    nameless = ",".join(filter(None, [*(row.get(None) or []), row.get("") or ""]))
    for column, ok, expected in _checks(values, members, nameless):
        if not ok:
            raise ValueError(
                f"subject {values['id'] or '(no id)'}: manifest {path}: {column}: "
                f"expected {expected}, found {values.get(column, nameless)!r}"
            )
    if values["source"] == "local":
        members = [_absolute(member, path) for member in members]
    values["member"] = ";".join(members)
    values["lr"] = values["lr"] and _absolute(values["lr"], path)
    values["group"] = values["group"] or values["id"]
    axes = tuple(map(int, values["axes"].split()))
    return Subject(**values | {"axes": axes, "draw": float(values["draw"])})


def _checks(values: dict[str, str], members: list[str], nameless: str) -> Iterable[tuple[str, object, str]]:
    """Column, whether it holds what is expected, and that in words."""
    source, count = values["source"], len(members)
    scheme = source.removesuffix("-unsigned")
    is_address, has_address = scheme in ("https", "s3"), [m.startswith(f"{scheme}://") for m in members]
    hashes, axes = values["sha256"].split(";"), values["axes"].split()
    yield "id", re.fullmatch(ID, values["id"]), "letters, digits, '.', '-' or '_'"
    yield "row", not nameless, "no more values than columns"
    known = "pypi:NAME==VERSION, npm:NAME@VERSION, https, s3, s3-unsigned or local"
    yield "source", SOURCE.fullmatch(source), known
    differ = all(members) and len(set(map(file_name, members))) == count
    yield "member", differ, "one file, or several of different names joined by ';'"
    only = all(has_address) if is_address else not any("://" in member for member in members)
    yield "member", only, "https:// or s3:// as the source says, and for no other source"
    is_local = source == "local" or not values["lr"]
    yield "lr", is_local, "none for a package (only local subjects bring their own)"
    are_hashes = len(hashes) == count and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)
    yield "sha256", not values["sha256"] or are_hashes, f"{count} of 64 hexadecimal digits"
    yield "split", values["split"] in ("", *SPLITS), f"one of {', '.join(SPLITS)} or none"
    different = set(axes) <= set("012") and len(set(axes)) == len(axes)
    yield "axes", different, "different ones of 0 1 2, with spaces between"
    yield "kind", values["kind"] in KINDS, " or ".join(KINDS)
    is_number = re.fullmatch(r"\d+(\.\d+)?", values["draw"])
    yield "draw", is_number and float(values["draw"]) > 0, "a number above 0"


def _absolute(file: str, manifest: Path) -> str:
    """A link to a file stays one: git-annex's targets need not have the ending that tells the format."""
    return os.path.abspath(manifest.parent.resolve() / Path(file).expanduser())


def _check_groups(subjects: Iterable[Subject], where: str) -> None:
    """Refuse a leakage group that is in two splits."""
    first: dict[str, Subject] = {}
    for subject in subjects:
        if subject.split:
            other = first.setdefault(subject.group, subject)
            if other.split != subject.split:
                raise ValueError(
                    f"subject {subject.id}: {where}: expected leakage group {subject.group} "
                    f"in one split, found {other.id} in {other.split} "
                    f"and {subject.id} in {subject.split}"
                )


def write_manifest(subjects: Iterable[Subject], path: str | os.PathLike) -> None:
    """Write a manifest that `read_manifest` reads back; an atomic write."""
    with atomic_write(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for subject in subjects:
            writer.writerow(astuple(replace(subject, axes=" ".join(map(str, subject.axes)))))


# ---- split --------------------------------------------------------------------------------------------


def seeded_splits(subjects: Sequence[Subject], seed: int, shares: Sequence[float]) -> dict[str, str]:
    """Groups in the order of their names are shuffled with ``seed``; each goes whole to one split.

    That is the split that lacks most of its share. A group with a member that has a split follows it.

    Returns:
        The split of each id.
    """
    split_of = {s.group: s.split for s in subjects if s.split}
    sizes = Counter(s.group for s in subjects if s.group not in split_of)
    groups = sorted(sizes)
    np.random.default_rng(seed).shuffle(groups)
    lacking = dict(zip(SPLITS, (share * sizes.total() for share in shares), strict=True))
    for group in groups:
        split_of[group] = max(lacking, key=lacking.get)
        lacking[split_of[group]] -= sizes[group]
    return {s.id: split_of[s.group] for s in subjects}


def assign_splits(
    subjects: Sequence[Subject],
    rule: Rule = seeded_splits,
    seed: int = 0,
    shares: Sequence[float] = (0.7, 0.1, 0.1, 0.1),
) -> list[Subject]:
    """Give a split to the subjects that have none; the others keep theirs.

    Args:
        subjects: in any order; they come back in that order.
        rule: `seeded_splits`, or another, such as `sprl_utils.original.split.original_splits`.
        seed: of the rule.
        shares: of each of `SPLITS`, summing to 1.

    Raises:
        ValueError: bad shares, or a leakage group in two splits.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"split shares: expected {len(SPLITS)} that sum to 1, found {list(shares)}")
    _check_groups(subjects, "splits")
    chosen = rule(subjects, seed, shares)
    done = [replace(s, split=s.split or chosen[s.id]) for s in subjects]
    _check_groups(done, f"split rule {rule.__name__}")
    return done
