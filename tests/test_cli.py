"""``sprl`` on files: places, units, headers, and what goes wrong."""

import nibabel as nib
import numpy as np
import pytest
from conftest import like_a_scan
from scipy import ndimage

from sprl_utils.apply import factors_for, sharpen, to_fine_grid
from sprl_utils.cli import main
from sprl_utils.kspace import crop_kspace, truncate_kspace, zero_fill
from sprl_utils.manifest import read_manifest
from sprl_utils.networks import Generator, save_weights
from sprl_utils.volumes import Volume, read_volume

AFFINE = np.array([[0, 0, 1.0, -40], [-0.9, 0.1, 0, 30], [0.1, 0.8, 0, -20], [0, 0, 0, 1]])  # oblique


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "identity.safetensors"
    save_weights(Generator(init="identity"), path)
    return path


def volume_of(data):
    return Volume(data, np.eye(4), nib.Nifti1Header())


def blob(shape=(12, 10, 14), centre=(5, 4, 6), width=1.5):
    """A smooth point source: its centre of mass is its place."""
    grid = np.indices(shape) - np.array(centre)[:, None, None, None]
    return np.exp(-(grid**2).sum(0) / (2 * width**2)).astype(np.float32)


def save(path, data, affine=AFFINE, dtype=np.int16):
    image = nib.Nifti1Image((data * 1000).astype(dtype), affine)
    image.header["descrip"] = b"from the scanner"
    nib.save(image, path)
    return path


def place(path):
    """Centre of mass in millimetres."""
    image = nib.load(path)
    return image.affine @ [*ndimage.center_of_mass(image.get_fdata() ** 2), 1]


@pytest.mark.parametrize("factors", ["1 2 2", "1 1 4", "1.5 1 2"])
def test_a_point_stays_where_it_is_in_the_room(tmp_path, weights, factors):
    scan = save(tmp_path / "scan.nii.gz", blob())
    out = tmp_path / "out.nii.gz"
    axes = [str(a) for a, f in enumerate(factors.split()) if f != "1"]
    options = ["--weights", str(weights), "--upsample", *factors.split(), "--axes", *axes]
    assert main(["super-resolve", str(scan), str(out), *options]) == 0
    np.testing.assert_allclose(place(out), place(scan), atol=0.02)  # mm; half a voxel would be 0.2 or more
    expected = [round(n * float(f)) for n, f in zip((12, 10, 14), factors.split(), strict=True)]
    assert list(nib.load(out).shape) == expected


def test_zero_filling_undoes_nothing_but_the_cut():
    volume = ndimage.gaussian_filter(np.random.default_rng(0).random((8, 12, 16), dtype=np.float32), 1)
    keep = [None, 5, 7]  # odd: of an even number one sample has no partner, and its phase is lost
    coarse = crop_kspace(volume, keep)
    np.testing.assert_allclose(zero_fill(coarse, volume.shape), truncate_kspace(volume, keep), atol=1e-5)
    np.testing.assert_allclose(zero_fill(volume, volume.shape), volume)
    with pytest.raises(ValueError, match="at least as long"):
        zero_fill(volume, (8, 12, 15))


def test_units_header_and_description(tmp_path, weights):
    scan, out = save(tmp_path / "scan.nii", blob()), tmp_path / "out.nii"
    assert main(["super-resolve", str(scan), str(out), "--weights", str(weights)]) == 0
    before, after = nib.load(scan), nib.load(out)
    np.testing.assert_allclose(after.get_fdata(), before.get_fdata(), rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(after.affine, before.affine)
    assert b"identity.safetensors: super-resolved" in after.header["descrip"].tobytes()


def test_voxel_size_chooses_the_factors(tmp_path, weights):
    scan = save(tmp_path / "thick.nii.gz", blob(), np.diag([1.0, 2.0, 4.0, 1.0]))
    out = tmp_path / "out.nii.gz"
    assert (
        main(["super-resolve", str(scan), str(out), "--weights", str(weights), "--voxel-size", *"111"]) == 0
    )
    np.testing.assert_allclose(nib.load(out).header.get_zooms(), [1, 1, 1])


def test_both_places_of_a_header_keep_their_codes_and_move_alike(tmp_path, weights):
    image = nib.Nifti1Image(blob(), np.diag([1.0, 2.0, 4.0, 1.0]))
    image.set_sform(np.diag([-1.0, 2.0, 4.0, 1.0]), code=4)  # MNI
    image.set_qform(np.diag([1.0, 2.0, 4.0, 1.0]), code=1)  # scanner
    nib.save(image, tmp_path / "thick.nii.gz")
    options = ["--weights", str(weights), "--voxel-size", *"111"]
    assert (
        main(["super-resolve", str(tmp_path / "thick.nii.gz"), str(tmp_path / "out.nii.gz"), *options]) == 0
    )
    (sform, s_code), (qform, q_code) = (
        getattr(nib.load(tmp_path / "out.nii.gz"), f"get_{form}")(coded=True) for form in ("sform", "qform")
    )
    assert (s_code, q_code) == (4, 1)
    np.testing.assert_allclose(sform, np.diag([-1, 1, 1, 1]), atol=1e-6)
    np.testing.assert_allclose(qform, np.eye(4), atol=1e-6)


def test_rounding_in_an_affine_enlarges_nothing(tmp_path, weights):
    turned = nib.affines.from_matvec(
        np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 4]]) * (1 + 2e-8), [1, 2, 3]
    )
    scan = read_volume(save(tmp_path / "oblique.nii.gz", blob(), turned))
    assert scan.voxel_size != (1, 1, 4)
    assert factors_for(scan, (1, 1, 1)) == (1, 1, 4)


def test_what_was_measured_stays(tmp_path):
    """A network that halves all: the measured k-space comes back, and with it the coarse image."""
    generator = Generator(init="identity")
    generator.conv0.weight.data *= 0.5
    save_weights(generator, tmp_path / "half.safetensors")
    scan = save(tmp_path / "scan.nii.gz", blob(), dtype=np.float32)
    out = tmp_path / "out.nii.gz"
    options = ["--weights", str(tmp_path / "half.safetensors"), "--upsample", "1", "2", "3"]
    assert main(["super-resolve", str(scan), str(out), *options]) == 0
    coarse = nib.load(out).get_fdata()[:, ::2, ::3]
    np.testing.assert_allclose(coarse, nib.load(scan).get_fdata(), atol=15)  # of 1000; half would be 500 off


def test_air_is_computed_unless_it_is_to_be_copied():
    """A network that halves all: what was copied is as bright as before."""
    generator = Generator(init="identity").eval()
    generator.conv0.weight.data *= 0.5
    scan = volume_of(blob((40, 40, 40), (20, 20, 20), 4) + np.float32(0.02))
    for options, in_air in (({}, 0.5), ({"skip_air": True}, 1)):
        share = sharpen(scan, generator, **options)[0] / scan.data
        assert share[20, 20, 20] == pytest.approx(0.5) and share[0, 0, 0] == pytest.approx(in_air)


def test_a_zero_filled_scan_gets_the_weights_for_its_cut_and_its_measured_part_back(tmp_path, capsys):
    """The network's guess may change what was cut, and nothing else."""
    path, out = tmp_path / "hr.nii.gz", tmp_path / "out.nii.gz"
    save(path, like_a_scan((48, 64, 64)), dtype=np.float32)
    for keep, name in (("0.25", "mDCSRN_4x4"), ("0.5", "mDCSRN_2x2")):
        lr = tmp_path / f"lr{keep}.nii.gz"
        assert main(["degrade", str(path), str(lr), "--keep", keep]) == 0
        assert main(["super-resolve", str(lr), str(out), "--force"]) == 0
        told = capsys.readouterr().out
        assert name in told and f"k-space: 48 x {64 * float(keep):.0f} x {64 * float(keep):.0f}," in told
        sr, low = (nib.load(file).get_fdata() for file in (out, lr))
        share = [None, float(keep), float(keep)]
        measured = [truncate_kspace(np.float32(image), share) for image in (sr, low)]
        assert np.std(measured[0] - measured[1]) < 0.2 * np.std(sr - low)
    assert main(["super-resolve", str(path), str(out), "--force"]) == 0
    assert "no cut found" in capsys.readouterr().out


def test_coarse_axes_are_turned_to_where_the_network_learned_them():
    generator = Generator(init="identity").eval()
    generator.conv0.weight.data[0, 0, 1, 1, :] = 1 / 3  # blurs the last axis alone
    data = np.random.default_rng(0).random((9, 10, 11), dtype=np.float32)
    scan = to_fine_grid(volume_of(data), (1, 1, 1))
    for axes, blurred in (((1, 2), 2), ((0, 2), 2), ((0, 1), 1)):
        sharper, _ = sharpen(scan, generator, axes)
        expected = ndimage.uniform_filter1d(data, 3, axis=blurred, mode="constant")
        np.testing.assert_allclose(sharper, expected, atol=1e-5)


def test_a_network_that_is_the_same_in_the_mirror_has_no_spread():
    generator = Generator(init="identity").eval()
    scan = volume_of(blob())
    assert sharpen(scan, generator, uncertainty=True)[1].max() < 1e-6
    generator.conv0.weight.data[0, 0, 1, 1, :] = generator.conv0.weight.data[0, 0, 1, 1, :].roll(1)
    sharper, spread = sharpen(scan, generator, uncertainty=True)
    # A shift by one voxel, forwards in half of the mirror images, backwards in the others.
    behind, ahead = np.roll(sharper, 2, axis=2), sharper
    inner = (slice(None), slice(None), slice(2, -2))
    np.testing.assert_allclose(spread[inner], (np.abs(ahead - behind) / 2)[inner], atol=1e-5)


def test_a_folder_goes_on_past_a_bad_file(tmp_path, weights, capsys):
    for name in ("a.nii.gz", "b.nii"):
        save(tmp_path / name, blob())
    (tmp_path / "bad.nii.gz").write_bytes(b"not a scan")
    out = tmp_path / "out"
    assert main(["super-resolve", str(tmp_path), str(out), "--weights", str(weights)]) == 1
    assert sorted(p.name for p in out.iterdir()) == ["a_sr.nii.gz", "b_sr.nii.gz"]
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and "bad.nii.gz: expected a volume" in said.err
    assert "2 of 3 files done" in said.out


def test_results_in_the_same_folder_are_no_scans(tmp_path, weights, capsys):
    save(tmp_path / "a.nii.gz", blob())
    call = ["super-resolve", str(tmp_path), str(tmp_path), "--weights", str(weights), "--uncertainty"]
    assert main(call) == 0 and main([*call, "--force"]) == 0
    names = {"a.nii.gz", "a_sr.nii.gz", "a_sr_uncertainty.nii.gz"}
    assert {p.name for p in tmp_path.iterdir()} == names
    assert main(["super-resolve", str(tmp_path / "*_sr*"), str(tmp_path), "--weights", str(weights)]) == 1
    assert "found none" in capsys.readouterr().err


def test_nothing_is_overwritten_unasked(tmp_path, weights, capsys):
    scan = save(tmp_path / "scan.nii.gz", blob())
    call = ["super-resolve", str(scan), str(scan), "--weights", str(weights)]
    before = scan.read_bytes()
    assert main(call) == 1 and scan.read_bytes() == before
    assert "found one (--force overwrites it)" in capsys.readouterr().err
    assert main([*call, "--force"]) == 0 and scan.read_bytes() != before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--weights", "nobody"], "found no 'nobody'"),
        (["--upsample", "1", "0.5", "2"], "expected three factors from 1 to 16"),
        (["--axes", "0", "1", "2"], "expected one or two different ones"),
        (["--upsample", "2", "2", "2"], "expected one or two different ones"),
        (["--memory", "0.1"], "expected more than 0.5 GiB"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path, weights, capsys, options, words):
    scan = save(tmp_path / "scan.nii.gz", blob())
    call = ["super-resolve", str(scan), str(tmp_path / "out.nii.gz"), "--weights", str(weights), *options]
    assert main(call) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize("name", ["out.mgz", "nowhere", "nowhere/"])
def test_a_name_that_cannot_be_written_is_refused_before_the_work(tmp_path, capsys, name):
    scan = save(tmp_path / "scan.nii.gz", blob())
    assert main(["super-resolve", str(scan), f"{tmp_path}/{name}", "--weights", "nowhere.safetensors"]) == 1
    error = capsys.readouterr().err  # of the output, not of the weights: they come later
    assert "expected an existing folder, or a name ending in .nii or .nii.gz" in error


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("profile: mine\npretrain_step: 3\n", "pretrain_step: expected a parameter of a notebook"),
        ("pretrain_steps: 3\n", "profile: expected 'mine', found None"),
    ],
)
def test_a_profile_with_a_slip_trains_nothing(tmp_path, capsys, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    assert main(["train", "--profile", str(tmp_path / "mine.yaml")]) == 1
    assert words in capsys.readouterr().err


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
    assert main(["degrade", str(hr), str(tmp_path / "lr.nii.gz"), "--axes", *axes.split()]) == 1
    assert "expected some of 0, 1, 2" in capsys.readouterr().err
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
