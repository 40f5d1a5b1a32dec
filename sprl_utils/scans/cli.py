"""``sprl``: the study's pieces on files, for people who want no notebook. Also ``python -m sprl_utils``."""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from sprl_utils import __version__, metrics
from sprl_utils.extras.weights import find_weights, read_card
from sprl_utils.files import sha256, write_beside
from sprl_utils.inference import OVERHEAD_GIB
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import SPLITS, assign_splits, find_subjects, write_manifest
from sprl_utils.networks import channels_last, cpu_multiplies_bf16, load_generator
from sprl_utils.profiles import check_profile, read_profile, study_notebooks
from sprl_utils.provenance import repo_root, tune_process, write_json
from sprl_utils.scans import batch, bids
from sprl_utils.scans.apply import LARGEST_FACTOR, make_plan, sharpen
from sprl_utils.scans.formats import check_target, stem
from sprl_utils.scans.progress import elapsed, progress
from sprl_utils.scans.unfamiliar import origin, unfamiliar
from sprl_utils.volumes import check_pair, intensity_scale, read_volume, write_volume

#: Options that take several numbers.
LISTS = ("--voxel-size", "--upsample", "--measured", "--axes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if all went well, 1 if a file failed, 130 if it was interrupted.

    Raises:
        SystemExit: with 2, for arguments that make no sense.
    """
    args = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    tune_process(getattr(args, "threads", None))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's and torch's own are for programmers
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_: _say(args, f"warning: {_one_line(message)}")
            return args.run(args)
    except KeyboardInterrupt:
        _say(args, "interrupted")
        return 130
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        _say(args, _one_line(error))
        return 1


def _say(args: argparse.Namespace, text: str) -> None:
    print(f"sprl {args.command}: {text}", file=sys.stderr)


def _one_line(error: object) -> str:
    text = " ".join((str(error).strip() or type(error).__name__).split())
    return re.sub(r"^subject (.+?): (?=\S*\1)", "", text)  # a file's name instead of an id, and then its path


def _about(path: Path, error: Exception) -> str:
    """One line that names the file, once."""
    before, named, after = _one_line(error).partition(str(path))
    if named:  # libraries repeat it in their reasons
        return before + named + after.replace(f" {path}", "")
    return before if path.name in before else f"{path.name}: {before}"


# ---- arguments ----------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sprl", description="3D brain-MRI super-resolution with mDCSRN.")
    parser.add_argument("--version", action="version", version=f"sprl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    force = _Parser(add_help=False)
    force.add_argument("--force", action="store_true", help="overwrite a file that is there")

    def add(
        name: str, run: Callable, about: str, *parents: _Parser, more: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about, description=more, parents=parents)
        command.set_defaults(run=run)
        return command

    resolve = add(
        "super-resolve", _super_resolve, "make scans sharper that were measured coarsely",
        more="Makes scans sharper that were measured coarsely: zero-filled ones, whose k-space says so, and "
        "those that --voxel-size or --upsample brings to a finer grid. What was measured stays.",
    )  # fmt: skip
    _add_files(resolve)
    _add_grid(resolve)
    _add_computation(resolve)
    evaluate = add("evaluate", _evaluate, "PSNR, SSIM and NRMSE of a volume against another")
    evaluate.add_argument("sr", type=Path, help="the volume to judge")
    evaluate.add_argument("hr", type=Path, help="the true one, on the same grid")
    _add_degrade(add("degrade", _degrade, "cut k-space: low resolution on the same grid", force))
    view = add(
        "view",
        _view,
        "write a page to look around in a scan, or in two side by side; no network needed",
        force,
    )
    view.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="one scan, or one before and one after; then the HTML file to write (default: beside the first)",
    )  # fmt: skip
    _add_train(add("train", _train, "train on what 01_prepare_data prepared, without a notebook"))
    _add_manifest(add("manifest", _manifest, "list the scans of a folder, with splits", force))
    return parser


def _add_files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", nargs="+",
        help="a scan, several, a folder of them, a quoted glob, or a BIDS data set or subject, of which "
        "the T1w images are taken",
    )  # fmt: skip
    parser.add_argument(
        "output",
        help="a NIfTI or MGH file, or a folder, which is made if it is missing. Results of a BIDS data set go "
        "to derivatives/sprl in it, with a JSON sidecar each.",
    )
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrite files that are there")
    existing.add_argument(
        "--skip-existing", action="store_true",
        help="leave out scans whose results are there already: resumes a batch",
    )  # fmt: skip
    parser.add_argument(
        "--uncertainty", action="store_true",
        help="also write the SD over eight mirror images; 8 times as slow",
    )  # fmt: skip
    parser.add_argument("--sidecar", action="store_true", help="also write how a result was made, as JSON")
    parser.add_argument("--quiet", action="store_true", help="print warnings and errors alone")


def _add_grid(parser: argparse.ArgumentParser) -> None:
    grid = parser.add_mutually_exclusive_group()
    grid.add_argument(
        "--voxel-size", metavar="MM", type=_numbers("one edge or three of 0.01 to 100 mm", 0.01, 100, (1, 3)),
        help="bring the scan to voxels of this size: one number, or one per array axis, e.g. 1 1 1",
    )  # fmt: skip
    grid.add_argument(
        "--upsample", metavar="N",
        type=_numbers(f"one factor or three from 1 to {LARGEST_FACTOR:g}", 1, LARGEST_FACTOR, (1, 3)),
        help="bring the scan to N times its matrix: one number, or one per array axis, e.g. 1 2 2",
    )  # fmt: skip
    parser.add_argument(
        "--measured", metavar="N", type=_numbers("three numbers of samples from 1", 1, 100_000, (3,), int),
        help="samples of k-space that the scanner acquired, per array axis, e.g. 256 128 176; the default is "
        "found where k-space was filled with zeros",
    )  # fmt: skip


def _add_computation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", metavar="FILE",
        help="generator.safetensors of a run, or a name of sprl_utils/extras/weights/. The default fits the "
        "scan: mDCSRN_2x2 where less than two thirds of an axis of k-space are missing, else mDCSRN_4x4.",
    )  # fmt: skip
    parser.add_argument("--skip-air", action="store_true", help="copy the air, with its ringing: faster")
    parser.add_argument(
        "--halo", type=_number("a whole number of voxels from 0 to 1000", 0, 1000, int),
        help="voxels around each tile; the default is all that the network sees",
    )  # fmt: skip
    parser.add_argument(
        "--memory", metavar="GIB", default=4.0,
        type=_number(f"more than {OVERHEAD_GIB} GiB", math.nextafter(OVERHEAD_GIB, 1), 1e6),
        help="bound on the memory for the network's maps, in GiB (4)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", metavar="N", type=_number("a number of threads from 1", 1, 4096, int),
        help="threads of the CPU that the network computes with; the default is one per core",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(auto)")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of the network's dense units; auto takes bfloat16 where the hardware has instructions for it",
    )  # fmt: skip


def _add_degrade(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hr", type=Path, help="scan to degrade")
    parser.add_argument("lr", type=Path, help="NIfTI or MGH file to write")
    parser.add_argument(
        "--keep", default=0.25, metavar="SHARE",
        type=_number("a share above 0 and below 1", 1e-6, 1 - 1e-6),
        help="share of the samples of k-space that are kept on each axis that is cut (0.25)",
    )  # fmt: skip
    parser.add_argument("--axes", type=_axes, default=[1, 2], metavar="AXIS", help="array axes to cut (1 2)")


def _add_train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", required=True, help="one of notebooks/profiles/, or a YAML file of parameters"
    )
    parser.add_argument("--stage", default="pretrain", choices=("pretrain", "gan"), help="(pretrain)")
    parser.add_argument("--devices", type=int, help="processes here, a GPU each (the profile's)")


def _add_manifest(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", help="HCP's layout (also s3://bucket/folder), BIDS, or HR/ and LR/")
    parser.add_argument("output", type=Path, help="CSV, read by the notebooks")
    parser.add_argument("--rule", default="seeded", choices=("seeded", "original"))
    parser.add_argument("--seed", type=int, default=0, help="of the seeded rule (0)")


def _joined(arguments: Sequence[str]) -> list[str]:
    """Numbers that follow an option of `LISTS`, made one word with it.

    argparse knows no "one or three": it takes the scan that follows for a number, and -inf for an option.
    """
    joined: list[str] = []
    for word in arguments:
        option = joined[-1].split("=")[0] if joined else ""
        if len(option) > 2 and any(name.startswith(option) for name in LISTS) and _is_number(word):
            joined[-1] += ("," if "=" in joined[-1] else "=") + word
        else:
            joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _numbers(
    expected: str, low: float, high: float, counts: Sequence[int], kind: type = float
) -> Callable[[str], list]:
    """An argument's type: numbers from ``low`` to ``high``, joined by commas; one is meant for all axes."""

    def parse(text: str) -> list:
        words = text.split(",")
        try:
            values = [kind(word) for word in words]
        except ValueError:
            values = []
        in_range = all(low <= value <= high for value in values)  # NaN is in no range
        if len(values) not in counts or not in_range:
            raise argparse.ArgumentTypeError(f"expected {expected}, found {' '.join(words)}")
        return values * (max(counts) // len(values))

    return parse


def _number(expected: str, low: float, high: float, kind: type = float) -> Callable[[str], float]:
    return lambda text: _numbers(expected, low, high, (1,), kind)(text)[0]


def _axes(text: str) -> list[int]:
    axes = text.split(",")
    if not set(axes) <= set("012") or len(set(axes)) != len(axes):
        found = " ".join(axes)
        raise argparse.ArgumentTypeError(f"expected different array axes of 0, 1, 2, found {found}")
    return [int(axis) for axis in axes]


# ---- commands -----------------------------------------------------------------------------------------


def _super_resolve(args: argparse.Namespace) -> int:
    start = time.monotonic()
    inputs = batch.find(args.input)
    for line in inputs.left_out_lines:
        _say(args, line)
    planned = batch.place(inputs, args.output, args.uncertainty, args.sidecar)
    jobs = batch.check(planned, args.force, args.skip_existing)
    device, dtype = _hardware(args.device, args.precision)
    load = functools.cache(lambda path: channels_last(load_generator(path)).to(device))
    if args.weights:  # a wrong name is one error, not one per scan
        load(find_weights(args.weights))
    if inputs.several:
        Path(args.output).mkdir(parents=True, exist_ok=True)
    if inputs.root and jobs:
        bids.describe_dataset(bids.derivatives(Path(args.output)), inputs.root)
    failed = 0
    for job in jobs:
        try:
            _resolve_one(args, job, load, dtype)
        except Exception as error:  # one bad file must not keep the others from being done
            failed += 1
            _say(args, _about(job.source, error))
    if inputs.several and not args.quiet:
        done, there = len(jobs) - failed, len(planned) - len(jobs)
        already = f", {there} more had been done before" if there else ""
        print(f"{done} of {len(jobs)} files done{already} ({elapsed(start)})")
    elif not jobs and not args.quiet:
        print(f"{planned[0].result}: is there already, nothing to do")
    return 1 if failed else 0


def _hardware(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Where the network runs and in what its dense units compute."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("--device: expected a GPU that CUDA can use, found none")
    chosen = torch.device("cuda" if device != "cpu" and has_gpu else "cpu")
    if precision == "auto":
        precision = "bf16" if chosen.type == "cuda" or cpu_multiplies_bf16() else "fp32"
    return chosen, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _resolve_one(args: argparse.Namespace, job: batch.Job, load: Callable, dtype: torch.dtype) -> None:
    start, name = time.monotonic(), job.source.name
    scan = read_volume(job.source)
    check_target(job.result, scan.header)
    plan = make_plan(scan, args.voxel_size, args.upsample, args.measured)
    weights, card = find_weights(args.weights or plan.weights), read_card()
    digest = sha256(weights)
    entry = next((e for e in card.values() if e["sha256"] == digest), None)
    doubts = unfamiliar(scan, job.source, plan.shape, entry, card) + (plan.warnings if entry else [])
    for doubt in doubts:
        _say(args, f"{name}: warning: {doubt}")
    sharper, spread = sharpen(
        scan, plan, load(weights), halo=args.halo, memory_gib=args.memory, skip_air=args.skip_air,
        dtype=dtype, uncertainty=args.uncertainty, progress=progress(name, args.quiet),
    )  # fmt: skip
    results = [(job.result, sharper, "super-resolved")]
    if job.spread:  # the result last: where it is, the others are
        results.insert(0, (job.spread, spread, "SD over 8 mirror images"))
    for path, image, what in results:
        if job.source_name:
            precision = str(dtype).removeprefix("torch.")
            facts = bids.sidecar(what, job.source_name, weights, plan, precision, doubts)
            write_json(batch.sidecar_of(path), facts)
        write_volume(path, image.data, image, f"sprl {__version__} {weights.name}: {what}")
    if not args.quiet:
        size = " x ".join(f"{edge:.2f}" for edge in sharper.voxel_size)
        cut = " x ".join(map(str, plan.measured))
        made = f"voxels of {size} mm, k-space: {cut}, {weights.stem}, {elapsed(start)}"
        print(f"{name}: wrote {job.result} ({made})")


def _view(args: argparse.Namespace) -> int:
    scans = list(args.files)
    written = scans.pop() if scans[-1].suffix.lower() in (".html", ".htm") else None
    if not scans:
        raise ValueError(f"{written}: expected a scan before the page, found none")
    target = written or scans[0].with_name("_and_".join(stem(scan) for scan in scans) + ".html")
    batch.check_outputs([target], force=args.force)
    from sprl_utils.scans.page import page  # half a second of imports that only this command needs

    write_beside(target, page(scans))
    names, size = " and ".join(scan.name for scan in scans), target.stat().st_size / 1e6
    print(f"{names}: wrote {target} ({size:.0f} MB); open it in a browser")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    sr, hr = read_volume(args.sr), read_volume(args.hr)
    check_pair(args.sr.name, hr, sr, "SR")
    scale = np.float32(intensity_scale(hr.data))
    for name in metrics.METRICS:
        print(f"{name}: {getattr(metrics, name)(sr.data / scale, hr.data / scale):.4f}")
    return 0


def _degrade(args: argparse.Namespace) -> int:
    check_target(args.lr)
    batch.check_outputs([args.lr], [args.hr], args.force)
    hr = read_volume(args.hr)
    lr = truncate_kspace(hr.data, [args.keep if a in args.axes else None for a in range(3)])
    write_volume(args.lr, lr, hr, f"sprl {__version__}: kept {args.keep:g} of k-space {origin(hr)}")
    print(f"{args.hr.name}: wrote {args.lr}")
    return 0


def _train(args: argparse.Namespace) -> int:
    # seconds of imports that only this command needs
    from sprl_utils.stages import parameters_of, processes_command, run_stage

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
    batch.check_outputs([args.output], force=args.force)
    found = find_subjects(args.root, lambda line: _say(args, line))
    subjects = assign_splits(found, args.rule, args.seed)
    write_manifest(subjects, args.output)
    counts = Counter(s.split for s in subjects)
    print(f"{args.output}: {len(subjects)} scans: " + ", ".join(f"{counts[s]} {s}" for s in SPLITS))
    if empty := [s for s in SPLITS[:2] + SPLITS[-1:] if not counts[s]]:
        print(f"{args.output}: nobody in {', '.join(empty)}; change the column 'split'", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
