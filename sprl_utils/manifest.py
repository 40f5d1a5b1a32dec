"""The data manifest: which heads, from where, in which split; read it, check it, split it, write it.

A manifest is a CSV with one row a subject; `data_manifest/README.md` explains each column.
"""

from __future__ import annotations

import csv
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np

from sprl_utils.files import atomic_write
from sprl_utils.scans.dicom import is_dicom
from sprl_utils.scans.formats import images_of, lacks_content, stem

SPLITS = ("train", "validation", "evaluation", "test")
KINDS = ("person", "average")
ORIGINAL_SEED = 999
HCP_TERMS = "HCP open access data use terms"
ID = r"\w[\w.-]*"
SOURCE = re.compile(
    r"local|s3|pypi:[A-Za-z0-9][\w.-]*==[\w.!+-]+|npm:(@[\w.-]+/)?[A-Za-z0-9][\w.-]*@[\w.+-]+"
)


@dataclass(frozen=True)
class Subject:
    """One row of a manifest.

    Attributes:
        id: name of the subject, also of its folder in the cache.
        source: ``pypi:NAME==VERSION``, ``npm:NAME@VERSION``, ``s3`` or ``local``.
        member: the HR file within the package, its ``s3://`` address, or its absolute path; several files are
            joined by ``;``.
        lr: absolute path of the subject's own LR (local only); empty when LR is made from HR.
        sha256: of each file of ``member``, joined by ``;``; empty when unknown, and then not checked.
        licence: as the source states it.
        group: leakage group: what shows the same person, or averages over the same people, shares one.
        split: one of `SPLITS`, or empty until `assign_splits`.
        axes: array axes to degrade.
        kind: ``person`` or ``average``.
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

    @property
    def members(self) -> list[str]:
        """Files of ``member``, in order."""
        return self.member.split(";")

    @property
    def hashes(self) -> list[str]:
        """The sha256 of each of `members`; empty strings where none is given."""
        return self.sha256.split(";") if self.sha256 else [""] * len(self.members)


COLUMNS = tuple(field.name for field in fields(Subject))
REQUIRED = COLUMNS[:3]


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
        raise ValueError(f"manifest {path}: expected a header and one row a subject, found no subject")
    _check_columns(rows[0], path)
    subjects = [_parse(row, path) for row in rows]
    for subject_id, count in Counter(s.id for s in subjects).items():
        if count > 1:
            raise ValueError(
                f"subject {subject_id}: manifest {path}: expected each id once, found it {count} times"
            )
    _check_groups(subjects, f"manifest {path}")
    return subjects


def _check_columns(row: dict, path: Path) -> None:
    found = [name for name in row if name]  # a trailing comma makes a column without a name
    if missing := [name for name in REQUIRED if name not in found]:
        raise ValueError(
            f"manifest {path}: expected the columns {','.join(REQUIRED)}, found no {','.join(missing)}"
        )
    if unknown := [name for name in found if name not in COLUMNS]:
        raise ValueError(
            f"manifest {path}: expected columns out of {','.join(COLUMNS)}, found {','.join(unknown)}"
        )


def _parse(row: dict, path: Path) -> Subject:
    """One row of the CSV as a checked `Subject`."""
    nameless = [*(row.get(None) or []), row.get("") or ""]
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    subject_id = values["id"]

    def require(ok: object, what: str, expected: str, found: object) -> None:
        if not ok:
            raise ValueError(
                f"subject {subject_id or '(no id)'}: manifest {path}: {what}: "
                f"expected {expected}, found {found!r}"
            )

    require(re.fullmatch(ID, subject_id), "id", "letters, digits, '.', '-' or '_'", subject_id)
    require(not any(nameless), "row", "no more values than columns", ",".join(filter(None, nameless)))
    require(
        SOURCE.fullmatch(values["source"]),
        "source",
        "pypi:NAME==VERSION, npm:NAME@VERSION, s3 or local",
        values["source"],
    )
    local, s3 = values["source"] == "local", values["source"] == "s3"
    members = [member.strip() for member in values["member"].split(";")]
    require(
        all(members) and len({Path(m).name for m in members}) == len(members),
        "member",
        "one file, or several of different names joined by ';'",
        values["member"],
    )
    require(
        s3 == all(member.startswith("s3://") for member in members),
        "member",
        "s3://BUCKET/KEY for the source s3, and for no other",
        values["member"],
    )
    require(
        local or not values["lr"],
        "lr",
        "none for a package (only local subjects bring their own)",
        values["lr"],
    )
    hashes = values["sha256"].lower().split(";")
    require(
        not values["sha256"]
        or (len(hashes) == len(members) and all(re.fullmatch("[0-9a-f]{64}", h) for h in hashes)),
        "sha256",
        f"{len(members)} of 64 hexadecimal digits",
        values["sha256"],
    )
    require(values["split"] in ("", *SPLITS), "split", f"one of {', '.join(SPLITS)} or none", values["split"])
    axes = values["axes"] or "1 2"
    require(
        re.fullmatch("[012]( [012]){0,2}", axes) and len(set(axes.split())) == len(axes.split()),
        "axes",
        "different ones of 0 1 2, with spaces between",
        axes,
    )
    kind = values["kind"] or "person"
    require(kind in KINDS, "kind", " or ".join(KINDS), kind)

    if local:
        members = [_absolute(member, path) for member in members]
    return Subject(
        **values
        | {
            "member": ";".join(members),
            "lr": values["lr"] and _absolute(values["lr"], path),
            "sha256": values["sha256"].lower(),
            "group": values["group"] or subject_id,
            "axes": tuple(int(axis) for axis in axes.split()),
            "kind": kind,
        }
    )


def _absolute(file: str, manifest: Path) -> str:
    """A link to a file stays one: git-annex's targets need not have the ending that tells the format."""
    return os.path.abspath(manifest.parent.resolve() / Path(file).expanduser())


def _check_groups(subjects: Iterable[Subject], where: str) -> None:
    """Refuse a leakage group that stands in two splits."""
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
    """Write a manifest that `read_manifest` reads back, beside the target and then renamed into place."""
    with atomic_write(path) as beside, beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for subject in subjects:
            writer.writerow(astuple(replace(subject, axes=" ".join(map(str, subject.axes)))))


# ---- split --------------------------------------------------------------------------------------------


def assign_splits(
    subjects: Sequence[Subject],
    rule: str = "seeded",
    seed: int = 0,
    shares: Sequence[float] = (0.7, 0.1, 0.1, 0.1),
) -> list[Subject]:
    """Give a split to the subjects that have none; the others keep theirs.

    Args:
        subjects: in any order; they come back in that order.
        rule: ``"seeded"``: groups in the order of their names are shuffled with ``seed``, and each goes whole
            to the split that lacks most of its share. A group with a member that has a split follows it.
            ``"original"``: the original project's: the list, in its own order, shuffled with numpy's legacy
            generator at seed 999, then 70/10/10/10 with the remainder in train: 780/111/111/111 of 1,113.
            Seed and shares are that project's; that the shuffle runs on the list as it stands, and that
            the parts follow each other as in `SPLITS`, is inferred. It knows no groups: tearing one is an
            error. ``seed`` and ``shares`` are not used.
        seed: of the seeded rule.
        shares: of each of `SPLITS`, summing to 1.

    Raises:
        ValueError: unknown rule, bad shares, or a leakage group in two splits.
    """
    if rule not in ("seeded", "original"):
        raise ValueError(f"split rule: expected 'seeded' or 'original', found {rule!r}")
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"split shares: expected {len(SPLITS)} that sum to 1, found {list(shares)}")
    _check_groups(subjects, "splits")
    chosen = _original_splits(subjects) if rule == "original" else _seeded_splits(subjects, seed, shares)
    done = [replace(s, split=s.split or chosen[s.id]) for s in subjects]
    _check_groups(done, f"split rule {rule}")
    return done


def move_groups(subjects: Sequence[Subject], splits: Mapping[str, str]) -> list[Subject]:
    """Put whole leakage groups into other splits: for leaving one person out after the other.

    Args:
        splits: leakage group -> its new split.

    Raises:
        ValueError: no subject of that group, or an unknown split.
    """
    for group, split in splits.items():
        if group not in {s.group for s in subjects}:
            raise ValueError(f"splits: expected the leakage group of a subject, found {group!r}")
        if split not in SPLITS:
            raise ValueError(f"splits: group {group}: expected one of {', '.join(SPLITS)}, found {split!r}")
    return [replace(s, split=splits.get(s.group, s.split)) for s in subjects]


def _original_splits(subjects: Sequence[Subject]) -> dict[str, str]:
    ids = [s.id for s in subjects if not s.split]
    np.random.RandomState(ORIGINAL_SEED).shuffle(ids)
    tenth = int(0.1 * len(ids))
    sizes = (len(ids) - 3 * tenth, tenth, tenth, tenth)
    return dict(zip(ids, np.repeat(SPLITS, sizes).tolist(), strict=True))


def _seeded_splits(subjects: Sequence[Subject], seed: int, shares: Sequence[float]) -> dict[str, str]:
    split_of = {s.group: s.split for s in subjects if s.split}
    sizes = Counter(s.group for s in subjects if s.group not in split_of)
    groups = sorted(sizes)
    np.random.default_rng(seed).shuffle(groups)
    lacking = dict(zip(SPLITS, (share * sizes.total() for share in shares), strict=True))
    for group in groups:
        split_of[group] = max(lacking, key=lacking.get)
        lacking[split_of[group]] -= sizes[group]
    return {s.id: split_of[s.group] for s in subjects}


# ---- folders of scans ---------------------------------------------------------------------------------


def find_subjects(root: str | os.PathLike, tell: Callable[[str], None] = warnings.warn) -> list[Subject]:
    """Subjects in a folder, by the layout it has; without a split.

    - ``s3://bucket/folder``: HCP's layout, with one folder per subject. Only the folders are listed.
    - The Human Connectome Project: ``<id>/unprocessed/3T/T1w_MPR1/<id>_3T_T1w_MPR1.nii.gz``.
    - BIDS: ``sub-<label>[/ses-<label>]/anat/*_T1w.nii[.gz]``; all scans of a label are one leakage group.
    - ``HR/<name>`` with the same ``LR/<name>``: pairs on one grid; or ``HR/`` alone.

    Left out are images that are no magnitude image of T1w (by their BIDS names), BIDS' folders of derivatives
    and source data, and files whose content was not fetched (git-annex, DataLad, Git LFS).

    Args:
        tell: gets one line for each file or folder that is left out, with the reason.

    Raises:
        FileNotFoundError: none of these is there, or an HR without its LR.
        ValueError: a file name that cannot be an id, or two files with one id.
    """
    if str(root).startswith("s3://"):
        return _s3_subjects(str(root).rstrip("/"))
    root = Path(root).expanduser().resolve()
    hcp = sorted(root.glob("*/unprocessed/3T/T1w_MPR1/*_3T_T1w_MPR1.nii.gz"))
    bids = [image for pattern in ("sub-*/anat", "sub-*/ses-*/anat") for image in _images(root, pattern)]
    pairs = _images(root, "HR")
    if hcp:
        found = [_local(p.parents[3].name, p) for p in _kept(hcp, tell)]
    elif bids:
        found = _bids_subjects(root, sorted(bids), tell)
    elif pairs:
        found = _paired_subjects(root, pairs, tell)
    else:
        only = "DICOM, which dcm2niix or a BIDS converter turns into NIfTI" if is_dicom(root) else "none"
        raise FileNotFoundError(
            f"{root}: expected HCP's layout, BIDS (sub-*/anat/*_T1w.nii.gz) or HR/*.nii.gz, found {only}"
        )
    if not found:
        raise FileNotFoundError(f"{root}: expected T1w scans with their content, found none")
    for subject_id, count in Counter(s.id for s in found).items():
        if count > 1:
            raise ValueError(f"{root}: expected one file for subject {subject_id}, found {count}")
    return found


def _bids_subjects(root: Path, images: Sequence[Path], tell: Callable[[str], None]) -> list[Subject]:
    for folder in filter(Path.is_dir, (root / "derivatives", root / "sourcedata")):
        tell(f"{folder}: left out: no raw data of BIDS")
    scans = _kept(images, tell, _no_t1w)
    return [_local(stem(p)[: -len("_T1w")], p, p.relative_to(root).parts[0]) for p in scans]


def _paired_subjects(root: Path, images: Sequence[Path], tell: Callable[[str], None]) -> list[Subject]:
    scans = _kept(images, tell)
    if not (root / "LR").is_dir():
        return [_local(stem(hr), hr) for hr in scans]
    pairs = {root / "LR" / hr.name: hr for hr in scans}
    for lr in (lr for lr in pairs if not os.path.lexists(lr)):
        raise FileNotFoundError(f"subject {stem(lr)}: expected its LR at {lr}, found no such file")
    return [replace(_local(stem(lr), pairs[lr]), lr=str(lr)) for lr in _kept(pairs, tell)]


def _images(root: Path, pattern: str) -> list[Path]:
    return [image for folder in sorted(root.glob(pattern)) if folder.is_dir() for image in images_of(folder)]


def _kept(
    files: Iterable[Path],
    tell: Callable[[str], None],
    why_not: Callable[[Path], str] = lambda _: "",
) -> list[Path]:
    """The files with content for which ``why_not`` gives no reason; each other gets a line."""
    kept = []
    for file in files:
        if reason := why_not(file) or lacks_content(file):
            tell(f"{file}: left out: {reason}")
        else:
            kept.append(file)
    return kept


def _no_t1w(file: Path) -> str:
    """Why a file of BIDS is no magnitude image of T1w, by its name; empty where it is one."""
    *entities, suffix = stem(file).lower().split("_")
    if suffix != "t1w":
        return "no T1w image"
    part = next((e for e in entities if e in ("part-phase", "part-real", "part-imag")), "")
    return f"no magnitude image ({part})" if part else ""


def _s3_subjects(root: str) -> list[Subject]:
    import fsspec  # with s3fs: no one else needs them

    try:
        folders = fsspec.filesystem("s3").ls(root, detail=False)
    except Exception as error:  # botocore has its own for each: no credentials, no bucket, no network, ...
        raise FileNotFoundError(
            f"{root}: expected a folder that your credentials open, found {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    names = (folder.rstrip("/").rsplit("/", 1)[-1] for folder in folders)
    if not (ids := sorted(name for name in names if name.isdigit())):
        raise FileNotFoundError(f"{root}: expected HCP's layout, one folder a subject, found none")
    return [_hcp_on_s3(root, i) for i in ids]


def _hcp_on_s3(root: str, subject_id: str) -> Subject:
    address = f"{root.rstrip('/')}/{subject_id}/unprocessed/3T/T1w_MPR1/{subject_id}_3T_T1w_MPR1.nii.gz"
    return Subject(subject_id, "s3", address, group=subject_id, licence=HCP_TERMS)


def _local(subject_id: str, file: Path, group: str = "") -> Subject:
    if not re.fullmatch(ID, subject_id):
        raise ValueError(
            f"subject {subject_id}: {file}: expected a name of letters, digits, '.', '-' or '_', "
            f"found {subject_id!r}"
        )
    return Subject(subject_id, "local", str(file), group=group or subject_id)


# ---- the Human Connectome Project ---------------------------------------------------------------------


def hcp_subjects(root: str | os.PathLike, ids_csv: str | os.PathLike, own_lr: bool = False) -> list[Subject]:
    """Subjects in the HCP's folder layout: ``<root>/<id>/unprocessed/3T/T1w_MPR1/<id>_3T_T1w_MPR1.nii.gz``.

    Args:
        root: folder with one folder a subject, or ``s3://bucket/folder``, of which nothing is read yet.
        ids_csv: its first column lists the subject ids; header, blank lines and further columns are fine.
        own_lr: use ``<id>_LR.mat`` beside the volume, as the original project made it, instead of making LR.

    Raises:
        FileNotFoundError: no such list, or volumes missing: names the first and how many.
        ValueError: the list holds no id, one twice, or something that is no id; own LR on S3.
    """
    ids = _read_ids(Path(ids_csv))
    if str(root).startswith("s3://"):
        if own_lr:
            raise ValueError(f"{root}: expected a local folder for own LR, found one on S3")
        return [_hcp_on_s3(str(root), i) for i in ids]
    folders = {i: Path(root).expanduser().resolve() / i / "unprocessed" / "3T" / "T1w_MPR1" for i in ids}
    volumes = {i: folder / f"{i}_3T_T1w_MPR1.nii.gz" for i, folder in folders.items()}
    lrs = {i: folder / f"{i}_LR.mat" for i, folder in folders.items()} if own_lr else {}
    missing = [(i, file) for files in (volumes, lrs) for i, file in files.items() if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"subject {missing[0][0]}: expected {missing[0][1]}, found no such file "
            f"({len(missing)} of {len(volumes) + len(lrs)} files are missing)"
        )
    return [
        Subject(
            i,
            "local",
            str(volumes[i]),
            lr=str(lrs.get(i, "")),
            group=i,
            licence=HCP_TERMS,
        )
        for i in ids
    ]


def _read_ids(path: Path) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"subject list {path}: expected a CSV file, found none")
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        ids = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
    if ids and not ids[0].isdigit():
        ids = ids[1:]  # the header row
    if not ids:
        raise ValueError(f"subject list {path}: expected subject ids in the first column, found none")
    for subject_id, count in Counter(ids).items():
        if not subject_id.isdigit():
            raise ValueError(
                f"subject {subject_id}: list {path}: expected an id of digits, found {subject_id!r}"
            )
        if count > 1:
            raise ValueError(
                f"subject {subject_id}: list {path}: expected each id once, found it {count} times"
            )
    return ids
