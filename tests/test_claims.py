"""The ledger says what the tables say, and nothing where there is no table."""

import pandas as pd
import pytest

from sprl_utils.evaluation import CONSISTENT
from sprl_utils.grading import claims
from sprl_utils.provenance import repo_root


def row(results, words):
    (found,) = [line for line in claims.ledger(results).splitlines() if words in line]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_the_committed_ledger_is_what_the_committed_tables_give():
    results = repo_root() / "results"
    assert (results / "study/claims.md").read_text() == claims.ledger(results)


def test_without_tables_no_claim_has_a_verdict_from_here(tmp_path):
    verdicts = {row(tmp_path, claim.text)[-1] for claim in claims.CLAIMS}
    assert verdicts == {"not measured yet", "cannot be tested here"}


@pytest.mark.parametrize(("seconds", "verdict"), [(12.0, "supported"), (11.0, "not supported")])
def test_six_times_is_six_times(tmp_path, seconds, verdict):
    (tmp_path / "bench").mkdir()
    table = pd.DataFrame({"model": ["mDCSRN", "SRResNet"], "seconds": [2.0, seconds]})
    table["multiply_adds"] = [1, 9]
    table.to_csv(tmp_path / "bench/networks.csv")
    cells = row(tmp_path, "6x faster")
    assert cells[-1] == verdict and f"{seconds / 2:.1f} times faster" in cells[2]


@pytest.mark.parametrize(
    ("leads", "verdict"),
    [
        ([0.2], "supported, by one seed alone"),
        ([0.2, 0.1, 0.1], "supported"),
        ([0.3, 0.3, -0.1], "not supported"),
    ],
)
def test_another_network_is_beaten_with_every_seed_or_not_at_all(tmp_path, leads, verdict):
    (tmp_path / "comparison").mkdir()
    rows = [(name, "a", seed, 30.0) for seed in range(len(leads)) for name in ("FSRCNN", "DCSRN", "SRResNet")]
    rows += [("reference", "a", seed, 30 + lead) for seed, lead in enumerate(leads)]
    table = pd.DataFrame(rows, columns=["variant", "subject", "seed", "psnr"])
    table.to_csv(tmp_path / "comparison/ablations.csv")
    cells = row(tmp_path, "outperforms other")
    span = f" ({min(leads):+.2f} to {max(leads):+.2f})" if len(leads) > 1 else ""
    assert f"FSRCNN {sum(leads) / len(leads):+.2f}{span} dB" in cells[2] and cells[-1] == verdict


def write_scores(folder, heads):
    """``metrics.csv`` with the gain of mDCSRN over zero-filling in the brain of each head (PSNR and SSIM)."""
    folder.mkdir()
    columns = ["subject", "region", "method", "psnr", "ssim"]
    rows = [(head, "brain", "zero-filled", 30.0, 0.5) for head in heads]
    rows += [(head, "brain", "mDCSRN", 30 + psnr, 0.5 + ssim) for head, (psnr, ssim) in heads.items()]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "metrics.csv")


@pytest.mark.parametrize("worse", [(-0.1, 0.01), (0.1, -0.01)])
def test_one_head_that_gets_worse_is_enough_not_to_support_restoration(tmp_path, worse):
    write_scores(tmp_path / "demo", {"a": (1.0, 0.01), "b": worse})
    cells = row(tmp_path, "restores more")
    told = f"b {worse[0]:+.2f} dB and {worse[1]:+.4f} SSIM"
    assert cells[2] == f"against zero-filling: a +1.00 dB and +0.0100 SSIM, {told}"
    assert cells[-1] == "not supported"


def test_the_long_runs_take_the_demos_place(tmp_path):
    write_scores(tmp_path / "demo", {"a": (-1.0, 0.01)})
    write_scores(tmp_path / "study_colin27", {"a": (1.0, 0.01)})
    write_scores(tmp_path / "study_bb", {"b": (2.0, 0.01)})
    cells = row(tmp_path, "restores more")
    assert cells[2] == "against zero-filling: a +1.00 dB and +0.0100 SSIM, b +2.00 dB and +0.0100 SSIM"
    assert "`study_colin27`, `study_bb`" in cells[3] and cells[-1] == "supported, by one seed alone"
    assert row(tmp_path, "2x2")[-1] == "not measured yet"


@pytest.mark.parametrize(
    ("costs", "verdict"),
    [
        ({"a": [0.2] * 3, "b": [0.1] * 3}, "supported"),
        ({"a": [0.2] * 3, "b": [0.1, 0.1, -0.1]}, "supported; not on b"),
        ({"a": [0.2], "b": [0.0]}, "supported, by one seed alone; not on b"),
        ({"a": [0.0] * 3, "b": [-0.1] * 3}, "not supported"),
    ],
)
def test_seams_count_by_head(tmp_path, costs, verdict):
    (tmp_path / "ablations").mkdir()
    rows = [("reference", head, seed, 30.0) for head in costs for seed in range(len(costs[head]))]
    margin = "cubes with a margin of 3"
    rows += [(margin, head, seed, 30 - cost) for head in costs for seed, cost in enumerate(costs[head])]
    rows += [("GAN, G never trained", *row[1:]) for row in rows if row[0] == "reference"]
    table = pd.DataFrame(rows, columns=["variant", "subject", "seed", "psnr"])
    table.to_csv(tmp_path / "ablations/ablations.csv")
    cells = row(tmp_path, "A margin of 3 voxels")
    assert f"a {costs['a'][0]:+.3f}" in cells[2] and cells[-1] == verdict


@pytest.mark.parametrize(
    ("told", "updates", "verdict"),
    [
        (0.9, 10, "cannot be tested here: G's updates are too few to tell"),
        (0.9, 60_000, "not supported"),
        (0.52, 60_000, "supported"),
    ],
)
def test_a_short_gan_stage_refutes_nothing(tmp_path, told, updates, verdict):
    (tmp_path / "demo").mkdir()
    detail = pd.DataFrame({"subject": ["a"], "method": ["mDCSRN-GAN"], "told_from_hr": [told]})
    detail.to_csv(tmp_path / "demo/detail.csv")
    pd.DataFrame({"g_steps": [0, updates]}).to_csv(tmp_path / "demo/gan_history.csv")
    cells = row(tmp_path, "hardly distinguishable")
    assert cells[-1] == verdict and f"`demo` ({updates})" in cells[3]


def test_the_tables_below_tell_differences_from_what_they_name(tmp_path):
    assert not any(make(tmp_path) for make in claims.TABLES.values())
    (tmp_path / "study_bb").mkdir()
    scores = {"zero-filled": (23.0, 0.7), "cubic": (22.5, 0.69), "mDCSRN": (23.25, 0.7125)}
    scores |= {f"mDCSRN{end}": (24.0, 0.75) for end in ("-GAN", CONSISTENT, "-GAN" + CONSISTENT)}
    rows = [("bb1", "whole", method, *values) for method, values in scores.items()]
    rows += [("bb1", "brain", method, *scores[method]) for method in ("zero-filled", "mDCSRN")]
    columns = ["subject", "region", "method", "psnr", "ssim"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "study_bb/metrics.csv")
    told, brain = claims.held_out(tmp_path).splitlines()[-2:]
    assert "| bb1 | brain | 23.00 / 0.7000 | - | +0.25 / +0.0125 | - | - | - |" in brain
    assert "| bb1 | whole | 23.00 / 0.7000 | -0.50 / -0.0100 | +0.25 / +0.0125 | +1.00 / +0.0500 |" in told


def test_a_rescan_stands_beside_the_methods_in_the_brain(tmp_path):
    (tmp_path / "study_bb").mkdir()
    scores = {"zero-filled": (23.0, 0.7), "mDCSRN": (23.25, 0.75), "mDCSRN" + CONSISTENT: (23.5, 0.775)}
    rows = [("bb1", "brain", method, *values) for method, values in scores.items()]
    rows += [("bb1", "whole", method, 0.0, 0.0) for method in scores]
    columns = ["subject", "region", "method", "psnr", "ssim"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "study_bb/metrics.csv")
    second = {"subject": ["bb1"], "rescan": ["bb2"], "region": ["brain"], "psnr": [24.0], "ssim": [0.8]}
    pd.DataFrame(second).to_csv(tmp_path / "study_bb/rescan.csv")
    told = claims.rescans(tmp_path).splitlines()[-1]
    assert told == "| bb1 | brain | 23.00 / 0.7000 | 23.25 / 0.7500 | 23.50 / 0.7750 | 24.00 / 0.8000 |"


def test_a_gan_has_the_size_of_its_generator(tmp_path):
    for folder in ("bench", "comparison"):
        (tmp_path / folder).mkdir()
    sizes = {"model": ["mDCSRN", "SRResNet"], "parameters": [400, 3000], "multiply_adds": [10e9, 90e9]}
    pd.DataFrame(sizes).assign(seconds=1.0).to_csv(tmp_path / "bench/networks.csv")
    effects = pd.DataFrame({"variant": ["reference", "SRResNet", "GAN", "SRGAN"], "gain": 0.5})
    effects[["psnr_change", "psnr_change_least", "psnr_change_most", "ssim_change"]] = 0.0, -0.5, 0.25, 0.0
    effects.assign(seeds=3).to_csv(tmp_path / "comparison/ablation_effects.csv")
    mdcsrn, srresnet, gan, srgan = (
        line.split(" | ", 1) for line in claims.networks(tmp_path).splitlines()[2:]
    )
    assert mdcsrn == ["| mDCSRN", "400 | 10 | 1.00 | +0.50 | +0.000 | -0.500 to +0.250 | +0.0000 | 3 |"]
    assert gan == ["| mDCSRN-GAN", mdcsrn[1]] and srgan == ["| SRGAN", srresnet[1]]
