"""Warnings about scans that the shipped weights never saw, or learned from."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_head

from sprl_utils.extras import weights
from sprl_utils.files import sha256
from sprl_utils.scans.batch import scan_facts
from sprl_utils.scans.cli import main
from sprl_utils.scans.unfamiliar import unfamiliar, voxels_sha256
from sprl_utils.volumes import Volume, read_volume

CARD = weights.read_card()
ENTRY = CARD["EDSR_2x2.safetensors"]
#: A head as a scanner gives it: noise, whole numbers, nothing below 0.
NOISE = np.random.default_rng(0).normal(0, 20, (40, 44, 38))
HEAD = np.rint(np.maximum(make_head() * 1000 + NOISE, 0)).astype(np.float32)


def told(data=HEAD, name="scan.nii.gz", edge=1.0, folder=Path("nowhere")):
    scan = Volume(np.float32(data), np.diag([*np.broadcast_to(edge, 3), 1]), nib.Nifti1Header())
    return unfamiliar(scan, folder / name, scan_facts(folder / name), data.shape, ENTRY, CARD)


@pytest.mark.parametrize(
    "name",
    [
        "scan.nii.gz", "sub-01_T1w.nii.gz", "sub-PD_T1w.nii.gz", "sub-T2_ses-2_acq-mprage_T1w.nii",
        "PD_012_T1_MPRAGE.nii.gz", "100307_3T_T1w_MPR1.nii.gz", "t1_after_t2.mgz", "patient_ct2.nii",
    ],
)  # fmt: skip
def test_a_head_of_the_kind_that_was_learned_gets_no_warning(name):
    assert told(name=name) == []


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("sub-01_T2w.nii.gz", "T2w"), ("sub-01_acq-T1_FLAIR.nii", "FLAIR"), ("anna_pd.nii.gz", "pd"),
        ("sub-01_T2starw.nii.gz", "T2starw"), ("sub-01_task-rest_bold.nii", "bold"), ("x-DWI-2.mgz", "DWI"),
        ("sub-01_part-mag_PDw.nii.gz", "PDw"), ("my_T2tse.nii", "T2tse"), ("brain_FLAIR3D.nii", "FLAIR3D"),
        ("sub-1_dseg.nii.gz", "dseg"), ("HEAD_CT.NII.GZ", "CT"),
    ],
)  # fmt: skip
def test_another_contrast_is_told_by_its_name(name, word):
    (sentence,) = told(name=name)
    assert f"name says {word}, " in sentence


@pytest.mark.parametrize("key", ["SeriesDescription", "ProtocolName"])
def test_another_contrast_is_told_by_the_sidecar(tmp_path, key):
    (tmp_path / "scan.json").write_text(json.dumps({key: "t2_tse_sag"}))
    (sentence,) = told(folder=tmp_path)
    assert "JSON sidecar says t2" in sentence
    assert told(name="scan.nii", folder=tmp_path) and not told(name="other.nii", folder=tmp_path)
    (tmp_path / "scan.json").write_text(json.dumps({key: "T1 MPRAGE"}))
    assert told(folder=tmp_path) == []
    for content in ("", "[1]", "{", '"text"'):  # nothing that tells
        (tmp_path / "scan.json").write_text(content)
        assert told(folder=tmp_path) == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.where(HEAD > 300, 40 + HEAD / 20, -1024), "CT"),
        ((HEAD - HEAD.mean()) / HEAD.std(), "below 0"),
        ((HEAD > 300).astype(float), "mask"),
        (np.rint(make_head() * 10), "label map"),
        (np.rint(make_head() * 10) / 2, "label map"),
        (HEAD + 1000, "far above 0"),
    ],
)
def test_values_tell_what_is_no_magnitude_image(data, words):
    (sentence,) = told(data)
    assert words in sentence


@pytest.mark.parametrize("data", [HEAD, HEAD / 1000, np.minimum(HEAD // 8, 255), HEAD - 1])
def test_values_of_magnitude_images_tell_nothing(data):
    """Whole numbers, shares of 1, eight bits, and the rounding of a resampling below 0."""
    assert told(data) == []


@pytest.mark.parametrize(("edge", "is_told"), [(0.3, 1), (0.7, 0), (1, 0), ((1, 1, 1.25), 0), ((1, 1, 5), 1)])
def test_voxels_far_from_1_mm(edge, is_told):
    assert len(told(edge=edge)) == is_told


def test_voxels_are_those_of_the_result():
    scan = Volume(HEAD, np.diag([1, 1, 4, 1.0]), nib.Nifti1Header())
    assert unfamiliar(scan, Path("scan.nii"), {}, (40, 44, 38 * 4), ENTRY, CARD) == []


def test_tiny_volumes():
    (sentence,) = told(HEAD[:, :, :20])
    assert "40 x 44 x 20 voxels" in sentence


@pytest.fixture
def learned(tmp_path, monkeypatch):
    """A head that shipped weights learned from, and a card that says so, with weights that did not."""
    path = tmp_path / "anna.nii.gz"
    nib.save(nib.Nifti1Image(HEAD, np.diag([1, 2, 3, 1.0])), path)
    hashes = {sha256(path): "anna", voxels_sha256(read_volume(path)): "anna"}
    card = {
        "all.safetensors": {"keep": 0.5, "trained_on": ["anna", "ben"], "trained_on_sha256": hashes},
        "other.safetensors": {"keep": 0.25, "trained_on": ["ben"], "trained_on_sha256": {}},
        "without.safetensors": {"keep": 0.5, "trained_on": ["ben"], "trained_on_sha256": {}},
    }
    return path, lambda file, entry="all.safetensors": [
        sentence
        for sentence in unfamiliar(read_volume(file), file, {}, HEAD.shape, card[entry], card)
        if "anna" in sentence
    ]


def test_a_training_head_is_known_again(learned, tmp_path):
    path, told = learned
    image, copies = nib.load(path), {}
    copies["renamed.nii.gz"] = path.read_bytes()
    copies["unpacked.nii"] = gzip.decompress(path.read_bytes())
    for name, content in copies.items():
        (tmp_path / name).write_bytes(content)
    nib.save(nib.Nifti1Image(HEAD.astype(np.int16), image.affine), tmp_path / "short.nii")
    nib.save(image.as_reoriented([[2, -1], [0, 1], [1, -1]]), tmp_path / "turned.nii")
    nib.save(nib.MGHImage(HEAD, image.affine), tmp_path / "free.mgz")
    for name in (*copies, "short.nii", "turned.nii", "free.mgz"):
        (sentence,) = told(tmp_path / name)
        assert "without" in sentence
    assert not told(path, "without.safetensors")


def test_a_degraded_training_head_is_known_again(learned, tmp_path):
    """What README shows, ``sprl degrade`` and then ``sprl super-resolve``, measures nothing on it."""
    path, told = learned
    lr, other = tmp_path / "lr.nii.gz", tmp_path / "other.nii.gz"
    for file in (lr, tmp_path / "lr.mgz", tmp_path / "lr.mgh"):
        assert main(["degrade", str(path), str(file)]) == 0
        assert len(told(file)) == 1
    nib.save(nib.Nifti1Image(HEAD + 1, np.eye(4)), other)
    assert main(["degrade", str(other), str(lr), "--force"]) == 0
    assert not told(lr)


def test_the_card_knows_the_heads_of_the_manifest():
    """Without the manifest, which an installed package does not have."""
    from sprl_utils.manifest import read_manifest

    manifest = Path(__file__).parents[1] / "data_manifest" / "people.csv"
    listed = {s.id: set(s.hashes) for s in read_manifest(manifest)}
    for entry in CARD.values():
        known = entry["trained_on_sha256"]
        assert all(listed[head] <= set(known) for head in entry["trained_on"])
        assert set(known.values()) <= set(entry["trained_on"])
        for head in known.values():  # one name per file, which several rows of the manifest may share
            assert {told for told, name in known.items() if name == head} > listed[head]  # and the voxels'


def test_a_warning_is_one_line_of_stderr_and_keeps_nothing_from_being_done(tmp_path, capsys):
    scan = tmp_path / "sub-1_T2w.nii.gz"
    nib.save(nib.Nifti1Image(HEAD, np.diag([1, 2, 1, 1.0])), scan)
    call = ["super-resolve", str(scan), str(tmp_path / "out.nii.gz"), "--voxel-size", "1", "--quiet"]
    assert main(call) == 0
    said = capsys.readouterr()
    start = "sprl super-resolve: sub-1_T2w.nii.gz: warning: "
    assert said.out == "" and any("T2w, " in line.removeprefix(start) for line in said.err.splitlines())
    assert all(line.startswith(start) and line.endswith(".") for line in said.err.splitlines())
