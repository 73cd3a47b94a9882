import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_store import CHAIN, SETTINGS, build, contents, make_cases
from small_volumes import write_volume

from pipeline.data import slice_cache
from pipeline.data.case import Case
from pipeline.data.slice_cache import case_key, extract, look_up
from pipeline.data.statistics import CaseStatistics
from pipeline.data.stored_slices import decode, encode, slice_histograms
from transforms.slice_chain import slice_chain
from transforms.slices import occupied_slices


@pytest.fixture
def extractions(monkeypatch):
    """Return a list that grows by the path of each image that is read."""
    read = []
    monkeypatch.setattr(slice_cache, "extract", lambda path, *others: read.append(path) or extract(path, *others))
    return read


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_ends_of_the_range_and_every_level_survive():
    assert decode(np.array([0, 65535], np.uint16)).tolist() == [-1, 1]
    levels = np.arange(65536).astype(np.uint16)
    assert decode(levels).dtype == np.float32
    np.testing.assert_array_equal(encode(decode(levels)), levels)
    between = np.random.default_rng(0).uniform(-1, 1, 9999).astype(np.float32)
    assert np.abs(decode(encode(between)) - between).max() <= 1 / 65535 + 2e-7  # half a level


def test_what_is_stored_is_what_the_chain_makes(tmp_path):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz"))
    [stored], failures = build([case], tmp_path / "store")
    chain = slice_chain(CHAIN)({"image": case.path})
    occupied = occupied_slices(chain["image_foreground"], 0.1)
    slices = decode(np.load(stored.path))
    assert failures == {} and stored.case == case
    assert stored.count == len(occupied) == len(slices) < len(chain["image"])
    np.testing.assert_allclose(slices, chain["image"][occupied], rtol=0, atol=1e-4)
    assert slices.shape[1:] == (24, 24) and slices.min() == -1 and slices.max() == 1


def test_the_facts_describe_the_file(tmp_path):
    posterior_superior_right = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz", affine=posterior_superior_right))
    [stored], _ = build([case], tmp_path / "store")
    chain = slice_chain(CHAIN)({"image": case.path})
    statistics = stored.statistics
    assert statistics.spacing_mm == pytest.approx([3, 1, 2])  # right, anterior, superior
    assert (statistics.low, statistics.high) == chain["image_range"]
    assert statistics.integer is True
    assert stored.positions == occupied_slices(chain["image_foreground"], 0.1).tolist()
    assert sum(statistics.histogram) == chain["image_foreground"].sum()
    assert CaseStatistics.from_json(json.loads(json.dumps(statistics.to_json()))) == statistics


def test_an_entry_of_a_release_that_did_not_keep_the_likeness_is_made_again(tmp_path):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz", affine=np.diag([8, 8, 10, 1])))
    [stored], _ = build([case], tmp_path / "store")
    note = stored.path.with_suffix(".json")
    statistics = json.loads(note.read_text())
    assert statistics["likeness"]["spacing_mm"] == [8, 8, 10]
    del statistics["likeness"]
    note.write_text(json.dumps(statistics))
    assert look_up(case, tmp_path / "store", *SETTINGS) is None
    [second_entry], _ = build([case], tmp_path / "store")
    assert second_entry == stored


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change",
    [
        {"axis": "coronal"}, {"spacing_mm": (1.0, 1.0)}, {"size": 32}, {"n4": True}, {"percentiles": (1, 99)},
        {"percentiles": None}, {"version": 2},
    ],
)  # fmt: skip
def test_the_key_changes_with_each_setting(change, tmp_path):
    path = write_volume(tmp_path / "s.nii.gz")
    assert case_key(path, *SETTINGS) != case_key(path, replace(CHAIN, **change), 0.1)
    assert case_key(path, *SETTINGS) != case_key(path, CHAIN, 0.2)


def test_the_key_changes_with_path_size_and_time(tmp_path):
    path, other_path = tmp_path / "a.nii", tmp_path / "b.nii"
    path.write_bytes(b"12345678")
    other_path.write_bytes(b"12345678")
    os.utime(path, ns=(1, 10**18))
    os.utime(other_path, ns=(1, 10**18))
    keys = [case_key(path, *SETTINGS), case_key(other_path, *SETTINGS)]
    os.utime(path, ns=(1, 10**18 + 1000))
    keys.append(case_key(path, *SETTINGS))
    path.write_bytes(b"123456789")
    os.utime(path, ns=(1, 10**18))
    keys.append(case_key(path, *SETTINGS))
    assert len(set(keys)) == 4


# ── keeping and rebuilding ────────────────────────────────────────────────────────────────────────────────────


def test_what_is_stored_is_not_read_again(tmp_path, extractions):
    cases = make_cases(tmp_path, 2)
    first, _ = build(cases, tmp_path / "store")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    assert extractions == [case.path for case in cases] and len(times) == 2 * len(cases)
    second, _ = build(cases, tmp_path / "store")
    assert len(extractions) == len(cases)
    assert first == second and [entry.case for entry in second] == cases
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == times


def shorten(path):
    path.write_bytes(path.read_bytes()[:-100])


def save_of_another_type(path):
    np.save(path, np.load(path).astype(np.int16))


def zero_the_second_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


DAMAGE = {
    "slices cut short": (".npy", shorten),
    "slices of other content": (".npy", lambda path: path.write_bytes(b"something else " * 1000)),
    "slices of another type": (".npy", save_of_another_type),
    "slices with a hole": (".npy", zero_the_second_half),
    "slices gone": (".npy", Path.unlink),
    "note gone": (".json", Path.unlink),
    "note cut short": (".json", shorten),
    "note not text": (".json", lambda path: path.write_bytes(b"\xff\xfe\x80")),
    "note without a count": (".json", lambda path: path.write_text("{}")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_rebuilt(damage, tmp_path, extractions, capsys):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz"))
    build([case], tmp_path / "store")
    original = contents(tmp_path / "store")
    suffix, spoil = DAMAGE[damage]
    [victim] = (tmp_path / "store").glob(f"*{suffix}")
    spoil(victim)
    if victim.exists():
        os.utime(victim, ns=(2 * 10**18, 2 * 10**18))  # within the clock's last tick it might seem untouched
    assert look_up(case, tmp_path / "store", *SETTINGS) is None
    [stored], failures = build([case], tmp_path / "store")
    assert contents(tmp_path / "store") == original and failures == {}
    assert len(extractions) == 2 and len(np.load(stored.path)) == stored.count
    is_said = f"warning: {stored.path}: not what was written there" in capsys.readouterr().err
    assert is_said == (not damage.endswith(("gone", "without a count")))


def test_two_processes_store_the_same_as_one(tmp_path):
    cases = make_cases(tmp_path, 2)
    single_process, _ = build(cases, tmp_path / "one", processes=1)
    together, _ = build(cases, tmp_path / "two", processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [replace(entry, path=None) for entry in single_process] == [replace(entry, path=None) for entry in together]


def test_the_histogram_is_numpys():
    random = np.random.default_rng(0)
    edges = np.linspace(-1, 1, 257)
    values = np.concatenate([edges, np.nextafter(edges, -1), np.nextafter(edges, 1), random.uniform(-1, 1, 229)])
    slices = np.clip(values, -1, 1).astype(np.float32).reshape(2, 25, 20)
    mask = random.random(slices.shape) < 0.9
    for inside in (mask, np.ones_like(mask), np.zeros_like(mask)):
        expected, _ = np.histogram(slices[inside], bins=256, range=(-1, 1))
        np.testing.assert_array_equal(slice_histograms(slices, inside).sum(axis=0), expected)
