"""The arguments of ``sprl``: what each command takes, in which range, and its help."""

import argparse
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sprl_utils import __version__
from sprl_utils.inference import ENGINES, OVERHEAD_GIB
from sprl_utils.scans.apply import ACQUISITIONS, LARGEST_FACTOR

#: Options that take several numbers.
LISTS = ("--voxel-size", "--upsample", "--measured", "--axes")
NUMBER = r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?|[-+]?(inf|nan)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command and its options; ends the process with code 2 where they make no sense."""
    top = _Parser(prog="sprl", description="3D brain-MRI super-resolution with EDSR or mDCSRN.")
    top.add_argument("--version", action="version", version=f"sprl {__version__}")
    commands = top.add_subparsers(dest="command", required=True)
    for name, (add_arguments, about) in COMMANDS.items():
        add_arguments(commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}."))
    return top.parse_args(_joined(arguments))


def _joined(arguments: Sequence[str]) -> list[str]:
    """Numbers that follow an option of `LISTS`, made one word with it.

    argparse knows no "one or three": it takes the scan that follows for a number, and -inf for an option.
    """
    joined: list[str] = []
    for word in arguments:
        option = joined[-1].split("=")[0] if joined else ""
        takes = len(option) > 2 and any(name.startswith(option) for name in LISTS)
        if takes and re.fullmatch(NUMBER, word, re.IGNORECASE):
            joined[-1] += ("," if "=" in joined[-1] else "=") + word
        else:
            joined.append(word)
    return joined


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


# fmt: off
def _super_resolve_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("input", nargs="+",
        help="a scan, several, a folder of them, a quoted glob, or a BIDS data set or subject, of which the "
        "T1w images are taken")
    add("output",
        help="a NIfTI or MGH file, or a folder, which is made if it is missing; results of a BIDS data set "
        "go to derivatives/sprl in it, with a JSON sidecar each")
    grid = parser.add_mutually_exclusive_group().add_argument
    grid("--voxel-size", metavar="MM",
         type=_numbers("one edge or three of 0.01 to 100 mm", 0.01, 100, (1, 3)),
         help="bring the scan to voxels of this size: one number, or one per array axis, e.g. 1 1 1")
    grid("--upsample", metavar="N",
         type=_numbers(f"one factor or three from 1 to {LARGEST_FACTOR:g}", 1, LARGEST_FACTOR, (1, 3)),
         help="bring the scan to N times its matrix: one number, or one per array axis, e.g. 1 2 2")
    add("--measured", metavar="N", type=_numbers("three numbers of samples from 1", 1, 100_000, (3,), int),
        help="samples of k-space that the scanner acquired, per array axis, e.g. 256 128 176; the default is "
        "found where k-space was filled with zeros")
    add("--acquisition", type=str.upper, choices=ACQUISITIONS,
        help="2D: along the longest edge of the voxels lie slices, each the mean over its thickness; 3D: "
        "there are none; the default is MRAcquisitionType in DICOM or in the JSON file beside the scan, or "
        "else 2D where that edge is three times as long as the others and as asked for")
    existing = parser.add_mutually_exclusive_group().add_argument
    existing("--force", action="store_true", help="overwrite files that are there")
    existing("--skip-existing", action="store_true",
             help="leave out scans whose results are there already: resumes a batch")
    add("--self-ensemble", action="store_true",
        help="write the mean over eight mirror images, which is closer to the truth; 8 times as slow")
    add("--uncertainty", action="store_true",
        help="also write the SD over eight mirror images; 8 times as slow")
    add("--sidecar", action="store_true", help="also write how a result was made, as JSON")
    add("--quiet", action="store_true", help="print warnings and errors alone")
    _computation_arguments(parser)


def _computation_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", metavar="FILE",
        help="generator.safetensors of a run, or a name of sprl_utils/extras/weights/; the default fits the "
        "scan: EDSR_2x2 where less than two thirds of an axis of k-space are missing, else EDSR_4x4")
    add("--skip-air", action="store_true",
        help="copy the scan outside of the head, with its ringing, instead of running the network there")
    add("--memory", metavar="GIB", default=4.0,
        type=_number(f"more than {OVERHEAD_GIB} GiB", math.nextafter(OVERHEAD_GIB, 1), 1e6),
        help="bound on the memory for the network's maps, in GiB (4)")
    add("--threads", metavar="N", type=_number("a number of threads from 1", 1, 4096, int),
        help="threads of the CPU that the network computes with; the default is one per core")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"),
        help="where the network runs; auto takes a GPU where there is one")
    add("--engine", default="auto", choices=("auto", *ENGINES),
        help="what runs the network: openvino, a compiler for CPUs, or torch; auto takes openvino on a CPU")
    add("--precision", default="auto", choices=("auto", "fp32", "bf16"),
        help="numbers that the network computes in; auto takes bfloat16 where the hardware multiplies it")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("sr", type=Path, help="the volume to judge")
    add("hr", type=Path, help="the true one, on the same grid")


def _degrade_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("hr", type=Path, help="scan to degrade")
    add("lr", type=Path, help="NIfTI or MGH file to write")
    add("--keep", default=0.25, metavar="SHARE", type=_number("a share above 0 and below 1", 1e-6, 1 - 1e-6),
        help="share of the samples of k-space that are kept on each axis that is cut (0.25)")
    add("--axes", type=_axes, default=[1, 2], metavar="AXIS", help="array axes to cut (1 2)")
    add("--force", action="store_true", help="overwrite a file that is there")


def _view_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", type=Path, nargs="+", metavar="FILE",
        help="one scan, or one before and one after; then the HTML file to write (default: beside the first)")
    add("--force", action="store_true", help="overwrite a file that is there")


def _manifest_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("root", help="HCP's layout or BIDS (also s3://bucket/folder), or HR/ and LR/")
    add("output", type=Path, help="CSV, read by the notebooks")
    add("--unsigned", action="store_true", help="read S3 without credentials, as public buckets allow")
    add("--rule", default="seeded", choices=("seeded", "original"),
        help="how scans are shared out among the splits (seeded)")
    add("--seed", type=int, default=0, help="random seed of the rule 'seeded' (0)")
    add("--force", action="store_true", help="overwrite a file that is there")


COMMANDS = {
    "super-resolve": (_super_resolve_arguments,
        "make scans sharper that were measured coarsely: zero-filled ones, whose k-space says so, and those "
        "that --voxel-size or --upsample brings to a finer grid; what was measured stays"),
    "evaluate": (_evaluate_arguments, "PSNR, SSIM and NRMSE of a volume against another"),
    "degrade": (_degrade_arguments, "cut k-space: low resolution on the same grid"),
    "view": (_view_arguments,
        "write a page to look around in a scan, or in two side by side, which opens without the Internet"),
    "manifest": (_manifest_arguments, "list the scans of a folder, with splits"),
}
# fmt: on
