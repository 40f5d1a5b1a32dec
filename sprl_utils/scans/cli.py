"""``sprl``: the study's pieces on files, for people who want no notebook. Also ``python -m sprl_utils``."""

import argparse
import functools
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
from sprl_utils.inference import choose_engine, openvino_is_installed
from sprl_utils.kspace import truncate_kspace
from sprl_utils.manifest import SPLITS, assign_splits, write_manifest
from sprl_utils.masks import intensity_scale
from sprl_utils.networks import channels_last, cpu_multiplies_bf16, load_generator
from sprl_utils.original.split import rule_named
from sprl_utils.provenance import tune_process, write_json
from sprl_utils.scans import batch, bids
from sprl_utils.scans.apply import make_plan, sharpen
from sprl_utils.scans.arguments import parse
from sprl_utils.scans.folders import find_subjects
from sprl_utils.scans.formats import check_target, read_scan, stem, write_scan
from sprl_utils.scans.progress import elapsed, progress
from sprl_utils.scans.unfamiliar import origin, unfamiliar
from sprl_utils.volumes import check_pair


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 if all went well, 1 if a file failed, 130 if it was interrupted.

    Raises:
        SystemExit: with 2, for arguments that make no sense.
    """
    args = parse(sys.argv[1:] if arguments is None else arguments)
    tune_process(getattr(args, "threads", None))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's and torch's own are for programmers
            warnings.simplefilter("default", UserWarning)
            warnings.showwarning = lambda message, *_: _say(args, f"warning: {_one_line(message)}")
            return COMMANDS[args.command](args)
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


def _super_resolve(args: argparse.Namespace) -> int:
    start = time.monotonic()
    inputs = batch.find(args.input)
    for line in inputs.left_out_lines:
        _say(args, line)
    planned = batch.place(inputs, args.output, args.uncertainty, args.sidecar)
    jobs = batch.check(planned, args.force, args.skip_existing)
    device = "cpu" if args.engine == "openvino" else args.device
    device, dtype = _hardware(device, args.engine, args.precision)
    load = functools.cache(lambda path: channels_last(load_generator(path)).to(device))
    if args.weights:  # a wrong name is one error, not one per scan
        load(find_weights(args.weights))
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


def _hardware(device: str, engine: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Where the network runs and in what its dense units compute; engine torch has fp32 alone on a CPU."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ValueError("--device: expected a GPU that CUDA can use, found none; use cpu or auto")
    chosen = torch.device("cuda" if device != "cpu" and has_gpu else "cpu")
    if engine == "auto" and not openvino_is_installed():
        engine = "torch"
    multiplies_bf16 = chosen.type == "cuda" or (engine != "torch" and cpu_multiplies_bf16())
    if precision == "bf16" and not multiplies_bf16:
        raise ValueError(
            "--precision: expected bf16 on a GPU, or with engine openvino on a processor that multiplies it, "
            "found neither; use fp32"
        )
    if precision == "auto":
        precision = "bf16" if multiplies_bf16 else "fp32"
    return chosen, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _resolve_one(args: argparse.Namespace, job: batch.Job, load: Callable, dtype: torch.dtype) -> None:
    start, name = time.monotonic(), job.source.name
    scan = read_scan(job.source)
    check_target(job.result, scan.header)
    known = batch.scan_facts(job.source)
    said = str(known.get("MRAcquisitionType")).strip().upper()
    plan = make_plan(scan, args.voxel_size, args.upsample, args.measured, args.acquisition or said)
    if args.acquisition == "2D" and plan.slice_axis is None:
        why = "the longest edge of its voxels stays, or its k-space was cut there"
        _say(args, f"{name}: warning: 2D changes nothing, because {why}")
    weights, card = find_weights(args.weights or plan.weights), read_card()
    digest = sha256(weights)
    entry = next((e for e in card.values() if e["sha256"] == digest), None)
    doubts = unfamiliar(scan, job.source, known, plan.shape, entry, card) + plan.warnings if entry else []
    for doubt in doubts:
        _say(args, f"{name}: warning: {doubt}")
    generator = load(weights)
    engine = choose_engine(args.engine, generator)
    sharper, spread = sharpen(
        scan, plan, generator, engine, memory_gib=args.memory, skip_air=args.skip_air,
        dtype=dtype, self_ensemble=args.self_ensemble, uncertainty=args.uncertainty,
        progress=progress(name, args.quiet),
    )  # fmt: skip
    what = "super-resolved" + (", 8 mirror images" if args.self_ensemble else "")
    results = [(job.result, sharper, what)]
    if job.spread:  # the result last: where it is, the others are
        results.insert(0, (job.spread, spread, "SD over 8 mirror images"))
    for path, image, what in results:
        if job.source_name:
            precision = str(dtype).removeprefix("torch.")
            facts = bids.sidecar(what, job.source_name, weights, plan, engine, precision, doubts)
            write_json(batch.sidecar_of(path), facts)
        write_scan(path, image.data, image, f"sprl {__version__} {weights.name}: {what} ({engine})")
    if not args.quiet:
        size = " x ".join(f"{edge:.2f}" for edge in sharper.voxel_size)
        cut = " x ".join(map(str, plan.measured))
        slices = "" if plan.slice_axis is None else f"slices along axis {plan.slice_axis}, "
        made = f"voxels of {size} mm, k-space: {cut}, {slices}{weights.stem}, {elapsed(start)}"
        print(f"{name}: wrote {job.result} ({made})")


def _view(args: argparse.Namespace) -> int:
    scans = list(args.files)
    written = scans.pop() if scans[-1].suffix.lower() in (".html", ".htm") else None
    if not scans:
        raise ValueError(f"{written}: expected a scan before the page, found none")
    target = written or scans[0].with_name("_and_".join(stem(scan) for scan in scans) + ".html")
    batch.check_outputs([target], force=args.force)
    from sprl_utils.scans.page import page  # half a second of imports that only this command needs

    write_atomically(target, page(scans))
    names, size = " and ".join(scan.name for scan in scans), target.stat().st_size / 1e6
    print(f"{names}: wrote {target} ({size:.0f} MB); open it in a browser")
    return 0


def _evaluate(args: argparse.Namespace) -> int:
    sr, hr = read_scan(args.sr), read_scan(args.hr)
    check_pair(args.sr.name, hr, sr, "SR")
    scale = np.float32(intensity_scale(hr.data, hr.voxel_size))
    for name in metrics.METRICS:
        print(f"{name}: {getattr(metrics, name)(sr.data / scale, hr.data / scale):.4f}")
    return 0


def _degrade(args: argparse.Namespace) -> int:
    check_target(args.lr)
    batch.check_outputs([args.lr], [args.hr], args.force)
    hr = read_scan(args.hr)
    lr = truncate_kspace(hr.data, [args.keep if a in args.axes else None for a in range(3)])
    write_scan(args.lr, lr, hr, f"sprl {__version__}: kept {args.keep:g} of k-space {origin(hr)}")
    print(f"{args.hr.name}: wrote {args.lr}")
    return 0


def _manifest(args: argparse.Namespace) -> int:
    batch.check_outputs([args.output], force=args.force)
    found = find_subjects(args.root, lambda line: _say(args, line), args.unsigned)
    subjects = assign_splits(found, rule_named(args.rule), args.seed)
    write_manifest(subjects, args.output)
    counts = Counter(s.split for s in subjects)
    print(f"{args.output}: {len(subjects)} scans: " + ", ".join(f"{counts[s]} {s}" for s in SPLITS))
    if empty := [s for s in SPLITS[:2] + SPLITS[-1:] if not counts[s]]:
        _say(args, f"{args.output}: nobody in {', '.join(empty)}; change the column 'split'")
    return 0


COMMANDS = {
    "super-resolve": _super_resolve,
    "evaluate": _evaluate,
    "degrade": _degrade,
    "view": _view,
    "manifest": _manifest,
}
