"""Pictures of the benchmark and of the ablations."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.figure import Figure


def speed(ratios: pd.DataFrame) -> Figure:
    """How many times faster each task is, and how inference grows with the volume.

    Args:
        ratios: of `sprl_utils.comparison.bench.ratios`.
    """
    # A size of another kind counts as one voxel.
    edges = ratios["size"].str.extract(r"^(\d+)x(\d+)x(\d+)$").fillna("1").astype(int)
    ratios = ratios.assign(voxels=edges.prod(axis=1)).sort_values("voxels")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    last = ratios.groupby("task").tail(1).dropna(subset=["times_faster"]).sort_values("times_faster")
    bars = left.barh(last["task"] + "\n" + last["size"], last["times_faster"] - 1, left=1, color="tab:blue")
    left.bar_label(bars, [f"{times:.1f}x" for times in last["times_faster"]], padding=3, fontsize=8)
    left.axvline(1, color="black", linewidth=0.8)
    left.set(xscale="log", xlabel="times faster than the original procedure")
    left.margins(x=0.15)
    left.tick_params(axis="y", labelsize=8)
    for task, style in {"inference": "o-", "inference, air skipped": "s--"}.items():
        rows = ratios[ratios["task"] == task]
        if task == "inference":
            right.plot(rows["voxels"], rows["original_seconds"], "k^-", label="original procedure")
        right.plot(rows["voxels"], rows["ours_seconds"], style, label=f"ours: {task}")
    right.set(xscale="log", yscale="log", xlabel="voxels of the volume", ylabel="seconds")
    right.grid(alpha=0.3, which="both")
    right.legend(fontsize=8)
    for axis in (left.xaxis, right.yaxis):  # matplotlib's own labels overlap on short axes
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(ticker.NullFormatter())
    return figure


def people(scores: pd.DataFrame) -> Figure:
    """Gain in the brain by the number of people that trained: one point per test head, a line at their mean.

    Args:
        scores: rows of `sprl_utils.comparison.ablation.run` with a column ``people``.
    """
    figure, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    gain = scores.assign(gain=scores["brain_psnr"] - scores["brain_input_psnr"])
    gain = gain.groupby(["people", "subject"])["gain"].mean().unstack()  # over seeds
    ax.plot(gain.index, gain, "o", color="tab:blue", alpha=0.5, ms=4)
    ax.plot(gain.index, gain.mean(axis=1), "k-", label="mean")
    ax.axhline(0, color="black", lw=0.8)
    ax.set(xscale="log", xlabel="people that trained", ylabel="PSNR in the brain\nover zero-filled LR (dB)")
    ax.set_xticks(gain.index, [str(n) for n in gain.index])
    ax.minorticks_off()
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def ablations(effects: pd.DataFrame) -> Figure:
    """Change of PSNR against the reference and gain over the variant's own LR, one bar each, both symlog.

    The changes have their range over seeds. Scales are linear within 0.01 dB: effects span three decades.
    """
    shown = effects.iloc[::-1]
    change, gain = shown["psnr_change"], shown["gain"]
    size = (11, 0.9 + 0.36 * len(shown))
    figure, axes = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    spread = [change - shown["psnr_change_least"], shown["psnr_change_most"] - change]
    labels = ("PSNR against the reference (dB)", "PSNR over the variant's own LR (dB)")
    for ax, values, xerr, label in zip(axes, (change, gain), (spread, None), labels, strict=True):
        bars = ax.barh(shown.index, values, xerr=xerr, color="tab:blue", ecolor="black", error_kw={"lw": 1})
        ax.bar_label(bars, [f"{value:+.3f}" for value in values], padding=4, fontsize=8)
        ax.axvline(0, color="black", lw=0.8)
        ax.set_xscale("symlog", linthresh=0.01)
        ax.set_xticks([-10, -1, -0.1, 0, 0.1, 1, 10])
        ax.xaxis.set_major_formatter("{x:g}")
        ax.set_xlim(-30 * max(0.1, -values.min()), 30 * max(0.1, values.max()))
        ax.set(xlabel=label)
        ax.grid(axis="x", alpha=0.3)
    figure.suptitle("Mean over test heads and seeds", fontsize=10)
    return figure
