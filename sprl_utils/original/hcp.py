"""The original project's data: the Human Connectome Project's folders, and its lists of subject ids."""

import csv
import os
from collections import Counter
from pathlib import Path

from sprl_utils.manifest import Subject

TERMS = "HCP open access data use terms"
#: Where a subject's T1w volume lies in the HCP's folders; ``{0}`` is the subject's id.
VOLUME = "{0}/unprocessed/3T/T1w_MPR1/{0}_3T_T1w_MPR1.nii.gz"


def hcp_subjects(root: str | os.PathLike, ids_csv: str | os.PathLike, own_lr: bool = False) -> list[Subject]:
    """Subjects in the HCP's folder layout: ``<root>/<id>/unprocessed/3T/T1w_MPR1/<id>_3T_T1w_MPR1.nii.gz``.

    Args:
        root: folder with one folder per subject, or ``s3://bucket/folder``, of which nothing is read yet.
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
        return [hcp_on_s3(str(root), i) for i in ids]
    volumes = {i: Path(root).expanduser().resolve() / VOLUME.format(i) for i in ids}
    lrs = {i: file.with_name(f"{i}_LR.mat") for i, file in volumes.items()} if own_lr else {}
    missing = [(i, file) for files in (volumes, lrs) for i, file in files.items() if not file.is_file()]
    if missing:
        raise FileNotFoundError(
            f"subject {missing[0][0]}: expected {missing[0][1]}, found no such file "
            f"({len(missing)} of {len(volumes) + len(lrs)} files are missing)"
        )
    return [Subject(i, "local", str(volumes[i]), lr=str(lrs.get(i, "")), group=i, licence=TERMS) for i in ids]


def hcp_on_s3(root: str, subject_id: str) -> Subject:
    """A subject of the HCP's layout on S3, below ``s3://bucket/folder``."""
    address = f"{root.rstrip('/')}/{VOLUME.format(subject_id)}"
    return Subject(subject_id, "s3", address, group=subject_id, licence=TERMS)


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
