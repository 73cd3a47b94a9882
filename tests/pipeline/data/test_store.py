import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import store
from pipeline.data.case import Case
from pipeline.data.store import build_store, case_key, decode, encode, extract, look_up
from pipeline.errors import UserError
from transforms.presets import slice_chain
from transforms.slices import occupied_slices

ROOT = Path(__file__).parents[3]
CHAIN = {"axis": "axial", "spacing_mm": None, "size": 24, "n4": False, "percentiles": [0.5, 99.5]}
SETTINGS = {**CHAIN, "min_foreground": 0.1}


def write_volume(path, seed=0, shape=(20, 26, 12), affine=None):
    """Write a bright, uneven ellipsoid in noisy air."""
    random = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.linspace(-1.1, 1.1, length) for length in shape), indexing="ij")
    head = sum(axis**2 for axis in grid) < 1
    volume = random.integers(0, 20, shape) + head * random.integers(400, 1000, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(volume.astype(np.int16), np.eye(4) if affine is None else affine), path)
    return path


def make_cases(folder, count):
    return [
        Case(f"s{number}", "", contrast, write_volume(folder / f"s{number}_{contrast}.nii.gz", 10 * number + side))
        for number in range(count)
        for side, contrast in enumerate(("T1", "T2"))
    ]


def build(cases, folder, *, processes=1, on_bad_volume="skip", settings=SETTINGS):
    return build_store(cases, folder, settings, processes=processes, on_bad_volume=on_bad_volume, quiet=True)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def extractions(monkeypatch):
    """Return a list that grows by the path of each image that is read."""
    read = []

    def noted(path, *arguments):
        read.append(path)
        extract(path, *arguments)

    monkeypatch.setattr(store, "extract", noted)
    return read


# ── numbers ───────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(-1, 1, width=32), min_size=1))
def test_encoding_changes_a_value_by_less_than_half_a_level(values):
    slices = np.array(values, np.float32)
    assert np.abs(decode(encode(slices)) - slices).max() <= 1 / 65535 + 2e-7


def test_the_ends_of_the_range_and_every_level_survive():
    assert decode(np.array([0, 65535], np.uint16)).tolist() == [-1, 1]
    levels = np.arange(65536).astype(np.uint16)
    assert decode(levels).dtype == np.float32
    np.testing.assert_array_equal(encode(decode(levels)), levels)


def test_what_is_stored_is_what_the_chain_makes(tmp_path):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz"))
    [stored], failures = build([case], tmp_path / "store")
    chain = slice_chain(**CHAIN)({"image": case.path})
    kept = occupied_slices(chain["image_foreground"], SETTINGS["min_foreground"])
    slices = decode(np.load(stored.path))
    assert failures == {} and stored.case == case
    assert stored.count == len(kept) == len(slices) < len(chain["image"])
    np.testing.assert_allclose(slices, chain["image"][kept], rtol=0, atol=1e-4)
    assert slices.shape[1:] == (24, 24) and slices.min() == -1 and slices.max() == 1


def test_the_facts_describe_the_file(tmp_path):
    posterior_superior_right = np.array([[0, 0, 3.0, 0], [-1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz", affine=posterior_superior_right))
    [stored], _ = build([case], tmp_path / "store")
    chain = slice_chain(**CHAIN)({"image": case.path})
    facts = stored.facts
    assert facts["spacing_mm"] == pytest.approx([3, 1, 2])  # right, anterior, superior
    assert (facts["low"], facts["high"]) == chain["image_range"]
    assert facts["integer"] is True
    assert facts["positions"] == occupied_slices(chain["image_foreground"], 0.1).tolist()
    assert sum(facts["histogram"]) == chain["image_foreground"].sum()
    assert facts == json.loads(json.dumps(facts))


def test_the_facts_give_the_files_own_spacing_when_it_is_resampled(tmp_path):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz", affine=np.diag([1, 1.5, 2, 1])))
    [stored], _ = build([case], tmp_path / "store", settings={**SETTINGS, "spacing_mm": [1.25, 4.0]})
    assert stored.facts["spacing_mm"] == pytest.approx([1, 1.5, 2])
    assert stored.facts["positions"] == [0, 1, 2, 3, 4, 5]  # 12 slices of 2 mm are 6 of 4 mm


# ── keys ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "change",
    [
        {"axis": "coronal"}, {"spacing_mm": [1.0, 1.0]}, {"size": 32}, {"n4": True}, {"percentiles": [1, 99]},
        {"percentiles": None}, {"min_foreground": 0.2},
    ],
)  # fmt: skip
def test_the_key_changes_with_each_setting(change, tmp_path):
    path = write_volume(tmp_path / "s.nii.gz")
    assert case_key(path, SETTINGS) != case_key(path, {**SETTINGS, **change})
    assert case_key(path, SETTINGS) == case_key(path, dict(reversed(SETTINGS.items())))


def test_the_key_changes_with_path_size_and_time(tmp_path):
    path, other = tmp_path / "a.nii", tmp_path / "b.nii"
    path.write_bytes(b"12345678")
    other.write_bytes(b"12345678")
    os.utime(path, ns=(1, 10**18))
    os.utime(other, ns=(1, 10**18))
    keys = [case_key(path, SETTINGS), case_key(other, SETTINGS)]
    os.utime(path, ns=(1, 10**18 + 1000))
    keys.append(case_key(path, SETTINGS))
    path.write_bytes(b"123456789")
    os.utime(path, ns=(1, 10**18))
    keys.append(case_key(path, SETTINGS))
    assert len(set(keys)) == 4


def test_the_key_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    path = write_volume(tmp_path / "s.nii.gz")
    monkeypatch.chdir(tmp_path)
    assert case_key(Path("s.nii.gz"), SETTINGS) == case_key(path, SETTINGS)


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


def save_of_another_shape(path):
    np.save(path, np.load(path)[1:])


def save_of_another_type(path):
    np.save(path, np.load(path).astype(np.int16))


def zip_archive(path):
    slices = np.load(path)
    np.savez(path.with_suffix(".npz"), slices)
    path.with_suffix(".npz").replace(path)


DAMAGE = {
    "slices cut short": (".npy", shorten),
    "slices emptied": (".npy", lambda path: path.write_bytes(b"")),
    "slices of other content": (".npy", lambda path: path.write_bytes(b"something else " * 1000)),
    "slices that are an archive": (".npy", zip_archive),
    "slices of another shape": (".npy", save_of_another_shape),
    "slices of another type": (".npy", save_of_another_type),
    "slices gone": (".npy", Path.unlink),
    "note gone": (".json", Path.unlink),
    "note cut short": (".json", shorten),
    "note emptied": (".json", lambda path: path.write_bytes(b"")),
    "note not text": (".json", lambda path: path.write_bytes(b"\xff\xfe\x80")),
    "note of other content": (".json", lambda path: path.write_text("[1, 2]")),
    "note without a count": (".json", lambda path: path.write_text("{}")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_rebuilt(damage, tmp_path, extractions):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz"))
    build([case], tmp_path / "store")
    before = contents(tmp_path / "store")
    suffix, spoil = DAMAGE[damage]
    [victim] = (tmp_path / "store").glob(f"*{suffix}")
    spoil(victim)
    assert look_up(case, tmp_path / "store", SETTINGS) is None
    [stored], failures = build([case], tmp_path / "store")
    assert contents(tmp_path / "store") == before and failures == {}
    assert len(extractions) == 2 and len(np.load(stored.path)) == stored.count


def test_a_replaced_image_is_noticed(tmp_path):
    case = Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz", seed=1))
    [before], _ = build([case], tmp_path / "store")
    old = np.load(before.path)
    write_volume(case.path, seed=2)
    assert look_up(case, tmp_path / "store", SETTINGS) is None
    [after], _ = build([case], tmp_path / "store")
    assert not np.array_equal(np.load(after.path), old)


def test_an_image_replaced_while_it_is_read_is_not_served(tmp_path, monkeypatch, capsys):
    good, bad = (Case(name, "", "T1", write_volume(tmp_path / f"{name}.nii.gz")) for name in "ab")

    def replaced_meanwhile(path, *arguments):
        extract(path, *arguments)
        if path == bad.path:
            write_volume(path, seed=5, shape=(22, 22, 12))

    monkeypatch.setattr(store, "extract", replaced_meanwhile)
    stored, failures = build([good, bad], tmp_path / "store")
    assert [entry.case for entry in stored] == [good]
    assert failures == {bad: "changed while it was being read; run again"}
    assert f"warning: {bad.path}: changed while it was being read" in capsys.readouterr().err


def test_two_processes_store_the_same_as_one(tmp_path):
    cases = make_cases(tmp_path, 2)
    alone, _ = build(cases, tmp_path / "one", processes=1)
    together, _ = build(cases, tmp_path / "two", processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert [replace(entry, path=None) for entry in alone] == [replace(entry, path=None) for entry in together]


def test_storing_leaves_this_process_its_threads(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        build([Case("s", "", "T1", write_volume(tmp_path / "s.nii.gz"))], tmp_path / "store", processes=1)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


# ── bad volumes ───────────────────────────────────────────────────────────────────────────────────────────────


def spoiled_cohort(tmp_path):
    cases = make_cases(tmp_path, 2)
    shorten(cases[1].path)
    return cases, cases[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_volume_is_named_once_and_left_out(processes, tmp_path, capsys):
    cases, bad = spoiled_cohort(tmp_path)
    stored, failures = build(cases, tmp_path / "store", processes=processes)
    assert [entry.case for entry in stored] == [case for case in cases if case != bad]
    assert list(failures) == [bad] and "truncated" in failures[bad]
    [line] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert line.startswith(f"warning: {bad.path}: truncated") and line.endswith("; left out")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_volume_stops_the_run_where_that_is_asked_for(processes, tmp_path, capsys):
    cases, bad = spoiled_cohort(tmp_path)
    with pytest.raises(UserError) as caught:
        build(cases, tmp_path / "store", processes=processes, on_bad_volume="stop")
    message = str(caught.value)
    assert message.startswith(f"{bad.path}: truncated") and "\n" not in message
    assert message.endswith("(preprocess.on_bad_volume: skip would go on without it)")
    assert "left out" not in capsys.readouterr().err


def test_a_dangling_link_is_a_bad_volume(tmp_path, capsys):
    cases = make_cases(tmp_path, 1)
    cases[0].path.unlink()
    cases[0].path.symlink_to(tmp_path / "annexed" / "nowhere")
    stored, failures = build(cases, tmp_path / "store")
    assert [entry.case for entry in stored] == cases[1:] and list(failures) == cases[:1]
    assert "No such file" in failures[cases[0]] and str(cases[0].path) in capsys.readouterr().err


def test_too_little_foreground_says_which_setting_to_change(tmp_path):
    cases = make_cases(tmp_path, 1)
    with pytest.raises(UserError) as caught:
        build(cases, tmp_path / "store", on_bad_volume="stop", settings={**SETTINGS, "min_foreground": 0.99})
    assert "no slice has 99% of foreground; lower preprocess.min_foreground" in str(caught.value)


def test_nothing_usable_is_an_error(tmp_path, capsys):
    cases = make_cases(tmp_path, 1)
    for case in cases:
        case.path.write_bytes(b"not a volume")
    with pytest.raises(UserError, match="none of 2 images could be read; the reasons are above"):
        build(cases, tmp_path / "store")
    assert capsys.readouterr().err.count("warning") == 2


def test_a_full_disk_stops_the_run_instead_of_blaming_the_volume(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="disk full"):
        build(make_cases(tmp_path, 1), tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_an_error_without_a_text_is_named_by_its_kind():
    def fail():
        raise MemoryError

    assert store._attempt(fail, ()) == "MemoryError"


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time; from pathlib import Path; from pipeline.data import store\n"
        "def linger(folder):\n"
        "    (folder / f'{os.getpid()}.pid').touch(); time.sleep(60)\n"
        "store.extract = linger\n"
        "if __name__ == '__main__':\n"
        "    list(store._run({number: (Path(sys.argv[1]),) for number in range(4)}, 2))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment, stderr=subprocess.DEVNULL) as run:
        until(lambda: len(list(tmp_path.glob("*.pid"))) == 2, seconds=60)
        run.kill()
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    try:
        until(lambda: not any(alive(worker) for worker in workers), seconds=10)
    finally:
        for worker in filter(alive, workers):
            os.kill(worker, signal.SIGKILL)


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
