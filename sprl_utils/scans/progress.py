"""How far a long computation is: a bar on a terminal, a line every half minute in a log file."""

import functools
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta

from tqdm import tqdm

#: Seconds between two lines.
EVERY = 30


def progress(name: str, quiet: bool = False) -> Callable[[Sequence], Iterable]:
    """Wraps the steps of a computation, which may have several parts; goes to stderr."""
    if quiet:
        return iter
    if sys.stderr.isatty():
        return functools.partial(tqdm, desc=name, leave=False)
    start = last = time.monotonic()
    parts = 0

    def lines(steps: Sequence) -> Iterator:
        nonlocal last, parts
        parts += 1
        part = f"part {parts}, " if parts > 1 else ""
        for done, step in enumerate(steps, start=1):
            yield step
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                share = f"{part}{done / len(steps):.0%} after {elapsed(start)}"
                print(f"{name}: {share}", file=sys.stderr, flush=True)

    return lines


def elapsed(start: float) -> str:
    """Time since ``start`` (of `time.monotonic`) as h:mm:ss."""
    return str(timedelta(seconds=round(time.monotonic() - start)))
