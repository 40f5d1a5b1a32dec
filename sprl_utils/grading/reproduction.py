"""Whether a run gave the committed numbers again: ``python -m sprl_utils.grading.reproduction PROFILE``."""

import io
import subprocess
import sys
from pathlib import Path

import pandas as pd

from sprl_utils.evaluation import METHOD
from sprl_utils.provenance import repo_root, run_git

#: A rerun on other hardware may differ by this much: dB, SSIM, NRMSE.
SPREAD = {"psnr": 0.05, "ssim": 0.002, "nrmse": 0.001}
UNITS = {"psnr": "dB PSNR", "ssim": "SSIM", "nrmse": "NRMSE"}
KEYS = ["subject", *METHOD, "region"]


def committed(root: Path, profile: str) -> pd.DataFrame | None:
    """Scores of a profile as committed, whatever a run has written since; None: it has none.

    Raises:
        LookupError: these files are in no git repository.
    """
    table = f"results/{profile}/metrics.csv"
    try:
        run_git(root, "ls-files", "--error-unmatch", ".")  # fails in a repository that is another's
        if not run_git(root, "ls-tree", "HEAD", table):
            return None
        return pd.read_csv(io.StringIO(run_git(root, "show", f"HEAD:./{table}")))
    except (OSError, subprocess.CalledProcessError) as error:
        raise LookupError(f"{table}: expected the committed one from git, found no repository") from error


def verdict(stated: pd.DataFrame, found: pd.DataFrame, profile: str) -> tuple[bool, str]:
    """Whether the scores ``found`` reproduce ``stated``, and the sentence that says so.

    Rows that the run of ``profile`` has read from other runs are no work of it and do not count.
    """
    stated, found = (scores[scores["source_run"] == profile] for scores in (stated, found))
    both = stated.merge(found, "outer", KEYS, suffixes=("", "_again"), indicator="side")
    names = both[KEYS].astype(str).agg(", ".join, axis=1)
    alone = names[both["side"] != "both"]
    if len(alone):
        return False, f"not reproduced: {len(alone)} rows are in one table alone, first {alone.iloc[0]}"
    again = both[[f"{m}_again" for m in SPREAD]].set_axis(list(SPREAD), axis=1)
    apart = (again - both[[*SPREAD]]).abs().mask(again == both[[*SPREAD]], 0).fillna(float("inf"))
    most, where = apart.max(), apart.idxmax()
    largest = ", ".join(f"{most[m]:.4f} {UNITS[m]}" for m in SPREAD)
    allowed = ", ".join(f"{limit:g} {UNITS[m]}" for m, limit in SPREAD.items())
    over = [m for m, limit in SPREAD.items() if most[m] > limit]
    if not over:
        return True, f"reproduced within {allowed}; the largest differences are {largest}"
    rows = "; ".join(f"{UNITS[m]} of {names[where[m]]}" for m in over)
    return False, f"not reproduced: the largest differences are {largest}, allowed are {allowed}; see {rows}"


def main(profile: str) -> None:
    """Print the verdict on ``results/<profile>/`` where the profile has committed scores."""
    root = repo_root()
    try:
        stated = committed(root, profile)
    except LookupError as error:
        print(f"Reproduction: unknown ({error})")
        return
    if stated is not None:
        found = pd.read_csv(root / "results" / profile / "metrics.csv")
        print(f"Reproduction: {verdict(stated, found, profile)[1]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
