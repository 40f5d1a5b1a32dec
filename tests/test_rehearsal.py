import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import make_head

from sprl_utils.comparison import rehearsal
from sprl_utils.scans.folders import find_subjects


def test_heads_are_twelve_bit_in_hcps_folders_and_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(rehearsal, "SHAPE", (20, 24, 22))
    sources = [make_head(), make_head(seed=1)]
    rehearsal.write_heads(tmp_path, 3, sources)
    subjects = find_subjects(tmp_path)
    assert [s.id for s in subjects] == ["900000", "900001", "900002"]
    images = [nib.load(s.member) for s in subjects]
    for image in images:
        assert image.shape == (20, 24, 22) and image.get_data_dtype() == np.int16
        assert np.asarray(image.dataobj).max() == 4095 and np.asarray(image.dataobj).min() == 0
        np.testing.assert_allclose(image.header.get_zooms(), 0.7)
    assert not np.array_equal(*(np.asarray(images[i].dataobj) for i in (0, 2)))
    written = [Path(s.member) for s in subjects]
    before = [file.read_bytes() for file in written]
    rehearsal.write_heads(tmp_path, 3, sources)
    assert [file.read_bytes() for file in written] == before


def test_time_and_memory_are_the_commands_own(capsys):
    hungry = [sys.executable, "-c", "import time; x = b'1' * 3 * 2**28; time.sleep(0.5)"]
    row = rehearsal.timed("hungry", hungry)
    assert row["seconds"] >= 0.5 and 0.75 <= row["peak_gib"] < 0.85
    with pytest.raises(ChildProcessError, match="sleepy: expected .* to succeed, found status"):
        rehearsal.timed("sleepy", [sys.executable, "-c", "import sys; sys.exit(3)"])
