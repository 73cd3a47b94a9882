"""The store's slices are compared with their checksums when they are new and when something touched them, once."""

import os
from pathlib import Path

import pytest
from small_pairs import build as build_pairs
from small_pairs import pair
from small_store import SETTINGS, build, make_cases
from terminal import Terminal

from pipeline.data import cache_filling
from pipeline.data.slice_cache import build_slice_cache


@pytest.fixture
def reads(monkeypatch):
    """Return a list that grows by the path of each file that is read as a whole."""
    read, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or read_bytes(path))
    return read


def test_slices_are_compared_with_their_checksum_once_and_again_when_touched(tmp_path, reads):
    cases = make_cases(tmp_path, 1)
    stored, _ = build(cases, tmp_path / "store")
    assert reads == [entry.path for entry in stored]  # after they were written
    reads.clear()
    assert build(cases, tmp_path / "store")[0] == stored and reads == []
    for ns in (10**18, 2 * 10**18):  # older than the note, and younger
        os.utime(stored[1].path, ns=(ns, ns))
        assert build(cases, tmp_path / "store")[0] == stored and reads == [stored[1].path]
        assert build(cases, tmp_path / "store")[0] == stored and reads == [stored[1].path]
        reads.clear()
    note = stored[0].path.with_suffix(".json")
    note.write_text(note.read_text())
    os.utime(note, ns=(10**18, 10**18))
    assert build(cases, tmp_path / "store")[0] == stored and reads == [stored[0].path]


def test_slices_whose_time_cannot_be_set_are_read_at_each_start(tmp_path, reads, monkeypatch):
    cases = make_cases(tmp_path, 1)[:1]
    [stored], _ = build(cases, tmp_path / "store")
    os.utime(stored.path, ns=(10**18, 10**18))
    reads.clear()

    def refuse(*_, **__):
        raise PermissionError("another user's file")

    monkeypatch.setattr(os, "utime", refuse)
    assert build(cases, tmp_path / "store") == ([stored], {})
    assert build(cases, tmp_path / "store") == ([stored], {}) and reads == [stored.path] * 2


def test_each_half_of_a_pair_is_read_when_it_was_touched(tmp_path, reads):
    cases = pair(tmp_path)
    [stored], _ = build_pairs([cases], tmp_path)
    paths = [stored.first.path, stored.second.path]
    assert [path for path in reads if path.suffix == ".npy"] == paths
    for path in paths:
        reads.clear()
        os.utime(path, ns=(10**18, 10**18))
        for _ in range(2):
            assert build_pairs([cases], tmp_path)[0] == [stored] and reads == [path]


def test_looking_through_the_store_shows_a_bar_where_it_takes_long(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    cases = make_cases(tmp_path, 1)
    build(cases, tmp_path / "store")
    options = {"processes": 1, "on_bad_volume": "stop"}
    build_slice_cache(cases, tmp_path / "store", *SETTINGS, **options)
    assert "checking the store" not in terminal.taken()
    monkeypatch.setattr(cache_filling, "PROGRESS_BAR_DELAY_S", 0)
    build_slice_cache(cases, tmp_path / "store", *SETTINGS, **options)
    assert "checking the store: 100%" in terminal.taken()
    build_slice_cache(cases, tmp_path / "store", *SETTINGS, **options, quiet=True)
    assert terminal.taken() == ""


@pytest.mark.parametrize("what_was_touched", ["both", "both, to the second", "copied"])
def test_times_that_come_about_by_themselves_are_no_mark(what_was_touched, tmp_path, reads, capsys):
    cases = make_cases(tmp_path, 1)[:1]
    [stored], _ = build(cases, tmp_path / "store")
    note, time_s = stored.path.with_suffix(".json"), 1_700_000_000.25
    content = bytearray(stored.path.read_bytes())
    content[-5] ^= 255
    stored.path.write_bytes(content)
    times = {
        "both": (time_s, time_s),
        "both, to the second": (int(time_s), int(time_s)),
        "copied": (time_s, time_s + 0.004),
    }
    for path, time in zip((stored.path, note), times[what_was_touched], strict=True):
        os.utime(path, (time, time))
    reads.clear()
    build(cases, tmp_path / "store")
    assert stored.path in reads and stored.path.read_bytes() != bytes(content)  # noticed, and made again
    assert f"warning: {stored.path}: not what was written there" in capsys.readouterr().err


def test_a_mark_survives_file_systems_that_keep_whole_seconds(tmp_path, reads):
    cases = make_cases(tmp_path, 1)[:1]
    [stored], _ = build(cases, tmp_path / "store")
    for path in (stored.path, stored.path.with_suffix(".json")):
        time = path.stat().st_mtime // 2 * 2
        os.utime(path, (time, time))
    reads.clear()
    assert build(cases, tmp_path / "store") == ([stored], {}) and reads == []
