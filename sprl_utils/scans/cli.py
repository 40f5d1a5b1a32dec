"""``sprl``: the study's pieces on files, for people who want no notebook. Also ``python -m sprl_utils``."""

from __future__ import annotations

import argparse
import functools
import math
import re
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
from sprl_utils.files import sha256, write_atomically
from sprl_utils.inference import OVERHEAD_GIB
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import SPLITS, assign_splits, find_subjects, write_manifest
from sprl_utils.networks import channels_last, cpu_multiplies_bf16, load_generator
from sprl_utils.provenance import tune_process, write_json
from sprl_utils.scans import batch, bids
from sprl_utils.scans.apply import LARGEST_FACTOR, make_plan, sharpen
from sprl_utils.scans.batch import Job, check_outputs
from sprl_utils.scans.formats import stem
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
            warnings.showwarning = lambda message, *_: _warn(args.command, message)
            return args.run(args)
    except KeyboardInterrupt:
        print(f"sprl {args.command}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, FloatingPointError) as error:
        print(f"sprl {args.command}: {_one_line(error)}", file=sys.stderr)
        return 1


def _warn(command: str, message: object) -> None:
    print(f"sprl {command}: warning: {_one_line(message)}", file=sys.stderr)


# ---- arguments ----------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sprl", description="3D brain-MRI super-resolution with mDCSRN.")
    parser.add_argument("--version", action="version", version=f"sprl {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    resolve = commands.add_parser(
        "super-resolve",
        help="make scans sharper that were measured coarsely",
        description="Makes scans sharper that were measured coarsely: zero-filled ones, whose k-space says "
        "so, and those that --voxel-size or --upsample brings to a finer grid. What was measured stays.",
    )
    resolve.add_argument(
        "input", nargs="+",
        help="a scan, several, a folder of them, a quoted glob, or a BIDS data set or subject, of which "
        "the T1w images are taken",
    )  # fmt: skip
    resolve.add_argument(
        "output",
        help="a NIfTI file, or a folder, which is made if it is missing. Results of a BIDS data set go to "
        "derivatives/sprl in it, with a JSON sidecar each.",
    )
    resolve.add_argument(
        "--weights", metavar="FILE",
        help="generator.safetensors of a run, or a name of sprl_utils/extras/weights/. "
        "The default fits the scan: "
        "mDCSRN_2x2 where less than two thirds of an axis of k-space are missing, else mDCSRN_4x4.",
    )  # fmt: skip
    grid = resolve.add_mutually_exclusive_group()
    grid.add_argument(
        "--voxel-size", metavar="MM", type=_numbers("one edge or three of 0.01 to 100 mm", 0.01, 100, (1, 3)),
        help="brings the scan to voxels of this size: one number, or one per array axis, e.g. 1 1 1",
    )  # fmt: skip
    grid.add_argument(
        "--upsample", metavar="N",
        type=_numbers(f"one factor or three from 1 to {LARGEST_FACTOR:g}", 1, LARGEST_FACTOR, (1, 3)),
        help="brings the scan to N times its matrix: one number, or one per array axis, e.g. 1 2 2",
    )  # fmt: skip
    resolve.add_argument(
        "--measured", metavar="N", type=_numbers("three numbers of samples from 1", 1, 100_000, (3,), int),
        help="samples of k-space that the scanner acquired, per array axis, e.g. 256 128 176; the default is "
        "found where k-space was filled with zeros",
    )  # fmt: skip
    existing = resolve.add_mutually_exclusive_group()
    existing.add_argument("--force", action="store_true", help="overwrites files that are there")
    existing.add_argument(
        "--skip-existing", action="store_true",
        help="leaves out scans whose results are there already: resumes a batch",
    )  # fmt: skip
    resolve.add_argument(
        "--uncertainty",
        action="store_true",
        help="also writes the SD over eight mirror images; 8 times as slow",
    )
    resolve.add_argument("--sidecar", action="store_true", help="also writes how a result was made, as JSON")
    resolve.add_argument("--skip-air", action="store_true", help="copies the air, with its ringing: faster")
    resolve.add_argument(
        "--halo", type=_number("a whole number of voxels from 0 to 1000", 0, 1000, int),
        help="voxels around each tile; the default is all that the network sees",
    )  # fmt: skip
    resolve.add_argument(
        "--memory", metavar="GIB", default=4.0,
        type=_number(f"more than {OVERHEAD_GIB} GiB", math.nextafter(OVERHEAD_GIB, 1), 1e6),
        help="bound on the memory for the network's maps, in GiB (4)",
    )  # fmt: skip
    resolve.add_argument(
        "--threads", metavar="N", type=_number("a number of threads from 1", 1, 4096, int),
        help="threads of the CPU that the network computes with; the default is one per core",
    )  # fmt: skip
    resolve.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="(auto)")
    resolve.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="of the network's dense units; auto takes bfloat16 where the hardware has instructions for it",
    )  # fmt: skip
    resolve.add_argument("--quiet", action="store_true", help="prints warnings and errors alone")
    resolve.set_defaults(run=_super_resolve)

    evaluate = commands.add_parser("evaluate", help="PSNR, SSIM and NRMSE of a volume against another")
    evaluate.add_argument("sr", type=Path, help="the volume to judge")
    evaluate.add_argument("hr", type=Path, help="the true one, on the same grid")
    evaluate.set_defaults(run=_evaluate)

    degrade = commands.add_parser("degrade", help="cut k-space: low resolution on the same grid")
    degrade.add_argument("hr", type=Path, help="scan to degrade")
    degrade.add_argument("lr", type=Path, help="NIfTI file to write")
    degrade.add_argument(
        "--keep", default=0.25, metavar="SHARE",
        type=_number("a share above 0 and below 1", 1e-6, 1 - 1e-6),
        help="share of the samples of k-space that are kept on each axis that is cut (0.25)",
    )  # fmt: skip
    degrade.add_argument("--axes", type=_axes, default=[1, 2], metavar="AXIS", help="array axes to cut (1 2)")
    degrade.add_argument("--force", action="store_true", help="overwrites a file that is there")
    degrade.set_defaults(run=_degrade)

    view = commands.add_parser(
        "view", help="write a page to look around in a scan, or in two side by side; no network needed"
    )
    view.add_argument(
        "files", type=Path, nargs="+", metavar="FILE",
        help="one scan, or one before and one after; then the HTML file to write (default: beside the first)",
    )  # fmt: skip
    view.add_argument("--force", action="store_true", help="overwrite a file that is there")
    view.set_defaults(run=_view)

    manifest = commands.add_parser("manifest", help="list the scans of a folder, with splits")
    manifest.add_argument("root", help="HCP's layout (also s3://bucket/folder), BIDS, or HR/ and LR/")
    manifest.add_argument("output", type=Path, help="CSV, read by the notebooks")
    manifest.add_argument("--rule", default="seeded", choices=("seeded", "original"))
    manifest.add_argument("--seed", type=int, default=0, help="of the seeded rule (0)")
    manifest.add_argument("--force", action="store_true", help="overwrite a file that is there")
    manifest.set_defaults(run=_manifest)
    return parser


def _joined(arguments: Sequence[str]) -> list[str]:
    """Numbers that follow an option of `LISTS`, made one word with it.

    argparse knows no "one or three": it takes the scan that follows for a number, and -inf for an option.
    """
    joined: list[str] = []
    for word in arguments:
        option = joined[-1].split("=")[0] if joined else ""
        takes = option.startswith("--") and len(option) > 2 and any(name.startswith(option) for name in LISTS)
        if takes and _is_number(word):
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
    expected: str, low: float, high: float, counts: Sequence[int] = (1,), kind: type = float
) -> Callable[[str], list]:
    """An argument's type: numbers from ``low`` to ``high``, joined by commas."""

    def parse(text: str) -> list:
        words = text.split(",")
        try:
            values = [kind(word) for word in words]
        except ValueError:
            values = []
        in_range = all(low <= value <= high for value in values)  # NaN is in no range
        if len(values) not in counts or not in_range:
            raise argparse.ArgumentTypeError(f"expected {expected}, found {' '.join(words)}")
        return values

    return parse


def _number(expected: str, low: float, high: float, kind: type = float) -> Callable[[str], float]:
    return lambda text: _numbers(expected, low, high, kind=kind)(text)[0]


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
    for line in batch.left_out_lines(inputs.left_out):
        print(f"sprl super-resolve: {line}", file=sys.stderr)
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
            print(f"sprl super-resolve: {_about(job.source, error)}", file=sys.stderr)
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


def _resolve_one(args: argparse.Namespace, job: Job, load: Callable, dtype: torch.dtype) -> None:
    start, name = time.monotonic(), job.source.name
    scan = read_volume(job.source)
    plan = make_plan(scan, _three(args.voxel_size), _three(args.upsample), args.measured)
    weights, card = find_weights(args.weights or plan.weights), read_card()
    entry = next((e for e in card.values() if e["sha256"] == sha256(weights)), None)
    doubts = unfamiliar(scan, job.source, plan.shape, entry, card) + list(plan.warnings if entry else ())
    for doubt in doubts:
        print(f"sprl super-resolve: {name}: warning: {doubt}", file=sys.stderr)
    sharper, spread = sharpen(
        scan, plan, load(weights), halo=args.halo, memory_gib=args.memory, skip_air=args.skip_air,
        dtype=dtype, uncertainty=args.uncertainty, progress=progress(name, args.quiet),
    )  # fmt: skip
    kinds = ("SD over 8 mirror images", "super-resolved")  # the result last: where it is, the others are
    for path, image, what in zip((job.spread, job.result), (spread, sharper), kinds, strict=True):
        if path is None:
            continue
        if job.source_name:
            facts = bids.sidecar(
                what, job.source_name, weights, sha256(weights), plan.axes, plan.factors, plan.measured,
                str(dtype).removeprefix("torch."), doubts,
            )  # fmt: skip
            write_json(batch.sidecar_of(path), facts)
        write_volume(path, image.data, image, f"sprl {__version__} {weights.name}: {what}")
    if not args.quiet:
        size = " x ".join(f"{edge:.2f}" for edge in sharper.voxel_size)
        cut = " x ".join(map(str, plan.measured))
        made = f"voxels of {size} mm, k-space: {cut}, {weights.stem}, {elapsed(start)}"
        print(f"{name}: wrote {job.result} ({made})")


def _three(numbers: list[float] | None) -> list[float] | None:
    """One number per axis; one alone is meant for all."""
    return numbers * 3 if numbers and len(numbers) == 1 else numbers


def _view(args: argparse.Namespace) -> int:
    scans = list(args.files)
    written = scans.pop() if scans[-1].suffix.lower() in (".html", ".htm") else None
    if not scans:
        raise ValueError(f"{written}: expected a scan before the page, found none")
    target = written or scans[0].with_name("_and_".join(stem(scan) for scan in scans) + ".html")
    _refuse_overwriting(target, args.force)
    from sprl_utils.extras.viewer import page  # half a second of imports that only this command needs

    write_atomically(target, page(scans))
    print(
        f"{' and '.join(s.name for s in scans)}: wrote {target} ({target.stat().st_size / 1e6:.0f} MB); "
        "open it in a browser"
    )
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    sr, hr = read_volume(args.sr), read_volume(args.hr)
    check_pair(args.sr.name, hr, sr, "SR")
    scale = np.float32(intensity_scale(hr.data))
    for name in metrics.METRICS:
        print(f"{name}: {getattr(metrics, name)(sr.data / scale, hr.data / scale):.4f}")
    return 0


def _degrade(args: argparse.Namespace) -> int:
    batch.check_name(args.lr)
    check_outputs([args.lr], [args.hr], args.force)
    hr = read_volume(args.hr)
    lr = truncate_kspace(hr.data, [args.keep if a in args.axes else None for a in range(3)])
    write_volume(args.lr, lr, hr, f"sprl {__version__}: kept {args.keep:g} of k-space {origin(hr)}")
    print(f"{args.hr.name}: wrote {args.lr}")
    return 0


def _manifest(args: argparse.Namespace) -> int:
    _refuse_overwriting(args.output, args.force)
    found = find_subjects(args.root, lambda line: print(f"sprl manifest: {line}", file=sys.stderr))
    subjects = assign_splits(found, args.rule, args.seed)
    write_manifest(subjects, args.output)
    counts = Counter(s.split for s in subjects)
    print(f"{args.output}: {len(subjects)} scans: " + ", ".join(f"{counts[s]} {s}" for s in SPLITS))
    if empty := [s for s in SPLITS[:2] + SPLITS[-1:] if not counts[s]]:
        print(f"{args.output}: nobody in {', '.join(empty)}; change the column 'split'", file=sys.stderr)
    return 0


def _refuse_overwriting(path: Path, force: bool) -> None:
    check_outputs([path], force=force)


def _about(path: Path, error: Exception) -> str:
    """One line that names the file, once."""
    before, named, after = _one_line(error).partition(str(path))
    if named:  # libraries repeat it in their reasons
        return before + named + after.replace(f" {path}", "")
    return before if path.name in before else f"{path.name}: {before}"


def _one_line(error: object) -> str:
    told = " ".join((str(error).strip() or type(error).__name__).split())
    return re.sub(r"^subject (.+?): (?=\S*\1)", "", told)  # a file's name instead of an id, and then its path


if __name__ == "__main__":
    sys.exit(main())
