"""Several processes on one machine (gloo): what they learn, and what happens when one of them dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from conftest import make_head, write_prepared
from test_training import RUNS, count_rows, same_files

from sprl_utils import checkpoints, training
from sprl_utils.extras import stages

REPOSITORY = Path(__file__).parents[1]
FROZEN = {"pretrain": {"norm_patches": 3}, "gan": {}}  # the GAN stage never changes BatchNorm's statistics


def in_two(stage: str, prepared: Path, out: Path, **changes) -> subprocess.Popen:
    """The run of test_training in two processes with half the batch in each."""
    changes = {**FROZEN[stage], "batch_size": 1, **changes}
    code = out.with_name(f"{out.name}.py")
    paths = [str(REPOSITORY), str(REPOSITORY / "tests")]
    code.write_text(
        f"import sys; sys.path[:0] = {paths}\nfrom test_training import *\n"
        f"RUNS[{stage!r}](Path({str(prepared)!r}), Path({str(out)!r}), **{changes!r})"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(code)]
    return subprocess.Popen(command, env=os.environ | {"SPRL_TEST_THREADS": "1"}, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen) -> str:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]
    return errors.decode()


@pytest.mark.parametrize("stage", RUNS)
def test_two_processes_learn_what_one_learns_from_the_doubled_batch(stage, heads, tmp_path):
    """Adam's first moments are averages of the gradients; the discriminator's hold the gradient penalty."""
    prepared, one, two = (tmp_path / name for name in ("prepared", "one", "two"))
    RUNS[stage](prepared, one, batch_size=2, **FROZEN[stage])
    finish(in_two(stage, prepared, two))
    alone, shared = (checkpoints.read_checkpoint(out / "checkpoint.pt") for out in (one, two))
    for optimizer in (name for name in alone if "optimizer" in name):
        gradients = [state[optimizer]["state"].values() for state in (alone, shared)]
        for a, b in zip(*gradients, strict=True):
            a, b = a["exp_avg"], b["exp_avg"]
            assert (a - b).abs().max() <= 1e-3 * a.abs().max(), optimizer
    for network in (name for name in alone if name in ("generator", "discriminator")):
        for key, value in alone[network].items():
            torch.testing.assert_close(shared[network][key], value, rtol=1e-3, atol=1e-5)
    columns = {column: float for column in ("train_l1", "wasserstein", "penalty", "l1")}
    histories = [pd.read_csv(out / "history.csv", dtype=columns) for out in (one, two)]
    pd.testing.assert_frame_equal(*histories, rtol=1e-3)


def test_one_process_is_killed_and_the_run_goes_on_from_its_checkpoint(heads, tmp_path):
    prepared, whole, killed = (tmp_path / name for name in ("prepared", "whole", "killed"))
    finish(in_two("pretrain", prepared, whole, steps=40))
    run = in_two("pretrain", prepared, killed, steps=40)
    while run.poll() is None and count_rows(killed / "history.csv") < 2:
        time.sleep(0.01)
    workers = [p for p in psutil.Process(run.pid).children(recursive=True) if "killed.py" in p.cmdline()[-1]]
    workers[-1].send_signal(signal.SIGKILL)
    _, errors = run.communicate(timeout=120)
    assert run.returncode != 0 and "Signal 9 (SIGKILL)" in errors.decode()
    assert not any(worker.is_running() for worker in workers), "a process outlived the run"
    assert 0 < checkpoints.read_checkpoint(killed / "checkpoint.pt")["step"] < 39
    finish(in_two("pretrain", prepared, killed, steps=40))
    assert same_files(whole, killed, ["generator.safetensors", "history.csv"])


def test_all_processes_score_anew_where_the_validation_settings_changed(heads, tmp_path):
    prepared, out = tmp_path / "prepared", tmp_path / "run"
    finish(in_two("pretrain", prepared, out, steps=2))
    weights = (out / "generator.safetensors").read_bytes()
    told = finish(in_two("pretrain", prepared, out, steps=2, validation_patches=3))
    assert told.count("found scores measured with another choice of validation_patches") == 1
    assert (out / "generator.safetensors").read_bytes() == weights
    assert checkpoints.read_checkpoint(out / "checkpoint.pt")["validated_on"]["validation_patches"] == 3


@pytest.fixture
def checkout(tmp_path, monkeypatch) -> Path:
    """A checkout with its own runs/, in which one profile is prepared."""
    for name in ("sprl_utils", "notebooks"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    prepared = tmp_path / "runs" / "tiny" / "prepared"
    for i, split in enumerate(("train", "validation")):
        write_prepared(prepared, split, split, make_head(seed=i))
    (prepared / "index.json").write_text('["train", "validation"]')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plan(stage: str) -> dict:
    gan = stage == "gan"
    settings = training.GanSettings(2, warmup=1, d_per_g=1, patch_size=16, width=2, every=1)
    return {
        "profile": "tiny",
        "stage": stage,
        "patches": {"kind": "random", "patch_size": 16, "seed": 2 * gan, "flips": True},
        "validation": {"crop": [16, 16, 16]} if gan else {"patches": 2, "patch_size": 16, "seed": 1},
        "start": "runs/tiny/pretrain/generator.safetensors" if gan else "",
        "device": "cpu",
        "precision": "32-true",
        "settings": vars(settings if gan else training.PretrainSettings(2, init="identity", every=1)),
    }  # fmt: skip


def test_a_plan_gives_the_same_run_from_the_shell_and_from_a_notebook(checkout):
    """What the notebook trains in two processes is what torchrun on its plan finds finished."""
    stages.train(plan("pretrain"))
    shown = []
    history = stages.train(plan("gan"), 2, shown.append)
    first = checkpoints.read_checkpoint(checkout / "runs/tiny/gan/checkpoint.pt")
    assert first["fingerprint"]["processes"] == 2
    (checkout / "runs/tiny/gan").rename(checkout / "notebook")
    command, environment = stages.torchrun_command(checkout / "runs/tiny/gan_plan.json", 2)
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert "weight_change" in done.stdout
    pd.testing.assert_frame_equal(history, pd.read_csv(checkout / "runs/tiny/gan/history.csv"))
    again = checkpoints.read_checkpoint(checkout / "runs/tiny/gan/checkpoint.pt")
    assert again["fingerprint"] == first["fingerprint"]


def test_processes_that_fail_are_reported_in_one_line(checkout):
    with pytest.raises(RuntimeError, match=r"expected 2 processes .* see runs/tiny/gan.log"):
        stages.train(plan("gan"), 2)  # nothing was pretrained
    told = (checkout / "runs/tiny/gan.log").read_text(encoding="utf-8")
    assert "pretrain/generator.safetensors: expected" in told
