"""``sprl``: the study's pieces on files, for people who want no notebook. Also ``python -m sprl_utils``."""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from glob import glob
from pathlib import Path

import nibabel as nib
import numpy as np
from tqdm import tqdm

from sprl_utils import __version__, metrics
from sprl_utils.apply import factors_for, sharpen, to_fine_grid
from sprl_utils.files import write_beside
from sprl_utils.kspace import find_cut, truncate_kspace
from sprl_utils.manifest import SPLITS, assign_splits, find_subjects, write_manifest
from sprl_utils.networks import channels_last, load_generator
from sprl_utils.profiles import check_profile, read_profile, study_notebooks
from sprl_utils.provenance import repo_root, tune_process
from sprl_utils.stages import NOTEBOOKS, parameters_of, processes_command, run_stage
from sprl_utils.training import fabric_dtype, make_fabric
from sprl_utils.volumes import check_pair, intensity_scale, read_volume, write_volume
from sprl_utils.weights import find_weights

ENDINGS = (".nii", ".nii.gz", ".mgz", ".mgh")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 if all went well, 1 if a file failed, 2 for arguments that make no sense."""
    args = _parser().parse_args(arguments)
    tune_process()
    try:
        return args.run(args)
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"sprl {args.command}: {_one_line(error)}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sprl", description="3D brain-MRI super-resolution with mDCSRN.")
    parser.add_argument("--version", action="version", version=f"sprl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    resolve = commands.add_parser("super-resolve", help="make a scan, or a folder of scans, sharper")
    resolve.add_argument("input", help="NIfTI or MGH file, a folder of them, or a quoted glob")
    resolve.add_argument("output", type=Path, help="NIfTI file, or a folder when several files come in")
    resolve.add_argument(
        "--weights",
        metavar="FILE",
        help="generator.safetensors, or a name of sprl_utils/weights/ (default: mDCSRN_2x2 where less than "
        "two thirds of an axis of k-space are missing, else mDCSRN_4x4)",
    )
    grid = resolve.add_mutually_exclusive_group()
    grid.add_argument(
        "--upsample",
        type=float,
        nargs=3,
        metavar="N",
        help="zero-fill to N times the matrix, e.g. 1 2 2",
    )
    grid.add_argument(
        "--voxel-size", type=float, nargs=3, metavar="MM", help="zero-fill to voxels of this size, e.g. 1 1 1"
    )
    resolve.add_argument(
        "--axes", type=int, nargs="+", metavar="AXIS",
        help="array axes that were measured coarsely (default: those that are upsampled or of which "
        "k-space is cut, else 1 2)",
    )  # fmt: skip
    resolve.add_argument("--uncertainty", action="store_true", help="also write the SD over mirror images")
    resolve.add_argument("--skip-air", action="store_true", help="copy the air, with its ringing: faster")
    resolve.add_argument("--halo", type=int, help="voxels around each tile (default: all that are seen)")
    resolve.add_argument("--memory", type=float, default=4.0, help="GiB for the network's maps (default 4)")
    resolve.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    resolve.add_argument("--force", action="store_true", help="overwrite files that are there")
    resolve.set_defaults(run=_super_resolve)

    evaluate = commands.add_parser("evaluate", help="PSNR, SSIM and NRMSE of a volume against another")
    evaluate.add_argument("sr", type=Path, help="the volume to judge")
    evaluate.add_argument("hr", type=Path, help="the true one, on the same grid")
    evaluate.set_defaults(run=_evaluate)

    degrade = commands.add_parser("degrade", help="cut k-space: low resolution on the same grid")
    degrade.add_argument("hr", type=Path, help="scan to degrade")
    degrade.add_argument("lr", type=Path, help="NIfTI file to write")
    degrade.add_argument("--keep", type=float, default=0.25, help="share of the samples kept an axis (0.25)")
    degrade.add_argument(
        "--axes", type=int, nargs="+", default=[1, 2], metavar="AXIS", help="array axes to cut (1 2)"
    )
    degrade.add_argument("--force", action="store_true", help="overwrite a file that is there")
    degrade.set_defaults(run=_degrade)

    view = commands.add_parser("view", help="write a page to look around in a scan; no network needed")
    view.add_argument("scan", type=Path)
    view.add_argument("output", type=Path, nargs="?", help="HTML file (default: beside the scan)")
    view.add_argument("--force", action="store_true", help="overwrite a file that is there")
    view.set_defaults(run=_view)

    train = commands.add_parser("train", help="train on what 01_prepare_data prepared, without a notebook")
    train.add_argument(
        "--profile", required=True, help="one of notebooks/profiles/, or a YAML file of parameters"
    )
    train.add_argument("--stage", default="pretrain", choices=tuple(NOTEBOOKS), help="(default: pretrain)")
    train.add_argument("--devices", type=int, help="processes here, a GPU each (the profile's)")
    train.set_defaults(run=_train)

    manifest = commands.add_parser("manifest", help="list the scans of a folder, with splits")
    manifest.add_argument("root", help="HCP's layout (also s3://bucket/folder), BIDS, or HR/ and LR/")
    manifest.add_argument("output", type=Path, help="CSV, read by the notebooks")
    manifest.add_argument("--rule", default="seeded", choices=("seeded", "original"))
    manifest.add_argument("--seed", type=int, default=0, help="of the seeded rule (0)")
    manifest.add_argument("--force", action="store_true", help="overwrite a file that is there")
    manifest.set_defaults(run=_manifest)
    return parser


def _super_resolve(args: argparse.Namespace) -> int:
    pairs = _pairs(args.input, args.output)
    fabric = make_fabric(args.device)
    load = functools.cache(lambda path: channels_last(load_generator(path)).to(fabric.device))
    if args.weights:  # wrong ones are told once, before any scan
        load(find_weights(args.weights))
    failed = 0
    for source, target in pairs:
        try:
            _resolve_one(args, source, target, load, fabric_dtype(fabric))
        except Exception as error:  # one bad file must not keep the others from being done
            failed += 1
            print(f"sprl super-resolve: {source.name}: {_one_line(error)}", file=sys.stderr)
    if len(pairs) > 1:
        print(f"{len(pairs) - failed} of {len(pairs)} files done")
    return 1 if failed else 0


def _resolve_one(args: argparse.Namespace, source: Path, target: Path, load, dtype) -> None:
    spread_target = target.with_name(target.name.replace(".nii", "_uncertainty.nii", 1))
    for path in (target, *([spread_target] if args.uncertainty else [])):
        _refuse_overwriting(path, args.force)
    scan = read_volume(source)
    factors = args.upsample or (factors_for(scan, args.voxel_size) if args.voxel_size else None)
    measured = scan.data.shape if factors else find_cut(scan.data)
    if factors:
        scan = to_fine_grid(scan, factors)
    missing = np.divide(scan.data.shape, measured)
    weights = find_weights(args.weights, missing)
    coarse = sorted((a for a in range(3) if missing[a] > 1), key=lambda a: -missing[a])
    axes = args.axes or sorted(coarse if factors else coarse[:2]) or [1, 2]  # three asked for are refused
    known = factors or len(coarse) > 1  # a cut found on one axis alone may be half of the truth
    bar = functools.partial(tqdm, desc=source.name, leave=False, disable=not sys.stderr.isatty())
    sharper, spread = sharpen(
        scan, load(weights), axes, args.halo, args.memory, args.skip_air, dtype, args.uncertainty,
        measured if known else None, bar,
    )  # fmt: skip
    done = f"sprl {__version__} {weights.name}"
    write_volume(target, sharper, scan, f"{done}: super-resolved")
    if spread is not None:
        write_volume(spread_target, spread, scan, f"{done}: SD over 8 mirror images")
    size = " x ".join(f"{edge:.2f}" for edge in scan.voxel_size)
    cut = " x ".join(map(str, measured)) if coarse else "no cut found, a zero-filled scan expected"
    print(f"{source.name}: wrote {target} (voxels of {size} mm, k-space: {cut}, {weights.stem})")


def _view(args: argparse.Namespace) -> int:
    read_volume(args.scan)  # says what is wrong with it, which a browser does not
    target = args.output or args.scan.with_name(f"{_stem(args.scan)}.html")
    _refuse_overwriting(target, args.force)
    from sprl_utils.viewer import page  # half a second of imports that only this command needs

    write_beside(target, page(args.scan))
    print(f"{args.scan.name}: wrote {target}; open it in a browser")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    sr, hr = read_volume(args.sr), read_volume(args.hr)
    check_pair(args.sr.name, hr, sr, "SR")
    scale = np.float32(intensity_scale(hr.data))
    for name in metrics.METRICS:
        print(f"{name}: {getattr(metrics, name)(sr.data / scale, hr.data / scale):.4f}")
    return 0


def _degrade(args: argparse.Namespace) -> int:
    _refuse_overwriting(args.lr, args.force)
    if not set(args.axes) <= {0, 1, 2}:
        raise ValueError(f"axes: expected some of 0, 1, 2, found {args.axes}")
    hr = read_volume(args.hr)
    lr = truncate_kspace(hr.data, [args.keep if a in args.axes else None for a in range(3)])
    write_volume(args.lr, lr, hr, f"sprl {__version__}: kept {args.keep:g} of k-space")
    print(f"{args.hr.name}: wrote {args.lr}")
    return 0


def _train(args: argparse.Namespace) -> int:
    path, notebooks = Path(args.profile), repo_root() / "notebooks"
    if path.suffix != ".yaml":
        path = notebooks / "profiles" / f"{args.profile}.yaml"
    check_profile(path, study_notebooks(notebooks))
    parameters = parameters_of(args.stage, read_profile(path))
    processes = args.devices or parameters["devices"]
    if processes > 1 and "LOCAL_RANK" not in os.environ:
        command, environment = processes_command(
            ["train", "--profile", args.profile, "--stage", args.stage], processes
        )
        if subprocess.run(command, env=environment).returncode:
            raise ChildProcessError(
                f"expected {processes} processes to finish, found one that failed or was killed; "
                "started again, training goes on from the last checkpoint"
            )
        return 0
    history = run_stage(args.stage, parameters)
    if os.environ.get("RANK", "0") == "0":
        print(history.dropna(axis=1, how="all").tail(1).to_string(index=False))
    return 0


def _manifest(args: argparse.Namespace) -> int:
    _refuse_overwriting(args.output, args.force)
    subjects = assign_splits(find_subjects(args.root), args.rule, args.seed)
    write_manifest(subjects, args.output)
    counts = Counter(s.split for s in subjects)
    print(f"{args.output}: {len(subjects)} scans: " + ", ".join(f"{counts[s]} {s}" for s in SPLITS))
    if empty := [s for s in SPLITS[:2] + SPLITS[-1:] if not counts[s]]:
        print(f"{args.output}: nobody in {', '.join(empty)}; change the column 'split'", file=sys.stderr)
    return 0


def _pairs(given: str, output: Path) -> list[tuple[Path, Path]]:
    """Each input file and where its result goes."""
    source = Path(given)
    if source.is_dir():
        found = sorted(p for p in source.iterdir() if p.name.endswith(ENDINGS) and not p.name.startswith("."))
    elif source.exists() or not any(c in given for c in "*?["):
        target = output / f"{_stem(source)}_sr.nii.gz" if output.is_dir() else output
        if not target.name.endswith(ENDINGS[:2]):
            raise ValueError(f"{output}: expected an existing folder, or a name ending in .nii or .nii.gz")
        return [(source, target)]
    else:
        found = sorted(map(Path, glob(given)))
    found = [path for path in found if not _is_result(path)]
    if not found:
        raise FileNotFoundError(f"{given}: expected scans ending in {', '.join(ENDINGS)}, found none")
    if output.name.endswith(ENDINGS):
        raise ValueError(f"{output}: expected a folder for {len(found)} files, found the name of a file")
    targets = [output / f"{_stem(p)}_sr.nii.gz" for p in found]
    if len(set(targets)) < len(targets):
        raise ValueError(f"{given}: expected different names, found two that would be written as one")
    return list(zip(found, targets, strict=True))


def _is_result(path: Path) -> bool:
    """Whether `sprl super-resolve` wrote the file; what cannot be read is no result, and an error later."""
    try:
        told = bytes(nib.load(path).header["descrip"]).decode("ascii", "replace")
    except Exception:
        return False
    return told.startswith("sprl ") and ("super-resolved" in told or "mirror images" in told)


def _stem(path: Path) -> str:
    ending = next((e for e in sorted(ENDINGS, key=len, reverse=True) if path.name.endswith(e)), path.suffix)
    return path.name.removesuffix(ending)


def _refuse_overwriting(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise FileExistsError(f"{path}: expected no file there, found one (--force overwrites it)")


def _one_line(error: Exception) -> str:
    return " ".join((str(error).strip() or type(error).__name__).split())


if __name__ == "__main__":
    sys.exit(main())
