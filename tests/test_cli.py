"""``sprl`` on files: places, units, headers, and what goes wrong."""

import bz2
import gzip
import json
import os
import re
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import like_a_scan

from sprl_utils import __version__
from sprl_utils.files import sha256
from sprl_utils.kspace import resample, truncate_kspace
from sprl_utils.manifest import read_manifest
from sprl_utils.networks import Generator, cpu_multiplies_bf16, save_weights
from sprl_utils.scans import cli, progress
from sprl_utils.scans.cli import main
from sprl_utils.volumes import read_volume

FINER = ["--upsample", "1", "2", "2"]
AFFINE = np.array([[0, 0, 1.0, -40], [-0.9, 0.1, 0, 30], [0.1, 0.8, 0, -20], [0, 0, 0, 1]])  # oblique


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    save_weights(Generator(init="identity"), path)
    return path


def blob(shape=(12, 10, 14), centre=(5, 4, 6), width=1.5):
    """A smooth point source: its centre of mass is its place."""
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return np.exp(-(grid**2).sum(0) / (2 * width**2)).astype(np.float32)


def save(path, data, affine=AFFINE, dtype=np.int16):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image((data * 1000).astype(dtype), affine)
    image.header["descrip"] = b"from the scanner"
    nib.save(image, path)
    return path


def test_units_header_and_description(tmp_path, weights):
    scan, out = save(tmp_path / "scan.nii", blob()), tmp_path / "out.nii"
    assert main(["super-resolve", str(scan), str(out), "--weights", str(weights), *FINER]) == 0
    before, after = nib.load(scan), nib.load(out)
    assert after.shape == (12, 20, 28)
    np.testing.assert_allclose(after.affine[:3, :3], before.affine[:3, :3] * [1, 0.5, 0.5])
    coarse = resample(after.get_fdata(), before.shape)
    np.testing.assert_allclose(coarse, before.get_fdata(), atol=10)  # of 1000
    assert b"identity.safetensors: super-resolved" in after.header["descrip"].tobytes()


@pytest.mark.parametrize(("size", "first"), [("1 1 1", True), ("1", True), ("1", False), ("=1,1,1", False)])
def test_voxel_size_is_one_number_or_three(tmp_path, weights, size, first):
    scan = save(tmp_path / "thick.nii.gz", blob(), np.diag([1.0, 2.0, 4.0, 1.0]))
    files = [str(scan), str(tmp_path / "out.nii.gz")]
    size = f"--voxel-size {size}".replace(" =", "=").split()
    call = [*size, *files] if first else [*files, *size]
    assert main(["super-resolve", "--weights", str(weights), *call]) == 0
    np.testing.assert_allclose(nib.load(files[1]).header.get_zooms(), [1, 1, 1])


@pytest.mark.parametrize(
    ("sidecar", "option", "slices"),
    [({}, [], True), ({"MRAcquisitionType": "3D"}, [], False), ({"MRAcquisitionType": "2D"}, [], True),
     ({"MRAcquisitionType": "3D"}, ["--acquisition", "2D"], True), ({}, ["--acquisition", "3D"], False),
     ({"MRAcquisitionType": " 3d"}, [], False), ([], [], True)],
)  # fmt: skip
def test_slices_are_means_unless_the_scan_is_3d(tmp_path, weights, capsys, sidecar, option, slices):
    scan = save(tmp_path / "thick.nii.gz", blob(), np.diag([1.0, 1.0, 4.0, 1.0]))
    (tmp_path / "thick.json").write_text(json.dumps(sidecar))
    call = [str(scan), str(tmp_path / "out.nii.gz"), "--voxel-size", "1", "--sidecar", *option]
    assert main(["super-resolve", "--weights", str(weights), *call]) == 0
    assert ("slices along axis 2" in capsys.readouterr().out) == slices
    assert json.loads((tmp_path / "out.json").read_text())["SliceAxis"] == (2 if slices else None)


def test_what_is_said_in_vain_is_warned_of(tmp_path, weights, capsys):
    """A sidecar that nobody can read, and slices that stay as thick as they are."""
    scan = save(tmp_path / "thick.nii.gz", blob(), np.diag([1.0, 1.0, 4.0, 1.0]))
    (tmp_path / "thick.json").write_bytes("{'MRAcquisitionType': '3D'}".encode("utf-16"))
    call = [str(scan), str(tmp_path / "out.nii.gz"), "--upsample", "2 2 1", "--acquisition", "2d"]
    assert main(["super-resolve", "--weights", str(weights), *" ".join(call).split()]) == 0
    said = capsys.readouterr().err
    assert "thick.json: expected JSON" in said and "2D changes nothing" in said


def test_a_zero_filled_scan_gets_the_weights_for_its_cut_and_its_measured_part_back(tmp_path, capsys):
    """The network's guess may change what was cut, and nothing else."""
    path, out = tmp_path / "hr.nii.gz", tmp_path / "out.nii.gz"
    save(path, like_a_scan((48, 64, 64)), dtype=np.float32)
    for keep, name in (("0.25", "EDSR_4x4"), ("0.5", "EDSR_2x2")):
        lr = tmp_path / f"lr{keep}.nii.gz"
        assert main(["degrade", str(path), str(lr), "--keep", keep]) == 0
        assert main(["super-resolve", str(lr), str(out), "--force"]) == 0
        told = capsys.readouterr().out
        assert name in told and f"k-space: 48 x {64 * float(keep):.0f} x {64 * float(keep):.0f}," in told
        sr, low = (nib.load(file).get_fdata() for file in (out, lr))
        share = [None, float(keep), float(keep)]
        measured = [truncate_kspace(np.float32(image), share) for image in (sr, low)]
        assert np.std(measured[0] - measured[1]) < 0.2 * np.std(sr - low)
    assert main(["super-resolve", str(path), str(out), "--force"]) == 1  # nothing of it is missing
    assert capsys.readouterr().err.count("\n") == 1


def refused(call):
    """Arguments that make no sense: exit code 2."""
    with pytest.raises(SystemExit) as stopped:
        main(call)
    assert stopped.value.code == 2


@pytest.fixture
def resolve(weights):
    """``sprl super-resolve`` to the double of two axes, with a network that changes nothing."""
    return lambda *args: main(["super-resolve", *map(str, args), "--weights", str(weights), *FINER])


@pytest.fixture
def no_network(monkeypatch):
    """For what does not depend on the images: the scan comes back, as its own result and SD."""
    calls = []

    def sharpen(scan, *args, **options):
        calls.append(scan)
        return scan, scan if options["uncertainty"] else None

    monkeypatch.setattr(cli, "sharpen", sharpen)
    return calls


# ---- many scans ---------------------------------------------------------------------------------------


def test_a_folder_goes_on_past_a_bad_file(tmp_path, resolve, capsys):
    for name in ("a.nii.gz", "b.nii"):
        save(tmp_path / "in" / name, blob())
    (tmp_path / "in/bad.nii.gz").write_bytes(b"not a scan")
    assert resolve(tmp_path / "in", tmp_path / "out") == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a_sr.nii.gz", "b_sr.nii.gz"]
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "bad.nii.gz: expected a volume" in said.err
    assert "2 of 3 files done" in said.out
    assert said.err.count("bad.nii.gz") == 1  # no stutter


def test_every_file_of_a_folder_is_done_or_named(tmp_path, resolve, capsys):
    folder = tmp_path / "in"
    content = save(folder / "a.nii", blob()).read_bytes()
    (folder / "SCAN.NII.GZ").write_bytes(gzip.compress(content))
    (folder / "z.nii.bz2").write_bytes(bz2.compress(content))
    nib.save(nib.Nifti1Pair(blob(), AFFINE), folder / "pair.hdr")
    nib.save(nib.MGHImage(blob(), AFFINE), folder / "free.mgz")
    save(tmp_path / "elsewhere.nii.gz", blob())
    (folder / "link.nii.gz").symlink_to("../elsewhere.nii.gz")
    (folder / "broken.nii.gz").symlink_to("nowhere.nii.gz")
    (folder / "a.json").write_text("{}")  # read with a.nii
    (folder / "._a.nii").write_bytes(b"of macOS")
    (folder / "notes.txt").write_text("")
    (folder / "more").mkdir()
    assert resolve(folder, tmp_path / "out") == 1  # the broken link is a scan that is missing
    done = {p.name for p in (tmp_path / "out").iterdir()}
    assert done == {f"{name}_sr.nii.gz" for name in ("a", "SCAN", "z", "pair", "free", "link")}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for name in ("notes.txt", "more", "broken.nii.gz"):
        assert sum(name in line for line in lines) == 1


def test_several_names_and_a_pattern(tmp_path, resolve, no_network):
    scans = [save(tmp_path / folder / f"{folder}.nii.gz", blob()) for folder in ("a", "b", "c")]
    assert resolve(*scans[:2], tmp_path / "out") == 0
    assert resolve(tmp_path / "**" / "[bc].nii.gz", tmp_path / "out", "--skip-existing") == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {f"{n}_sr.nii.gz" for n in "abc"}


def test_results_in_the_same_folder_are_no_scans(tmp_path, resolve, capsys, no_network):
    save(tmp_path / "a.nii.gz", blob())
    call = [tmp_path, tmp_path, "--uncertainty"]
    assert resolve(*call) == 0 and resolve(*call, "--force") == 0
    assert "results of sprl: a_sr.nii.gz, a_sr_uncertainty.nii.gz" in capsys.readouterr().err
    names = {"a.nii.gz", "a_sr.nii.gz", "a_sr_uncertainty.nii.gz"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert resolve(tmp_path / "*_sr*", tmp_path) == 1
    assert "expected scans" in capsys.readouterr().err


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgz", ".mgh"])
def test_a_result_of_any_format_is_no_scan(tmp_path, resolve, capsys, no_network, ending):
    scan = save(tmp_path / "a.nii.gz", blob())
    assert resolve(scan, tmp_path / f"sharper{ending}", "--uncertainty") == 0
    written = nib.load(tmp_path / f"sharper{ending}")  # by a library that knows of no text there
    np.testing.assert_array_equal(written.get_fdata(), nib.load(scan).get_fdata())
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-5)
    assert resolve(tmp_path, tmp_path / "out") == 0
    assert "results of sprl: sharper" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a_sr.nii.gz"]


def test_a_batch_is_resumed(tmp_path, resolve, capsys, monkeypatch, no_network):
    """Killed at the second of three, it goes on there; what it had written is not touched."""
    for name in "abc":
        save(tmp_path / "in" / f"{name}.nii.gz", blob())
    sharpen, calls = cli.sharpen, no_network

    def killed(*args, **options):
        results = sharpen(*args, **options)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return results

    monkeypatch.setattr(cli, "sharpen", killed)
    out = tmp_path / "out"
    assert resolve(tmp_path / "in", out, "--uncertainty") == 130
    assert capsys.readouterr().err == "sprl super-resolve: interrupted\n"
    first = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert set(first) == {"a_sr.nii.gz", "a_sr_uncertainty.nii.gz"}
    assert resolve(tmp_path / "in", out, "--uncertainty") == 1 and len(calls) == 2
    assert "--skip-existing" in capsys.readouterr().err
    assert resolve(tmp_path / "in", out, "--uncertainty", "--skip-existing") == 0 and len(calls) == 4
    assert len(list(out.iterdir())) == 6
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    assert "2 of 2 files done, 1 more had been done before" in capsys.readouterr().out


def test_an_interrupted_write_leaves_nothing(tmp_path, resolve, monkeypatch, no_network):
    save(tmp_path / "a.nii.gz", blob())

    def half(image, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(nib, "save", half)
    assert resolve(tmp_path / "a.nii.gz", tmp_path / "out/a.nii.gz") == 130
    assert list((tmp_path / "out").iterdir()) == []


# ---- BIDS ---------------------------------------------------------------------------------------------


@pytest.fixture
def dataset(tmp_path):
    """Two people, one with two sessions; other images, and derivatives that are nobody's input."""
    root = tmp_path / "bids"
    for name in (
        "sub-1/ses-a/anat/sub-1_ses-a_T1w.nii.gz",
        "sub-1/ses-b/anat/sub-1_ses-b_run-1_T1w.nii.gz",
        "sub-2/anat/sub-2_T1w.nii",
        "sub-2/anat/sub-2_T2w.nii.gz",
        "sub-2/anat/sub-2_part-phase_T1w.nii.gz",
        "sub-2/func/sub-2_task-rest_bold.nii.gz",
        "derivatives/other/sub-2/anat/sub-2_desc-preproc_T1w.nii.gz",
        "sourcedata/sub-3/anat/sub-3_T1w.nii.gz",
    ):
        save(root / name, blob())
    (root / "sub-2/anat/sub-2_T1w.json").write_text("{}")
    (root / "dataset_description.json").write_text('{"Name": "Ours", "BIDSVersion": "1.8.0"}')
    return root


RESULTS = (
    "sub-1/ses-a/anat/sub-1_ses-a_desc-sr_T1w",
    "sub-1/ses-b/anat/sub-1_ses-b_run-1_desc-sr_T1w",
    "sub-2/anat/sub-2_desc-sr_T1w",
)


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("output", ["bids", "bids/derivatives", "bids/derivatives/sprl", "elsewhere"])
def test_a_bids_data_set_gets_derivatives(tmp_path, dataset, resolve, weights, capsys, no_network, output):
    before = files_of(dataset)
    assert resolve(dataset, tmp_path / output) == 0
    results = (tmp_path / ("elsewhere" if output == "elsewhere" else "bids")) / "derivatives" / "sprl"
    images, sidecars = ({f"{name}{end}" for name in RESULTS} for end in (".nii.gz", ".json"))
    assert files_of(results) == images | sidecars | {"dataset_description.json"}
    assert {f for f in files_of(dataset) if not f.startswith("derivatives/sprl/")} == before
    said = capsys.readouterr()
    assert "no T1w image: sub-2_T2w.nii.gz" in said.err and "sub-2_part-phase_T1w.nii.gz" in said.err

    told = json.loads((results / "dataset_description.json").read_text())
    assert told["DatasetType"] == "derivative" and told["BIDSVersion"]
    assert told["GeneratedBy"] == [{"Name": "sprl", "Version": __version__}]
    made = json.loads((results / f"{RESULTS[2]}.json").read_text())
    assert made["Weights"] == "identity" and made["WeightsSHA256"] == sha256(weights)
    assert made["CoarseAxes"] == [1, 2] and made["UpsamplingFactors"] == [1, 2, 2]
    assert made["MeasuredSamples"] == [12, 10, 14] and made["Precision"] in ("float32", "bfloat16")
    assert made["Engine"] == "openvino"
    (source,) = made["Sources"]
    if output == "elsewhere":
        assert source == "sub-2/anat/sub-2_T1w.nii" and "DatasetLinks" not in told
    else:  # the URI leads to the scan
        name, path = re.fullmatch("bids:(.+):(.+)", source).groups()
        assert (results / told["DatasetLinks"][name] / path).samefile(dataset / "sub-2/anat/sub-2_T1w.nii")
    for file in results.rglob("*.json"):
        assert str(tmp_path) not in file.read_text()


def test_one_subject_of_a_bids_data_set(tmp_path, dataset, resolve, no_network):
    """As an array job of a cluster does: one subject each, into one data set."""
    for subject in ("sub-1", "sub-2"):
        assert resolve(dataset / subject, dataset) == 0
    assert resolve(dataset, dataset, "--skip-existing") == 0
    images = {name for name in files_of(dataset / "derivatives/sprl") if name.endswith(".nii.gz")}
    assert images == {f"{name}.nii.gz" for name in RESULTS}


def test_a_sidecar_outside_of_bids_is_written_on_demand(tmp_path, resolve, no_network):
    scan = save(tmp_path / "a.nii.gz", blob())
    assert resolve(scan, tmp_path / "plain.nii.gz") == 0 and not (tmp_path / "plain.json").exists()
    assert resolve(scan, tmp_path / "told.nii.gz", "--sidecar") == 0
    assert json.loads((tmp_path / "told.json").read_text())["Sources"] == ["a.nii.gz"]


# ---- places -------------------------------------------------------------------------------------------


def test_a_sidecar_of_the_scan_is_not_replaced(tmp_path, resolve, capsys, no_network):
    scan = tmp_path / "a.mgz"
    nib.save(nib.MGHImage(blob(), AFFINE), scan)
    (tmp_path / "a.json").write_text("from the scanner")
    assert resolve(scan, tmp_path / "a.nii.gz", "--sidecar", "--force") == 1
    assert "a.json: expected another name than the input's" in capsys.readouterr().err
    assert (tmp_path / "a.json").read_text() == "from the scanner"


def test_a_scan_that_mgh_cannot_place_is_refused_before_the_work(tmp_path, resolve, capsys, monkeypatch):
    monkeypatch.setattr(cli, "sharpen", None)
    nib.save(nib.Nifti1Image(blob(), None), tmp_path / "scan.nii")
    assert resolve(tmp_path / "scan.nii", tmp_path / "out.mgz") == 1
    assert "expected a scan that says where it lies" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path, resolve, capsys, no_network):
    scan, out = save(tmp_path / "scan.nii.gz", blob()), tmp_path / "out.nii.gz"
    out.write_bytes(b"mine")
    assert resolve(scan, out) == 1 and out.read_bytes() == b"mine"
    assert "found one (--force overwrites" in capsys.readouterr().err
    assert resolve(scan, out, "--force") == 0 and out.read_bytes() != b"mine"


@pytest.mark.parametrize("command", ["super-resolve", "degrade"])
def test_a_scan_is_never_replaced_by_its_result(tmp_path, capsys, command):
    scan = save(tmp_path / "scan.nii.gz", blob())
    (tmp_path / "link.nii.gz").symlink_to(scan)
    before = scan.read_bytes()
    for output in (scan, tmp_path / "link.nii.gz"):
        assert main([command, str(scan), str(output), "--force"]) == 1
        assert "expected another name than the input's" in capsys.readouterr().err
    assert scan.read_bytes() == before


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("out.png", "expected a name ending in .nii"),
        ("notes.txt/out.nii.gz", "expected a folder for the results, found a file"),
        ("notes.txt/", "expected a folder for the results, found a file"),
        ("taken/", "expected the name of a file, found a folder"),
        ("/proc/out.nii.gz", "expected a folder that can be written to"),
        ("/proc/new/folder/", "expected a folder that can be written to"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path, resolve, capsys, monkeypatch, output, words
):
    monkeypatch.setattr(cli, "sharpen", None)
    scan = save(tmp_path / "scan.nii.gz", blob())
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "taken/scan_sr.nii.gz").mkdir(parents=True)
    assert resolve(scan, f"{tmp_path}/{output}" if output[0] != "/" else output) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_places_of_a_batch_are_all_checked_before_the_work(tmp_path, resolve, capsys, monkeypatch):
    monkeypatch.setattr(cli, "sharpen", None)
    for name in ("a.nii.gz", "b.nii.gz", "c.nii.gz"):
        save(tmp_path / "in" / name, blob())
    save(tmp_path / "out/c_sr.nii.gz", blob())
    assert resolve(tmp_path / "in", tmp_path / "out") == 1
    assert "c_sr.nii.gz: expected no file there" in capsys.readouterr().err
    assert resolve(tmp_path / "in", tmp_path / "out.nii.gz") == 1
    assert "expected a folder for 3 results" in capsys.readouterr().err
    shutil.copy(tmp_path / "in/a.nii.gz", tmp_path / "in/a.nii.bz2")
    assert resolve(tmp_path / "in", tmp_path / "new") == 1
    assert "a_sr.nii.gz: expected inputs of different names" in capsys.readouterr().err


@pytest.mark.parametrize("output", ["new/folder/", "new/folder", "new/folder/scan_sr.nii.gz"])
def test_a_missing_folder_is_made(tmp_path, resolve, no_network, output):
    scan = save(tmp_path / "scan.nii.gz", blob())
    assert resolve(scan, f"{tmp_path}/{output}") == 0
    assert (tmp_path / "new/folder/scan_sr.nii.gz").is_file()


def test_an_output_that_is_a_link_is_followed(tmp_path, resolve, no_network):
    scan, disk, link = save(tmp_path / "scan.nii.gz", blob()), tmp_path / "disk/kept", tmp_path / "out.nii.gz"
    disk.parent.mkdir()
    disk.write_bytes(b"old")
    link.symlink_to(disk)
    assert resolve(scan, link, "--force") == 0
    assert link.is_symlink() and disk.read_bytes()[:2] == b"\x1f\x8b"  # gzip's, as the link is named
    assert os.listdir(disk.parent) == ["kept"]


# ---- options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        "--voxel-size -1 1 1", "--voxel-size 0", "--voxel-size nan 1 1", "--voxel-size -inf 1 1",
        "--voxel-size inf", "--voxel-size 1 1", "--voxel-size 1 1 1 1", "--voxel-size 1e9",
        "--voxel-size=one", "--upsample 1 0.5 2", "--upsample 17", "--measured 0 1 1", "--measured 64 64",
        "--measured 1.5 1 1", "--measured -1", "--memory nan", "--memory 0.1", "--memory -1", "--memory inf",
        "--threads 0", "--threads 1.5", "--threads -2",
    ],
)  # fmt: skip
def test_numbers_that_make_no_sense_are_one_line(tmp_path, capsys, options):
    refused(["super-resolve", "scan.nii.gz", str(tmp_path / "out.nii.gz"), *options.split()])
    error = capsys.readouterr().err
    name, found = re.split("[ =]", options, maxsplit=1)
    assert error.count("\n") == 1 and f"{name}: expected " in error and error.endswith(f"found {found}\n")


@pytest.mark.parametrize("keep", ["0", "1", "-0.5", "nan", "64"])
def test_a_share_that_keeps_nothing_or_all_is_refused(tmp_path, capsys, keep):
    refused(["degrade", "hr.nii.gz", str(tmp_path / "lr.nii.gz"), "--keep", keep])
    assert f"expected a share above 0 and below 1, found {keep}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--weights", "nobody"], "found no 'nobody'"),
    ],
)
def test_wrong_weights_are_one_line(tmp_path, capsys, options, words):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.nii.gz", blob())
    assert main(["super-resolve", str(tmp_path / "in"), str(tmp_path / "out"), *FINER, *options]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error


@pytest.fixture
def same_threads():
    """Puts torch's threads back after the test: results of other tests depend on them to the last bit."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_precision_and_quiet(tmp_path, resolve, capsys, same_threads):
    scan = save(tmp_path / "scan.nii.gz", blob())
    precisions = {("auto", "fp32"): "float32", ("torch", "auto"): "float32"}
    if cpu_multiplies_bf16():
        precisions["openvino", "bf16"] = "bfloat16"
    for (engine, precision), told in precisions.items():
        out, how = tmp_path / f"{engine}.nii.gz", ("--engine", engine, "--precision", precision)
        assert resolve(scan, out, *how, "--device", "cpu", "--quiet", "--sidecar", "--threads", 1) == 0
        assert json.loads((tmp_path / f"{engine}.json").read_text())["Precision"] == told
    said = capsys.readouterr()
    assert said.out == said.err == ""


@pytest.mark.parametrize(("engine", "multiplies"), [("auto", False), ("torch", True)])
def test_bfloat16_that_would_not_be_computed_in_is_refused(
    tmp_path, resolve, capsys, monkeypatch, engine, multiplies
):
    monkeypatch.setattr(cli, "cpu_multiplies_bf16", lambda: multiplies)
    scan, how = save(tmp_path / "scan.nii.gz", blob()), ("--engine", engine, "--precision", "bf16")
    assert resolve(scan, tmp_path / "out.nii.gz", *how, "--device", "cpu") == 1
    assert "use fp32" in capsys.readouterr().err and not (tmp_path / "out.nii.gz").exists()


def test_a_log_file_shows_how_far_it_is(tmp_path, resolve, capsys, monkeypatch):
    scan = save(tmp_path / "scan.nii.gz", blob())
    monkeypatch.setattr(progress, "EVERY", 0)
    assert resolve(scan, tmp_path / "out.nii.gz") == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert "100%" in lines[-1]
    assert all(re.fullmatch(r"scan.nii.gz: \d+% after \d:\d\d:\d\d", line) for line in lines)
    assert re.search(r"\d:\d\d:\d\d\)$", said.out.strip())  # the time that it took


# ---- the other commands -------------------------------------------------------------------------------


def test_degrade_then_evaluate(tmp_path, capsys):
    hr = save(tmp_path / "hr.nii.gz", blob())
    lr = tmp_path / "lr.nii.gz"
    assert main(["degrade", str(hr), str(lr), "--keep", "0.5"]) == 0
    volume = read_volume(hr).data
    np.testing.assert_allclose(read_volume(lr).data, truncate_kspace(volume, [None, 0.5, 0.5]), atol=1e-2)
    assert main(["evaluate", str(lr), str(hr)]) == 0
    assert "psnr: " in capsys.readouterr().out
    assert main(["evaluate", str(hr), str(hr)]) == 0
    assert "ssim: 1.0000" in capsys.readouterr().out


@pytest.mark.parametrize("axes", ["5", "-1 0", "0 1 2 3"])
def test_axes_that_are_not_there_are_refused(tmp_path, capsys, axes):
    hr = save(tmp_path / "hr.nii.gz", blob())
    refused(["degrade", str(hr), str(tmp_path / "lr.nii.gz"), "--axes", *axes.split()])
    assert "expected different array axes of 0, 1, 2" in capsys.readouterr().err
    assert not (tmp_path / "lr.nii.gz").exists()


def test_evaluate_names_what_it_was_given(tmp_path, capsys):
    hr, sr = save(tmp_path / "hr.nii.gz", blob()), save(tmp_path / "sr.nii.gz", blob((12, 10, 13)))
    assert main(["evaluate", str(sr), str(hr)]) == 1
    assert "expected SR on the grid of HR" in capsys.readouterr().err


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"\x1f\x8b")  # as much as tells a file from a pointer to one


def test_a_manifest_of_bids_keeps_a_persons_sessions_together(tmp_path, capsys):
    scans = [f"sub-{i:02d}/ses-{s}/anat/sub-{i:02d}_ses-{s}_T1w.nii.gz" for i in range(9) for s in (1, 2)]
    touch(tmp_path, *scans, "sub-00/ses-1/anat/sub-00_ses-1_T2w.nii.gz", "derivatives/x_T1w.nii.gz")
    out = tmp_path / "bids.csv"
    assert main(["manifest", str(tmp_path), str(out)]) == 0
    subjects = read_manifest(out)
    assert len(subjects) == 18 and {s.group for s in subjects} == {f"sub-{i:02d}" for i in range(9)}
    assert {s.split for s in subjects} == {"train", "validation", "evaluation", "test"}
    assert "18 scans" in capsys.readouterr().out


def test_a_manifest_of_hcp_and_of_pairs(tmp_path, capsys):
    touch(
        tmp_path / "hcp", *(f"{i}/unprocessed/3T/T1w_MPR1/{i}_3T_T1w_MPR1.nii.gz" for i in (100307, 100408))
    )
    assert main(["manifest", str(tmp_path / "hcp"), str(tmp_path / "hcp.csv")]) == 0
    assert [s.id for s in read_manifest(tmp_path / "hcp.csv")] == ["100307", "100408"]
    assert "nobody in validation, test" in capsys.readouterr().err
    touch(tmp_path / "pairs", "HR/anna.nii.gz", "LR/anna.nii.gz", "HR/ben.nii")
    assert main(["manifest", str(tmp_path / "pairs"), str(tmp_path / "pairs.csv")]) == 1  # ben has no LR
    touch(tmp_path / "pairs", "LR/ben.nii")
    assert main(["manifest", str(tmp_path / "pairs"), str(tmp_path / "pairs.csv")]) == 0
    assert [s.lr for s in read_manifest(tmp_path / "pairs.csv")] == [
        str(tmp_path / "pairs" / "LR" / name) for name in ("anna.nii.gz", "ben.nii")
    ]


def test_a_name_that_is_no_id_is_refused_before_anything_is_written(tmp_path, capsys):
    touch(tmp_path, "HR/anna smith.nii.gz")
    assert main(["manifest", str(tmp_path), str(tmp_path / "out.csv")]) == 1
    assert "found 'anna smith'" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_a_folder_of_something_else_is_no_manifest(tmp_path, capsys):
    touch(tmp_path, "notes.txt")
    assert main(["manifest", str(tmp_path), str(tmp_path / "out.csv")]) == 1
    assert "expected HCP's layout, BIDS" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
