"""Ablations: what a variant changes, and what it must leave alone."""

import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

from sprl_utils.comparison import ablation
from sprl_utils.comparison.ablation import VARIANTS, Variant
from sprl_utils.extras.compiled import SHARE
from sprl_utils.inference import OVERHEAD_GIB
from sprl_utils.manifest import Subject
from sprl_utils.networks import Generator, make_generator
from sprl_utils.patches import Prepared
from sprl_utils.prepare import Recipe, load_prepared, volume_arrays, write_prepared
from sprl_utils.profiles import read_profile
from sprl_utils.provenance import repo_root
from sprl_utils.tiles import grow, plan_tiles
from sprl_utils.training import GanSettings, PretrainSettings, make_fabric
from sprl_utils.volumes import Volume


@pytest.fixture(scope="module")
def heads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    splits = ("train", "validation", "test")
    for split in splits:
        subject = Subject(split, "local", "", group=split, split=split)
        volume = Volume(rng.random((24, 26, 28), dtype=np.float32), np.eye(4), None)
        with pytest.warns(UserWarning, match="no brain"):
            write_prepared(
                folder / split, subject, *volume_arrays(subject, volume, Recipe()), {"axes": [1, 2]}
            )
    (folder / "index.json").write_text(json.dumps(splits))
    return {split: load_prepared(folder, split) for split in splits}


@pytest.fixture(scope="module")
def run(heads, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablations")
    pretraining = PretrainSettings(
        steps=2, batch_size=1, init="edges", learning_rate=1e-3, average=0.5, every=2
    )
    gan = GanSettings(steps=3, batch_size=1, warmup=1, d_per_g=1, patch_size=16, width=4, learning_rate=1e-3)
    fabric = make_fabric("cpu", "32-true")
    return lambda name: ablation.run(VARIANTS[name], heads, out, pretraining, gan, fabric, 16)


def test_a_gan_stage_without_generator_steps_changes_no_digit(run):
    reference, untrained, trained = (run(n) for n in ("reference", "GAN, G never trained", "GAN"))
    pd.testing.assert_frame_equal(reference, untrained)
    assert not np.array_equal(reference["psnr"], trained["psnr"])


def test_a_variant_in_the_runs_own_precision_changes_no_digit(run):
    pd.testing.assert_frame_equal(run("reference"), run("trained in fp32"))


def test_a_margin_of_3_gives_another_image_from_the_same_weights(run):
    """The head fits into one cube of 64: what differs is the zero padding around it."""
    exact, cubes = run("reference"), run("cubes with a margin of 3")
    assert exact["input_psnr"].equals(cubes["input_psnr"])
    difference = abs(exact["psnr"] - cubes["psnr"]).max()
    assert 0 < difference < 1  # the same network, not another


def test_own_maximum_puts_the_brightest_voxels_of_lr_and_hr_level(heads, tmp_path):
    (head,) = heads["test"]
    other = ablation.with_lr(head, tmp_path, Variant(lr="own maximum"))
    assert other.lr.max() == pytest.approx(head.hr.max())
    np.testing.assert_allclose(other.lr / other.lr.max(), head.lr / head.lr.max(), rtol=1e-6)
    np.testing.assert_array_equal(other.hr, head.hr)


def test_more_kept_samples_leave_less_to_restore(heads, tmp_path):
    (head,) = heads["test"]
    half = ablation.with_lr(head, tmp_path, Variant(keep=0.5))
    assert half.meta["keep"] == [None, 0.5, 0.5]
    assert np.abs(half.lr - half.hr).mean() < np.abs(head.lr - head.hr).mean()


def test_an_unknown_lr_is_refused():
    with pytest.raises(ValueError, match="lr must be one of 'zero-filled', .* found 'sinc'"):
        Variant(lr="sinc")


def test_fewer_people_train_with_all_of_their_scans(heads, tmp_path, monkeypatch):
    (head,) = heads["train"]
    scans = []
    for number, group in enumerate("abac"):
        scan = Prepared(shutil.copytree(head.folder, tmp_path / f"scan{number}"))
        (scan.folder / "meta.json").write_text(
            json.dumps(head.meta | {"id": f"scan{number}", "group": group})
        )
        scans.append(scan)
    trained_on = []
    monkeypatch.setattr(ablation, "pretrain", lambda train, *_: trained_on.append(train.subjects))
    settings = PretrainSettings(steps=1), GanSettings(steps=1), make_fabric("cpu", "32-true")
    for people in (1, 2, 0):
        ablation._train(Variant(people=people), heads | {"train": scans}, tmp_path, *settings, 16)
    names = [[h.meta["id"][-1] for h in found] for found in trained_on]
    assert names == [["0", "2"], ["0", "1", "2"], ["0", "1", "2", "3"]]


def test_effects_are_paired_by_seed():
    scores = pd.DataFrame(
        [("reference", 0, 20.0), ("reference", 1, 30.0), ("other", 0, 21.0), ("other", 1, 30.5)],
        columns=["variant", "seed", "psnr"],
    ).assign(subject="x", ssim=0.5, input_psnr=19.0, multiply_adds=1)
    row = ablation.effects(scores).loc["other"]
    assert row["psnr_change"] == 0.75 and (row["psnr_change_least"], row["psnr_change_most"]) == (0.5, 1.0)
    assert row["gain"] == 6.75 and row["seeds"] == 2


def test_a_variant_trains_for_steps_of_its_own(heads, tmp_path):
    """Steps of one variant change, those of the others do not, and the pace counts them."""
    pretraining, gan = (
        PretrainSettings(steps=3, batch_size=1, every=1),
        GanSettings(steps=2, patch_size=16, width=4),
    )
    known = {"reference": Variant(), "FSRCNN": ablation.COMPARATORS["FSRCNN"], "GAN": VARIANTS["GAN"]}
    chosen = ablation.with_steps(known, {"FSRCNN": 1}, {"GAN": 4})
    fabric = make_fabric("cpu", "32-true")
    for name, steps in {"reference": 3, "FSRCNN": 1}.items():
        ablation.run(chosen[name], heads, tmp_path / name, pretraining, gan, fabric, 16)
        (history,) = (tmp_path / name).rglob("history.csv")
        assert pd.read_csv(history)["step"].iloc[-1] == steps
    pace = ablation.pace(chosen, pretraining, gan, fabric, 16).set_index("variant")
    assert list(pace["steps"]) == [3, 1, 4]
    np.testing.assert_allclose(pace["minutes"] * 60, pace["seconds_per_step"] * pace["steps"])


@pytest.mark.parametrize("profile", ["ablations", "comparison"])
def test_what_make_study_asks_for_fits_the_memory(profile, heads):
    """SRResNet sees 41 voxels to each side: its tiles must fit before hours are spent on training it."""
    values = read_profile(repo_root() / f"notebooks/profiles/{profile}.yaml")
    known = ablation.VARIANTS | ablation.COMPARATORS
    chosen = {name: known[name] for name in values["ablations"] or ablation.VARIANTS}
    ablation.check(chosen, heads, "mDCSRN")
    for variant in chosen.values():
        generator = make_generator(variant.pretrain.get("model", "mDCSRN"))
        if isinstance(generator, Generator):
            continue  # runs in one piece, or as a stream that computes no voxel twice
        crop, halo = values["crop"], generator.receptive_radius
        voxels = (4 - OVERHEAD_GIB) * 2**30 / generator.bytes_per_voxel / SHARE[torch.float32]
        boxes = plan_tiles(crop, halo, int(voxels))
        read = sum(math.prod(s.stop - s.start for s in grow(box, halo, crop)) for box in boxes)
        assert read < 1.2 * math.prod(crop)  # hardly a voxel is computed twice


def test_what_would_fail_after_training_is_found_before(heads):
    with pytest.raises(ValueError, match="expected 'reference' among them, found GAN"):
        ablation.check({"GAN": Variant(gan={})}, heads, "mDCSRN")
    variants = {"SRResNet": Variant(pretrain={"model": "SRResNet"}), "reference": Variant()}
    with pytest.raises(ValueError, match="halo of 41 needs tiles"):
        ablation.check(variants, heads, "mDCSRN", memory_gib=0.516)
