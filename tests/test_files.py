"""Hashes, and files that are whole or not there."""

import pytest

from sprl_utils import files


def test_sha256_of_a_known_file(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    found = files.sha256(tmp_path / "abc")
    assert found == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "deeper" / "scan.nii.gz"
    files.write_atomically(target, "old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(target) as beside:
        assert beside.name.endswith(".nii.gz") and beside.parent == target.parent
        beside.write_text("half of the new")
        assert target.read_text() == "old"
        1 / 0  # noqa: B018
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_what_cannot_be_written_is_told_with_its_name(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match=r"taken: expected to write 3 bytes, found .*; the old file is kept"):
        files.write_atomically(tmp_path / "taken", b"abc")
    assert [p.name for p in tmp_path.iterdir()] == ["taken"]
