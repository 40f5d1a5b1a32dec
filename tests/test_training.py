import errno
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_head, write_prepared

from sprl_utils import checkpoints, losses, networks, training
from sprl_utils.comparison import networks as comparators
from sprl_utils.networks import Generator, load_generator, save_weights
from sprl_utils.patches import Prepared, RandomPatches

PRETRAIN = training.PretrainSettings(
    steps=9, learning_rate=1e-3, rate_schedule="cosine", rate_warmup=2, average=0.9, init="identity", every=2
)
GAN = training.GanSettings(
    steps=14,
    learning_rate=1e-4,
    warmup=4,
    d_per_g=2,
    extra_every=6,
    extra=2,
    patch_size=16,
    width=2,
    every=2,
    validate_every=14,
)


def run_pretrain(
    prepared: Path, out: Path, start: Path | None = None, validation_patches: int = 1, **changes
) -> pd.DataFrame:
    patches = RandomPatches([Prepared(prepared / "train-head")], 8, seed=0)
    settings = training.PretrainSettings(**(vars(PRETRAIN) | changes))
    fabric = training.make_fabric("cpu", "32-true")
    return training.pretrain(patches, patches, validation_patches, out, settings, fabric, start=start)


def run_gan(prepared: Path, out: Path, precision: str = "32-true", crop: int = 16, **changes) -> pd.DataFrame:
    patches = RandomPatches([Prepared(prepared / "train-head")], 16, seed=0)
    start = out.parent / "start.safetensors"
    if not start.exists():
        torch.manual_seed(3)
        save_weights(Generator(init="identity"), start)
    settings = training.GanSettings(**(vars(GAN) | changes))
    return training.train_gan(
        start,
        patches,
        [Prepared(prepared / "validation-head")],
        out,
        settings,
        training.make_fabric("cpu", precision),
        [crop] * 3,
    )


RUNS = {"pretrain": run_pretrain, "gan": run_gan}


def same_files(a: Path, b: Path, names) -> bool:
    return all((a / n).read_bytes() == (b / n).read_bytes() for n in names)


def test_the_papers_schedule_step_by_step():
    """D alone for 10,000; then D x 7, G, again and again; after each 500, D x 200."""
    told = ["D"] * 10_000
    for _ in range(3):
        told += list(itertools.islice(itertools.cycle(["D"] * 7 + ["G"]), 500)) + ["D"] * 200
    assert [training.gan_schedule(step) for step in range(len(told))] == told


def test_the_cosine_rises_and_falls_to_nothing():
    settings = training.PretrainSettings(steps=100, rate_schedule="cosine", rate_warmup=10)
    rates = [training.learning_rate(step, settings) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) <= 1 and rates[100] == pytest.approx(0)
    assert rates[50] == pytest.approx(0.5) and all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert {training.learning_rate(s, training.PretrainSettings(steps=9)) for s in range(9)} == {1.0}


def test_after_a_restart_the_rate_is_that_of_a_run_of_its_own():
    cosine = partial(training.PretrainSettings, rate_schedule="cosine", rate_warmup=10)
    first, second, both = cosine(steps=40), cosine(steps=60), cosine(steps=100, restarts=[40])
    rates = [training.learning_rate(step, both) for step in range(101)]
    assert rates[:40] == [training.learning_rate(step, first) for step in range(40)]
    assert rates[40:] == [training.learning_rate(step, second) for step in range(61)]


@pytest.mark.parametrize(("norm", "length"), [(0.0, 10.0), (20.0, 10.0), (0.5, 0.5)])
def test_a_clipped_gradient_is_as_long_as_its_norm_says(norm, length):
    """One step of plain gradient descent at a rate of 1 moves the weights by the gradient's length."""
    fabric = training.make_fabric("cpu", "32-true")
    plain = torch.nn.Linear(2, 1, bias=False)
    before = plain.weight.detach().clone()
    model, optimizer = fabric.setup(plain, torch.optim.SGD(plain.parameters(), 1.0))
    training.descend(model(torch.tensor([6.0, 8.0])).sum(), optimizer, fabric, model, norm)
    assert float((plain.weight.detach() - before).norm()) == pytest.approx(length, rel=1e-5)


def test_the_running_average_of_a_constant_is_the_constant_and_then_follows_at_its_decay():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    average = training.averaged(model, 0.9)
    for _ in range(200):  # so many that the decay is 0.9, not the smaller one of the start
        average.update_parameters(model)
    for a, b in zip(average.module.state_dict().values(), model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)
    before = average.module[0].weight.clone()
    with torch.no_grad():
        model[0].weight += 1
    average.update_parameters(model)
    torch.testing.assert_close(average.module[0].weight, before + 0.1)


def test_the_running_average_soon_forgets_its_start():
    """Weights 0, then 1, 1, 1: decays of 1/10, 2/11 and 3/12 leave their product of the 0."""
    model = torch.nn.Linear(1, 1)
    for value in (0.0, 1.0):
        torch.nn.init.constant_(model.weight, value)
        if value == 0:
            average = training.averaged(model, 0.999)
            average.update_parameters(model)
    for _ in range(3):
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(1 - 1 / 10 * 2 / 11 * 3 / 12)


def test_reconstruction_and_compressors_learn_at_their_own_rates():
    generator = Generator()
    settings = training.PretrainSettings(
        steps=1, learning_rate=1.0, rate_reconstruction=0.05, rate_compressors=0.3
    )
    rate = {id(p): g["lr"] for g in training.rate_groups(generator, settings) for p in g["params"]}
    assert len(rate) == len(list(generator.parameters()))
    for name, parameter in generator.named_parameters():
        expected = 0.05 if name.startswith("recon") else 0.3 if name.startswith("comp") else 1.0
        assert rate[id(parameter)] == expected


def test_pretraining_learns_to_undo_a_gain(tmp_path):
    """LR is half of HR: a few steps of L1 must find that."""
    head = write_prepared(tmp_path, "train-head", "train", make_head())
    np.save(head.folder / "lr.npy", np.load(head.folder / "hr.npy") / 2)
    history = run_pretrain(tmp_path, tmp_path / "run", steps=60, every=30, learning_rate=1e-2, average=0.0)
    assert history["l1"].iloc[-1] < 0.7 * history["train_l1"].iloc[0]


def test_frozen_batchnorm_is_set_once_and_survives_a_resumed_run(heads, tmp_path, monkeypatch):
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    run_pretrain(tmp_path / "prepared", whole, norm_patches=3)
    save = checkpoints.Run.save
    monkeypatch.setattr(checkpoints.Run, "save", lambda self, step: (save(self, step), 1 / (step < 5)))
    with pytest.raises(ZeroDivisionError):
        run_pretrain(tmp_path / "prepared", stopped, norm_patches=3)
    monkeypatch.undo()
    monkeypatch.setattr(training, "update_bn", None)
    run_pretrain(tmp_path / "prepared", stopped, norm_patches=3)
    assert same_files(whole, stopped, ["generator.safetensors", "history.csv"])


def test_fine_tuning_begins_with_the_given_weights_and_their_scores(heads, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    before = run_pretrain(tmp_path / "prepared", first)
    start = first / "generator.safetensors"
    after = run_pretrain(tmp_path / "prepared", second, start)
    scores = ["l1", "psnr", "ssim"]
    assert list(after["step"]) == [0, 2, 4, 6, 8, 9]
    np.testing.assert_allclose(after[scores].iloc[0], before[scores].iloc[-1], rtol=1e-6)
    assert after["l1"].iloc[-1] < after["l1"].iloc[0]

    np.testing.assert_array_equal(run_pretrain(tmp_path / "prepared", second, start)["l1"], after["l1"])
    torch.manual_seed(9)
    save_weights(Generator(), start)  # other weights are another run
    assert list(run_pretrain(tmp_path / "prepared", second, start)["step"]) == [0, 2, 4, 6, 8, 9]
    assert (tmp_path / "second.before-1").is_dir()
    assert list(run_pretrain(tmp_path / "prepared", second)["step"]) == [2, 4, 6, 8, 9]  # and so are none
    assert (tmp_path / "second.before-2").is_dir()
    with pytest.raises(ValueError, match="generator.safetensors: expected those of FSRCNN, found Generator"):
        run_pretrain(tmp_path / "prepared", tmp_path / "third", start, model="FSRCNN")
    save_weights(networks.EDSR((1, 4, 4)), start)  # the class is the same, the sizes are not
    with pytest.raises(ValueError, match="expected those of EDSR_2x2, found EDSR"):
        run_pretrain(tmp_path / "prepared", tmp_path / "third", start, model="EDSR_2x2", init="kaiming")


def test_a_run_leaves_weights_history_and_examples(heads, tmp_path):
    history = run_pretrain(tmp_path / "prepared", tmp_path / "run")
    assert list(history["step"]) == [2, 4, 6, 8, 9]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run" / "history.csv"), history, check_exact=False)
    shown = np.load(sorted((tmp_path / "run" / "examples").glob("*.npy"))[-1])
    assert shown.shape == (3, 8, 8, 8)
    load_generator(tmp_path / "run" / "generator.safetensors")
    assert not list((tmp_path / "run").glob(".*.tmp"))


@pytest.mark.parametrize("stage", RUNS)
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(stage, heads, tmp_path):
    """Started, shot with SIGKILL three times, started again: as if nothing had happened, history included."""
    prepared = tmp_path / "prepared"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code = f"from test_training import *; RUNS[{stage!r}](Path({str(prepared)!r}), Path(sys.argv[1]))"
    start = [sys.executable, "-c", code, str(killed)]
    place = {"cwd": Path(__file__).parent, "env": os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}}
    # Not in this process, whose settings (threads, denormal numbers) earlier tests may have changed.
    subprocess.run([*start[:-1], str(whole)], check=True, capture_output=True, **place)
    stopped = []
    for rows in (1, 2, 4):
        process = subprocess.Popen(start, stderr=subprocess.DEVNULL, **place)
        while process.poll() is None and count_rows(killed / "history.csv") < rows:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        stopped.append(
            checkpoints.read_checkpoint(killed / "checkpoint.pt")["step"]
            if (killed / "checkpoint.pt").exists()
            else None
        )
    subprocess.run(start, check=True, capture_output=True, **place)
    total = (PRETRAIN if stage == "pretrain" else GAN).steps
    assert any(step is not None and step + 1 < total for step in stopped), (
        "the run was never stopped half-way"
    )
    networks = ["generator.safetensors"] + ["discriminator.safetensors"] * (stage == "gan")
    assert same_files(whole, killed, [*networks, "history.csv"])


def count_rows(path: Path) -> int:
    return max(0, len(path.read_text().splitlines()) - 1) if path.exists() else 0


def test_a_second_process_is_kept_out_of_a_run_until_the_first_ends(heads, tmp_path):
    out = tmp_path / "run"
    hold = f"lock = checkpoints.lock_folder(Path({str(out)!r}))"
    code = f"from test_training import *; {hold}; print('in', flush=True); input()"
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, **pipes
    ) as first:
        assert first.stdout.readline() == "in\n"
        with pytest.raises(RuntimeError, match="expected nobody training there, found another process"):
            run_pretrain(tmp_path / "prepared", out)
        assert not list(out.iterdir())
        first.kill()
    run_pretrain(tmp_path / "prepared", out)
    assert (out / "generator.safetensors").exists()


def test_a_stopped_run_does_not_keep_its_own_process_out(tmp_path):
    """In a notebook the traceback of a stopped cell keeps its lock alive."""
    first = checkpoints.lock_folder(tmp_path / "run")
    assert checkpoints.lock_folder(tmp_path / "run") is first


def test_a_finished_run_started_again_changes_nothing(heads, tmp_path):
    first = run_gan(tmp_path / "prepared", tmp_path / "run")
    before = (tmp_path / "run" / "generator.safetensors").read_bytes()
    pd.testing.assert_frame_equal(run_gan(tmp_path / "prepared", tmp_path / "run"), first)
    assert (tmp_path / "run" / "generator.safetensors").read_bytes() == before


def test_other_settings_start_anew_and_keep_the_old_run(heads, tmp_path, capsys):
    run_pretrain(tmp_path / "prepared", tmp_path / "run")
    old = (tmp_path / "run" / "generator.safetensors").read_bytes()
    history = run_pretrain(tmp_path / "prepared", tmp_path / "run", learning_rate=1e-4)
    assert list(history["step"]) == [2, 4, 6, 8, 9]
    assert "other settings (learning_rate); moved it to run.before-1" in capsys.readouterr().out
    assert (tmp_path / "run.before-1" / "generator.safetensors").read_bytes() == old
    assert (tmp_path / "run" / "generator.safetensors").read_bytes() != old


@pytest.mark.parametrize(
    ("stage", "settings", "less"),
    [("pretrain", {"steps": 6, "rate_schedule": "constant"}, 3), ("gan", {"steps": 9}, 6)],
)
def test_more_steps_and_other_looks_go_on_from_where_a_finished_run_ended(
    stage, settings, less, heads, tmp_path, capsys
):
    """No step of these depends on how many there are, so the weights are those of one run from the start."""
    prepared, whole, longer = tmp_path / "prepared", tmp_path / "whole", tmp_path / "longer"
    RUNS[stage](prepared, whole, **settings)
    looks = {"every": 4} | ({"validate_every": 5} if stage == "gan" else {})
    RUNS[stage](prepared, longer, **settings | {"steps": less} | looks)
    steps = RUNS[stage](prepared, longer, **settings)["step"]
    assert less in set(steps) and steps.iloc[-1] == settings["steps"] and steps.is_monotonic_increasing
    assert same_files(whole, longer, ["generator.safetensors"])
    assert not list(tmp_path.glob("*.before-*"))
    RUNS[stage](prepared, longer, **settings | {"steps": less})
    told = f"({settings['steps']} steps done, {less} asked for); moved it to longer.before-1"
    assert told in capsys.readouterr().out


def test_a_finished_cosine_goes_on_with_a_restart_where_it_ended(heads, tmp_path):
    prepared, whole, longer = tmp_path / "prepared", tmp_path / "whole", tmp_path / "longer"
    run_pretrain(prepared, whole, steps=6, restarts=[4])
    run_pretrain(prepared, longer, steps=4)
    assert list(run_pretrain(prepared, longer, steps=6, restarts=[4])["step"]) == [2, 4, 6]
    assert same_files(whole, longer, ["generator.safetensors"])
    assert not list(tmp_path.glob("*.before-*"))


def test_another_number_of_steps_is_another_run_where_the_rate_depends_on_it(heads, tmp_path, capsys):
    run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)
    run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=4)
    assert "other settings (steps); moved it to run.before-1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "setting", "values", "scores"),
    [
        ("pretrain", "validation_patches", (1, 3), ["l1", "psnr", "ssim"]),
        ("gan", "crop", (16, 24), ["psnr", "ssim", "nrmse"]),
    ],
)
def test_scores_of_other_validation_settings_never_share_a_table(
    stage, setting, values, scores, heads, tmp_path
):
    """Training is kept; the last row holds what a run with today's settings finds, no other row a score."""
    prepared, few = tmp_path / "prepared", {"steps": 4, "every": 2}
    few |= {"validate_every": 2} if stage == "gan" else {}
    first = RUNS[stage](prepared, tmp_path / "run", **few, **{setting: values[0]})
    assert first[scores].notna().all(axis=None)
    wanted = RUNS[stage](prepared, tmp_path / "wanted", **few, **{setting: values[1]})
    with pytest.warns(UserWarning, match="run: found scores measured with another choice of validation"):
        again = RUNS[stage](prepared, tmp_path / "run", **few, **{setting: values[1]})
    assert again[scores].iloc[:-1].isna().all(axis=None)
    np.testing.assert_array_equal(again[scores].iloc[-1], wanted[scores].iloc[-1])
    others = [c for c in first if c not in scores]
    pd.testing.assert_frame_equal(again[others], first[others])
    assert same_files(tmp_path / "run", tmp_path / "wanted", ["generator.safetensors"])
    assert not list(tmp_path.glob("*.before-*"))
    with warnings.catch_warnings(action="error"):
        opened = RUNS[stage](prepared, tmp_path / "run", **few, **{setting: values[1]})
    pd.testing.assert_frame_equal(opened, again)


def test_what_the_manifest_says_of_a_head_is_no_other_run(heads, tmp_path, capsys):
    run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)
    for change, moved in (({"group": "twins", "kind": "average"}, False), ({"keep": None}, True)):
        meta = heads["train"].folder / "meta.json"
        meta.write_text(json.dumps(json.loads(meta.read_text()) | change))
        run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)
        assert ("(training patches); moved it" in capsys.readouterr().out) == moved


@pytest.mark.parametrize("stage", RUNS)
def test_a_checkpoint_from_before_a_setting_is_resumed(stage, heads, tmp_path):
    """It was made with the setting's default."""
    RUNS[stage](tmp_path / "prepared", tmp_path / "run", steps=2)
    change_fingerprint(tmp_path / "run", without=("weight_clip", "norm_patches"))
    RUNS[stage](tmp_path / "prepared", tmp_path / "run", steps=2)
    assert not list(tmp_path.glob("*.before-*"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"without": ("checkpoint format",)}, "(checkpoint format)"),  # what every older checkpoint lacks
        ({"gone_since": 1}, "(gone_since)"),
    ],
)
def test_a_checkpoint_of_another_version_is_moved_aside(change, words, heads, tmp_path, capsys):
    run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)
    change_fingerprint(tmp_path / "run", **change)
    run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)
    assert f"other settings {words}; moved it to run.before-1" in capsys.readouterr().out
    assert (tmp_path / "run.before-1" / "checkpoint.pt").exists()


def change_fingerprint(run: Path, without=(), **added) -> None:
    state = checkpoints.read_checkpoint(run / "checkpoint.pt")
    facts = {k: v for k, v in state["fingerprint"].items() if k not in without}
    torch.save(state | {"fingerprint": facts | added}, run / "checkpoint.pt")


def test_no_random_number_of_a_run_depends_on_the_models_that_there_are(heads, tmp_path, monkeypatch):
    RUNS["gan"](tmp_path / "prepared", tmp_path / "few", steps=2)
    models = {"DCSRN": comparators.DCSRN, **networks.MODELS, "another": comparators.FSRCNN3d}
    monkeypatch.setattr(networks, "MODELS", models)
    RUNS["gan"](tmp_path / "prepared", tmp_path / "more", steps=2)
    assert same_files(tmp_path / "few", tmp_path / "more", ["discriminator.safetensors"])


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_said_and_training_goes_on(code, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.warns(UserWarning, match=f"found one without .{os.strerror(code)}"):
        checkpoints.lock_folder(tmp_path / "run")


def test_g_changes_in_g_steps_and_in_no_other(heads, tmp_path):
    """One checkpoint a step: between two of them the generator differs exactly where the schedule says G."""
    history = run_gan(tmp_path / "prepared", tmp_path / "run", every=1)
    moved = [0.0, *history["weight_change"]]
    schedule = [
        training.gan_schedule(s, GAN.warmup, GAN.d_per_g, GAN.extra_every, GAN.extra)
        for s in range(GAN.steps)
    ]
    assert "".join("D" if a == b else "G" for a, b in itertools.pairwise(moved)) == "".join(schedule)
    assert history["g_steps"].iloc[-1] == schedule.count("G") > 0
    assert history["l1"].notna().tolist() == [s == "G" for s in schedule]
    assert math.isfinite(history["psnr"].iloc[-1])


def test_merged_volumes_are_validated_when_they_are_due(heads, tmp_path):
    """Also where that is no multiple of the steps between checkpoints."""
    history = run_gan(tmp_path / "prepared", tmp_path / "run", steps=8, every=4, validate_every=3)
    assert list(history.dropna(subset=["psnr"])["step"]) == [3, 6, 8]


def test_the_gan_stage_runs_in_bfloat16(heads, tmp_path):
    few = {"steps": 4, "warmup": 2, "d_per_g": 1, "every": 1, "validate_every": 4}
    exact, rounded = (
        run_gan(tmp_path / "prepared", tmp_path / name, name, **few) for name in ("32-true", "bf16-mixed")
    )
    assert list(rounded["penalty"].notna()) == list(exact["penalty"].notna())
    np.testing.assert_allclose(rounded["l1"], exact["l1"], rtol=0.02)


def test_the_penalty_in_bfloat16_is_that_of_the_slope():
    """A discriminator of slope 3 everywhere: the penalty is (3 - 1)^2, and D learns from it."""
    fabric = training.make_fabric("cpu", "bf16-mixed")
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 1), torch.nn.Flatten(0))
    torch.nn.init.constant_(linear[1].weight, 3 / 8)  # a norm of 3 over 64 voxels
    wrapped, _ = fabric.setup(linear, torch.optim.Adam(linear.parameters()))
    real, fake = torch.rand(2, 2, 1, 4, 4, 4)
    plain = training.without_wrapper(linear, fabric)
    loss, parts = losses.discriminator_loss(wrapped, real, fake, torch.rand(2), penalised=plain)
    fabric.backward(loss)
    assert parts["penalty"] == pytest.approx(4)
    # of (norm - 1)^2, ten times, each weight's share of the norm; the scores add at most 1
    assert linear[1].weight.grad.mean() == pytest.approx(10 * 2 * 2 / 8, abs=1)


def test_batchnorm_statistics_stay_those_of_pretraining(heads, tmp_path):
    run_gan(tmp_path / "prepared", tmp_path / "run")
    before, after = (
        load_generator(p).state_dict()
        for p in (tmp_path / "start.safetensors", tmp_path / "run" / "generator.safetensors")
    )
    assert all(torch.equal(before[k], after[k]) for k in before if "running" in k)


def test_a_damaged_checkpoint_is_named(heads, tmp_path):
    run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(
        ValueError, match="checkpoint.pt: expected a training checkpoint, found one that cannot be read"
    ):
        run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)


def test_a_loss_that_is_not_finite_ends_the_run(heads, tmp_path):
    lr = np.load(heads["train"].folder / "lr.npy")
    np.save(heads["train"].folder / "lr.npy", lr * np.float32(np.nan))
    with pytest.raises(FloatingPointError, match="run: step 0: expected a finite train_l1, found nan"):
        run_pretrain(tmp_path / "prepared", tmp_path / "run", steps=2)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="'constant' or 'cosine', found 'linear'"):
        training.PretrainSettings(steps=1, rate_schedule="linear")
    for restarts in ([0], [9], [6, 3]):
        with pytest.raises(ValueError, match="restarts must rise between 0 and 9 steps, found"):
            training.PretrainSettings(steps=9, rate_schedule="cosine", restarts=restarts)
