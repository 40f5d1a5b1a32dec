"""The claims ledger: each claim, whose it is, what was measured here, and what follows. Never hand-written.

``python -m sprl_utils.grading.claims`` reads the committed tables under ``results/`` and writes
``results/study/claims.md``, with the study's tables below it. A claim whose table is not there yet says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from sprl_utils.evaluation import CONSISTENT
from sprl_utils.files import write_atomically
from sprl_utils.provenance import repo_root

SUPPORTED, NOT_SUPPORTED = "supported", "not supported"
NOT_YET = "not measured yet"
NOT_HERE = "cannot be tested here"
#: Fewer updates of G than this say nothing against GAN training: the paper has 550,000 steps, an eighth G's.
ENOUGH_UPDATES = 10_000
#: Fewer seeds than this do not tell an effect from chance.
ENOUGH_SEEDS = 3
#: dB by which seams must cost PSNR to count.
SEAM = 0.01
#: Hardly distinguishable: a classifier is right no more often than this (0.5 is chance).
INDISTINGUISHABLE = 0.6
#: Several times as fast: at least so many times, with PSNR so near (dB) that of exact computation.
SEVERAL, SAME = 2, 0.02
#: What the verdicts mean, for readers of the ledger.
RULES = (
    "Supported means: mDCSRN ahead in mean PSNR over heads with each seed; six times or more; a classifier"
    f" right in at most {INDISTINGUISHABLE:.0%} of cases on each head; PSNR as it was where no step is G's;"
    f" a margin that costs more than {SEAM} dB on some head with each seed; PSNR and SSIM higher on each"
    f" head; at least {SEVERAL} times as fast, with PSNR within {SAME} dB. What fewer than {ENOUGH_SEEDS}"
    f" seeds support is said to be by them alone. Fewer than {ENOUGH_UPDATES:,} updates of G say nothing"
    " against a GAN."
)
#: The long runs, each without the person that it is tested on, by reduction of k-space.
STUDIES = {"4x4": ("study_colin27", "study_bb"), "2x2": ("study_colin27_2x2", "study_bb_2x2")}


@dataclass(frozen=True)
class Finding:
    """What was measured, on what, and the verdict."""

    measured: str
    on: str
    verdict: str


@dataclass(frozen=True)
class Claim:
    """A claim, its source, and how ``results/`` (the argument) answers it."""

    text: str
    source: str
    find: Callable[[Path], Finding]


def _table(results: Path, name: str) -> pd.DataFrame | None:
    path = results / name
    return pd.read_csv(path) if path.is_file() else None


def _verdict(holds: bool, seeds: int = ENOUGH_SEEDS) -> str:
    """What follows; what few seeds support, they alone do."""
    if not holds:
        return NOT_SUPPORTED
    return SUPPORTED if seeds >= ENOUGH_SEEDS else f"{SUPPORTED}, by {_seeds(seeds)} alone"


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _over_seeds(values: Sequence[float], form: str) -> str:
    """Their mean, and with several the least and the greatest."""
    span = f" ({min(values):{form}} to {max(values):{form}})" if len(values) > 1 else ""
    return f"{np.mean(values):{form}}{span}"


def _held_out(results: Path, name: str, reduction: str = "4x4") -> tuple[pd.DataFrame | None, str]:
    """A table of the long runs that are there, or of the demo, and which profiles it is from."""
    there = [p for p in STUDIES[reduction] if (results / p / name).is_file()]
    if not there and reduction == "4x4":
        there = ["demo"]
    found = ((p, _table(results, f"{p}/{name}")) for p in there)
    tables = [table.assign(profile=p) for p, table in found if table is not None]
    profiles = ", ".join(f"`{p}`" for p in there)
    return (pd.concat(tables) if tables else None), f"profile{'s' if len(there) > 1 else ''} {profiles}"


def _restores(results: Path, reduction: str = "4x4") -> Finding:
    """mDCSRN against zero-filling in the brain of each test head, on the longest training that there is."""
    scores, profiles = _held_out(results, "metrics.csv", reduction)
    if scores is None:
        return Finding("-", "needs `make study`", NOT_YET)
    brain = scores[scores["region"] == "brain"]
    table = brain.pivot(index="subject", columns="method", values=["psnr", "ssim"])
    psnr, ssim = (table[metric]["mDCSRN"] - table[metric]["zero-filled"] for metric in ("psnr", "ssim"))
    measured = ", ".join(f"{head} {psnr[head]:+.2f} dB and {ssim[head]:+.4f} SSIM" for head in psnr.index)
    on = f"the brain, people not trained on, one seed, {profiles}"
    holds = bool((psnr > 0).all() and (ssim > 0).all())
    return Finding(f"against zero-filling: {measured}", on, _verdict(holds, seeds=1))


def _outperforms(results: Path) -> Finding:
    """mDCSRN against each other trained network, on the test heads, after as many steps."""
    scores = _table(results, "comparison/ablations.csv")
    if scores is None:
        return Finding("-", "needs the profile `comparison`", NOT_YET)
    psnr = scores.pivot_table(index="seed", columns="variant", values="psnr")
    lead = -psnr[["FSRCNN", "DCSRN", "SRResNet"]].sub(psnr["reference"], axis=0)
    told = ", ".join(f"{name} {_over_seeds(lead[name], '+.2f')} dB" for name in lead)
    on = "mean PSNR over test heads, 4x4 (the paper's 4x is 2x2), as many steps each by the recipe of mDCSRN"
    on += f", {_seeds(len(lead))}, profile `comparison`"
    return Finding(f"mDCSRN against {told}", on, _verdict(bool((lead > 0).all(axis=None)), len(lead)))


def _six_times(results: Path) -> Finding:
    speed = _table(results, "bench/networks.csv")
    if speed is None:
        return Finding("-", "needs `make bench`", NOT_YET)
    speed = speed.set_index("model")
    times = speed.loc["SRResNet", "seconds"] / speed.loc["mDCSRN", "seconds"]
    work = speed.loc["SRResNet", "multiply_adds"] / speed.loc["mDCSRN", "multiply_adds"]
    measured = f"{times:.1f} times faster than SRResNet-3D ({work:.1f} times fewer multiply-adds)"
    return Finding(measured, "one cube, same process and machine, profile `bench`", _verdict(times >= 6))


def _indistinguishable(results: Path) -> Finding:
    found = {reduction: _held_out(results, "detail.csv", reduction)[0] for reduction in STUDIES}
    gans = {r: table[table["method"] == "mDCSRN-GAN"] for r, table in found.items() if table is not None}
    if not gans:
        return Finding("-", "needs a GAN and its `detail.csv`", NOT_YET)
    told = pd.concat(gans, names=["reduction"]).dropna(subset="told_from_hr")
    measured = [
        f"{reduction}: " + ", ".join(f"{row.subject} {row.told_from_hr:.0%}" for row in rows.itertuples())
        for reduction, rows in told.groupby("reduction", sort=False)
    ]
    profiles = told["profile"].unique()
    updates = {p: int(_table(results, f"{p}/gan_history.csv")["g_steps"].max()) for p in profiles}
    trained = ", ".join(f"`{profile}` ({count})" for profile, count in updates.items())
    on = f"patches of the brain that the classifier has not seen; profiles (updates of G): {trained}"
    verdict = _verdict(told["told_from_hr"].max() <= INDISTINGUISHABLE)
    if verdict == NOT_SUPPORTED and min(updates.values()) < ENOUGH_UPDATES:
        verdict = f"{NOT_HERE}: G's updates are too few to tell"
    right = "; ".join(measured)
    return Finding(f"a classifier of SR and HR is right, {right} (by chance: 50 %)", on, verdict)


def _hcp(_: Path) -> Finding:
    return Finding("-", "HCP needs a registration", NOT_HERE)


def _untrained_gan(results: Path) -> Finding:
    scores = _table(results, "ablations/ablations.csv")
    if scores is None:
        return Finding("-", "needs the profile `ablations`", NOT_YET)
    by_variant = scores.set_index(["variant", "subject", "seed"])["psnr"]
    change = (by_variant["GAN, G never trained"] - by_variant["reference"]).abs().max()
    measured = f"by a schedule that never comes to G, as its counter made it, PSNR changes by {change:g} dB"
    return Finding(measured, "profile `ablations`", SUPPORTED if change == 0 else NOT_SUPPORTED)


def _seams(results: Path) -> Finding:
    scores = _table(results, "ablations/ablations.csv")
    if scores is None:
        return Finding("-", "needs the profile `ablations`", NOT_YET)
    psnr = scores.set_index(["variant", "subject", "seed"])["psnr"]
    cost = (psnr["reference"] - psnr["cubes with a margin of 3"]).unstack("seed")
    told = ", ".join(f"{head} {_over_seeds(row, '+.3f')} dB" for head, row in cost.iterrows())
    on = f"{_seeds(cost.shape[1])}, profile `ablations`"
    costs = (cost > SEAM).all(axis=1)
    verdict = _verdict(bool(costs.any()), cost.shape[1])
    if costs.any() and not costs.all():
        verdict = f"{verdict}; not on {', '.join(costs.index[~costs])}"
    return Finding(f"exact computation against cubes with a margin of 3: {told}", on, verdict)


def _faster(results: Path) -> Finding:
    ratios = _table(results, "bench/ratios.csv")
    if ratios is None:
        return Finding("-", "needs `make bench`", NOT_YET)
    times = ratios.set_index(["task", "size"])["times_faster"]
    measured = (
        f"whole volume {times[('inference', '256x320x320')]:.1f} times, "
        f"pretraining step {times[('pretraining step', '2 x 64-cube')]:.1f} times"
    )
    agreement = _table(results, "bench/agreement.csv").dropna(subset=["exact to HR"])
    apart = (agreement["ours to HR"] - agreement["exact to HR"]).abs().max()
    measured += f"; PSNR within {max(apart, 0.001):.3f} dB of exact computation"
    holds = times[("inference", "256x320x320")] >= SEVERAL and apart < SAME
    on = "profile `bench`, weights near the identity, agreement on a 64-cube"
    return Finding(measured, on, _verdict(holds))


CLAIMS = (
    Claim(
        "mDCSRN outperforms other popular networks in recovering 4x resolution-downgraded images",
        "paper",
        _outperforms,
    ),
    Claim("It runs 6x faster (its authors: than SRResNet)", "paper", _six_times),
    Claim(
        "GAN training promotes realistic output hardly distinguishable from original HR images",
        "paper",
        _indistinguishable,
    ),
    Claim("The results on 1,113 HCP subjects", "paper", _hcp),
    Claim(
        "The original project's GAN phase cannot have changed its generator",
        "reading its code",
        _untrained_gan,
    ),
    Claim("A margin of 3 voxels costs image quality", "reading the original's code", _seams),
    Claim(
        "mDCSRN restores more than zero-filling does, on heads of people it has not seen (4x4)",
        "this study",
        _restores,
    ),
    Claim(
        "The same where half of k-space is kept on two axes (2x2)",
        "this study",
        functools.partial(_restores, reduction="2x2"),
    ),
    Claim(
        "This study's procedure is several times as fast as the original's at the same answer",
        "this study",
        _faster,
    ),
)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def held_out(results: Path) -> str:
    """What long training gives people held out, as Markdown; empty without such a run.

    PSNR (dB) and SSIM of zero-filled LR, and what each method differs from it by.
    """
    methods = ["cubic", *(f"mDCSRN{gan}{kept}" for kept in ("", CONSISTENT) for gan in ("", "-GAN"))]
    rows = [["k-space", "head held out", "region", "zero-filled", *methods]]
    for reduction in STUDIES:
        scores, profiles = _held_out(results, "metrics.csv", reduction)
        if scores is None or "demo" in profiles:
            continue
        by_head = scores.set_index("method").groupby(["subject", "region"], sort=False)[["psnr", "ssim"]]
        for (head, region), table in by_head:
            zero_filled = table.loc["zero-filled"]
            change = (table - zero_filled).reindex(methods).itertuples()
            told = ["-" if np.isnan(row.psnr) else f"{row.psnr:+.2f} / {row.ssim:+.4f}" for row in change]
            rows.append([reduction, head, region, "{:.2f} / {:.4f}".format(*zero_filled), *told])
    return _markdown(rows) if rows[1:] else ""


def rescans(results: Path) -> str:
    """A second scan of the same person beside the methods, as Markdown; empty without the profile `study_bb`.

    In the brain, PSNR (dB) / SSIM: a mark for any method on a noisy scan.
    """
    scores, second = (_table(results, f"study_bb/{name}.csv") for name in ("metrics", "rescan"))
    if scores is None or second is None:
        return ""
    methods = ["zero-filled", "mDCSRN", "mDCSRN" + CONSISTENT]
    brain = scores[scores["region"] == "brain"].set_index(["subject", "method"])[["psnr", "ssim"]]
    rows = [["head", "region", *methods, "second scan, registered"]]
    for row in second.itertuples():
        told = [*(brain.loc[(row.subject, method)] for method in methods), (row.psnr, row.ssim)]
        rows.append([row.subject, row.region, *("{:.2f} / {:.4f}".format(*pair) for pair in told)])
    return _markdown(rows)


def networks(results: Path) -> str:
    """The networks by one recipe and as many steps, as Markdown; empty without the profile `comparison`.

    Work and seconds are those of `make bench`; PSNR (dB) and SSIM are means over test heads and seeds, with
    the least and the greatest difference from mDCSRN over seeds.
    """
    effects, speed = _table(results, "comparison/ablation_effects.csv"), _table(results, "bench/networks.csv")
    if effects is None or speed is None:
        return ""
    speed = speed.set_index("model")
    rows = [["network", "parameters", "G multiply-adds a 64-cube", "seconds", "over zero-filled (dB)",
             "PSNR against mDCSRN", "least to most", "SSIM against mDCSRN", "seeds"]]  # fmt: skip
    for row in effects.itertuples():
        model = {"reference": "mDCSRN", "GAN": "mDCSRN", "SRGAN": "SRResNet"}.get(row.variant, row.variant)
        name = {"reference": "mDCSRN", "GAN": "mDCSRN-GAN"}.get(row.variant, row.variant)
        size = speed.loc[model]
        work = [f"{size.parameters:,.0f}", f"{size.multiply_adds / 1e9:.0f}", f"{size.seconds:.2f}"]
        rows.append([name, *work, f"{row.gain:+.2f}", *_change(row)])
    return _markdown(rows)


def ablations(results: Path) -> str:
    """What each choice or defect changes, as Markdown; empty without the profile `ablations`."""
    effects = _table(results, "ablations/ablation_effects.csv")
    if effects is None:
        return ""
    rows = [["variant", "over its own LR (dB)", "PSNR against reference", "least to most", "SSIM", "seeds"]]
    rows += [[row.variant, f"{row.gain:+.3f}", *_change(row)] for row in effects.itertuples()]
    return _markdown(rows)


def _change(row) -> list[str]:
    """Cells of a row of `sprl_utils.comparison.ablation.effects`: PSNR, its range over seeds, SSIM, seeds."""
    span = f"{row.psnr_change_least:+.3f} to {row.psnr_change_most:+.3f}"
    return [f"{row.psnr_change:+.3f}", span, f"{row.ssim_change:+.4f}", str(row.seeds)]


#: Heading of a table of the study -> how ``results/`` gives it.
TABLES = {
    "People held out: PSNR (dB) / SSIM, against zero-filled LR": held_out,
    "Scan against rescan of one person: what a noisy scan allows": rescans,
    "Networks after as many steps": networks,
    "Ablations: one choice or defect at a time": ablations,
}


def ledger(results: Path) -> str:
    """The ledger as Markdown, and the study's tables that there are, from the tables in ``results``."""
    found = [(claim, claim.find(results)) for claim in CLAIMS]
    rows = [(claim.text, claim.source, f.measured, f.on, f.verdict) for claim, f in found]
    lines = [
        "# Claims, and what was measured here",
        "",
        "Made by `python -m sprl_utils.grading.claims` from the tables in `results/`; not written by hand.",
        "",
        _markdown([("claim", "source", "measured", "on", "verdict"), *rows]),
        "",
        RULES,
    ]
    for heading, table in ((heading, make(results)) for heading, make in TABLES.items()):
        lines += ["", f"## {heading}", "", table] if table else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    out = repo_root() / "results" / "study" / "claims.md"
    write_atomically(out, ledger(repo_root() / "results"))
    print(f"wrote {out}")
