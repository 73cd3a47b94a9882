"""Cached slices are compared with their checksums when they are new and when something touched them, once."""

import json
import os
from pathlib import Path

import pytest
from small_pairs import build as build_pairs
from small_pairs import pair
from small_store import build, make_cases

from pipeline.data import slice_cache
from pipeline.utils.errors import UserError


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
    for ns in (10**18, 2 * 10**18):  # older than before, and younger
        os.utime(stored[1].path, ns=(ns, ns))
        assert build(cases, tmp_path / "store")[0] == stored and reads == [stored[1].path]
        assert build(cases, tmp_path / "store")[0] == stored and reads == [stored[1].path]
        reads.clear()


def test_an_entry_of_a_release_that_kept_no_time_of_the_check_is_read_once_and_kept(tmp_path, reads):
    cases = make_cases(tmp_path, 1)[:1]
    [stored], _ = build(cases, tmp_path / "store")
    record_path = stored.path.with_suffix(".json")
    record = json.loads(record_path.read_text())
    assert record.pop("verified") == stored.path.stat().st_mtime_ns
    record_path.write_text(json.dumps(record))
    reads.clear()
    for _ in range(2):
        assert build(cases, tmp_path / "store") == ([stored], {}) and reads == [stored.path]


def test_an_entry_in_a_folder_of_another_user_is_read_at_each_start(tmp_path, reads, monkeypatch):
    cases = make_cases(tmp_path, 1)[:1]
    [stored], _ = build(cases, tmp_path / "store")
    os.utime(stored.path, ns=(10**18, 10**18))
    reads.clear()

    def refuse(path, *_):
        raise UserError(f"{path}: permission denied")

    monkeypatch.setattr(slice_cache, "atomic_text", refuse)
    for count in (1, 2):
        assert build(cases, tmp_path / "store") == ([stored], {}) and reads == [stored.path] * count


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
