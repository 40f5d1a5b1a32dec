"""Subjects of a manifest from a folder of scans: BIDS, the Human Connectome Project, pairs of HR and LR."""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sprl_utils.manifest import ID, Subject
from sprl_utils.original.hcp import VOLUME, hcp_on_s3
from sprl_utils.scans import bids
from sprl_utils.scans.dicom import is_dicom
from sprl_utils.scans.formats import ITK, ending, images_of, stem
from sprl_utils.volumes import lacks_content

#: Gets one line for each file or folder that is left out, with the reason.
Tell = Callable[[str], object]
#: Where BIDS keeps anatomical images.
ANATOMICAL = ("sub-*/anat", "sub-*/ses-*/anat")


def find_subjects(
    root: str | os.PathLike, tell: Tell = warnings.warn, unsigned: bool = False
) -> list[Subject]:
    """Subjects in a folder, by the layout it has; without a split.

    - ``s3://bucket/folder``: HCP's layout, of which only the folders are listed, or BIDS, of which the first
      T1w image per subject is taken.
    - The Human Connectome Project: ``<id>/unprocessed/3T/T1w_MPR1/<id>_3T_T1w_MPR1.nii.gz``.
    - BIDS: ``sub-<label>[/ses-<label>]/anat/*_T1w.nii[.gz]``; all scans of a label are one leakage group.
    - ``HR/<name>`` with the same ``LR/<name>``: pairs on one grid; or ``HR/`` alone.

    Left out are images that are no magnitude image of T1w (by their BIDS names), BIDS' folders of derivatives
    and source data, formats that the notebooks do not read, and files whose content was not fetched
    (git-annex, DataLad, Git LFS).

    Args:
        tell: gets a line per file that is left out.
        unsigned: read S3 without credentials, as public buckets allow.

    Raises:
        FileNotFoundError: none of these is there, or an HR without its LR.
        ValueError: a file name that cannot be an id, or two files with one id.
    """
    if str(root).startswith("s3://"):
        return _s3_subjects(str(root).rstrip("/"), unsigned)
    root = Path(root).expanduser().resolve()
    hcp = sorted(root.glob(VOLUME.format("*")))
    anatomical = [image for pattern in ANATOMICAL for image in _images(root, pattern)]
    pairs = _images(root, "HR")
    if hcp:
        found = [_local(p.parents[3].name, p) for p in _kept(hcp, tell)]
    elif anatomical:
        found = _bids_subjects(root, sorted(anatomical), tell)
    elif pairs:
        found = _paired_subjects(root, pairs, tell)
    else:
        only = "DICOM, which dcm2niix or a BIDS converter turns into NIfTI" if is_dicom(root) else "none"
        raise FileNotFoundError(
            f"{root}: expected HCP's layout, BIDS (sub-*/anat/*_T1w.nii.gz) or HR/*.nii.gz, found {only}"
        )
    if not found:
        raise FileNotFoundError(
            f"{root}: expected T1w scans with their content, found none; fetch it, e.g. with `datalad get`"
        )
    for subject_id, count in Counter(s.id for s in found).items():
        if count > 1:
            raise ValueError(f"{root}: expected one file for subject {subject_id}, found {count}")
    return found


def _bids_subjects(root: Path, images: Sequence[Path], tell: Tell) -> list[Subject]:
    for folder in filter(Path.is_dir, (root / "derivatives", root / "sourcedata")):
        tell(f"{folder}: left out: no raw data of BIDS")
    scans = _kept(images, tell, bids.why_not)
    return [_local(stem(p)[: -len("_T1w")], p, p.relative_to(root).parts[0]) for p in scans]


def _paired_subjects(root: Path, images: Sequence[Path], tell: Tell) -> list[Subject]:
    scans = _kept(images, tell)
    if not (root / "LR").is_dir():
        return [_local(stem(hr), hr) for hr in scans]
    pairs = {root / "LR" / hr.name: hr for hr in scans}
    for lr in (lr for lr in pairs if not os.path.lexists(lr)):
        raise FileNotFoundError(f"subject {stem(lr)}: expected its LR at {lr}, found no such file")
    return [replace(_local(stem(lr), pairs[lr]), lr=str(lr)) for lr in _kept(pairs, tell)]


def _images(root: Path, pattern: str) -> list[Path]:
    return [image for folder in sorted(root.glob(pattern)) if folder.is_dir() for image in images_of(folder)]


def _kept(files: Iterable[Path], tell: Tell, why_not: Callable[[str], str] = lambda _: "") -> list[Path]:
    """The files with content for whose name ``why_not`` gives no reason; each other gets a line."""
    unread = "a format that the notebooks do not read; convert it to NIfTI"
    kept = []
    for file in files:
        is_itk = ending(file).lower() in ITK
        if reason := why_not(stem(file)) or (is_itk and unread) or lacks_content(file):
            tell(f"{file}: left out: {reason}")
        else:
            kept.append(file)
    return kept


def _s3_subjects(root: str, unsigned: bool) -> list[Subject]:
    import fsspec  # with s3fs: no one else needs them

    try:
        s3 = fsspec.filesystem("s3", anon=unsigned)
        names = [folder.rstrip("/").rsplit("/", 1)[-1] for folder in s3.ls(root, detail=False)]
        patterns = ANATOMICAL if any(n.startswith("sub-") for n in names) else ()
        images = sorted(f"s3://{key}" for p in patterns for key in s3.glob(f"{root}/{p}/*_T1w.nii.gz"))
    except Exception as error:  # botocore has its own for each: no credentials, no bucket, no network
        raise FileNotFoundError(
            f"{root}: expected a folder that may be listed, found {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    source = "s3-unsigned" if unsigned else "s3"
    first: dict[str, str] = {}
    for image in (i for i in images if not bids.why_not(stem(i))):
        first.setdefault(image.removeprefix(f"{root}/").split("/")[0], image)
    found = [Subject(Path(i).name[: -len("_T1w.nii.gz")], source, i, group=g) for g, i in first.items()]
    found += [replace(hcp_on_s3(root, i), source=source) for i in sorted(filter(str.isdigit, names))]
    if not found:
        raise FileNotFoundError(f"{root}: expected HCP's layout or BIDS, found no subject of either")
    return found


def _local(subject_id: str, file: Path, group: str = "") -> Subject:
    if not re.fullmatch(ID, subject_id):
        raise ValueError(
            f"subject {subject_id}: {file}: expected a name of letters, digits, '.', '-' or '_', "
            f"found {subject_id!r}; rename it"
        )
    return Subject(subject_id, "local", str(file), group=group or subject_id)
