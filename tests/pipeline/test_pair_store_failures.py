import os

import numpy as np
import pytest
from head_scans import scan
from stored_pairs import build, pair

from pipeline import pairing
from pipeline.errors import UserError


def test_a_bad_half_is_named_once_and_the_pair_left_out(tmp_path, capsys):
    good, bad = pair(tmp_path), pair(tmp_path, subject="bad")
    os.truncate(bad[1].path, 1000)
    stored, failures = build([bad, good], tmp_path)
    assert [first.case for first, _ in stored] == [good[0]] and list(failures) == [bad]
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {bad[1].path}: ") and line.endswith("; left out")
    assert line.count(str(bad[1].path)) == 1 and str(bad[0].path) not in line
    with pytest.raises(UserError) as caught:
        build([bad, good], tmp_path, on_bad_volume="stop")
    assert str(caught.value).startswith(f"{bad[1].path}: ")
    assert str(caught.value).endswith("(preprocess.on_bad_volume: skip would go on without it)")
    with pytest.raises(UserError, match="none of 1 pairs could be used; the reasons are above"):
        build([bad], tmp_path)


def test_a_failed_registration_names_both_files(tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ValueError("the two scans could not be registered: no overlap")

    monkeypatch.setattr(pairing, "register_rigid", fail)
    good, bad = pair(tmp_path), pair(tmp_path, scan("T2", shape=(36, 44, 33)), subject="bad")
    stored, _ = build([bad, good], tmp_path)
    assert len(stored) == 1
    names = " and ".join(str(case.path) for case in bad)
    assert f"warning: {names}: the two scans could not be registered: no overlap; left out" in capsys.readouterr().err


def test_a_full_disk_stops_the_run_instead_of_blaming_the_pair(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("registration.json: disk full, 0 B left; free some space and run again")

    monkeypatch.setattr(pairing, "register_rigid", lambda *_: np.eye(4))
    monkeypatch.setattr(pairing, "atomic_text", full)
    with pytest.raises(UserError, match="disk full"):
        build([pair(tmp_path, scan("T2", shape=(36, 44, 33)))], tmp_path)
