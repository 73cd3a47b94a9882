import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from full_disk import fill
from small_store import SETTINGS, build, make_cases
from small_volumes import write_volume

from pipeline.data import slice_cache
from pipeline.data.case import Case
from pipeline.data.slice_cache import extract
from pipeline.utils.errors import DiskFull, UserError

ROOT = Path(__file__).parents[3]


def shorten(path):
    path.write_bytes(path.read_bytes()[:-100])


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
        build(cases, tmp_path / "store", on_bad_volume="stop", min_foreground=0.99)
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


@pytest.mark.parametrize(("suffix", "room"), [(".npy", 0), (".npy", 700), (".npy", 2000), (".json", 0), (".json", 90)])
def test_a_disk_that_fills_within_an_entry_leaves_the_entries_before_and_the_rest_is_made_later(
    suffix, room, tmp_path, monkeypatch
):
    cases = make_cases(tmp_path, 2)
    [original], _ = build(cases[:1], tmp_path / "store")
    content = original.path.read_bytes()
    with monkeypatch.context() as patch:
        fill(patch, room, suffix)
        with pytest.raises(DiskFull) as caught:
            build(cases, tmp_path / "store")
    match = re.fullmatch(r"(.*): disk full, [\d.]+ \w+ left; free some space and run again", str(caught.value))
    assert Path(match[1]).parent == tmp_path / "store" and match[1].endswith(suffix)
    assert not list((tmp_path / "store").glob(".tmp-*"))
    assert slice_cache.look_up(cases[0], tmp_path / "store", *SETTINGS) == original
    assert original.path.read_bytes() == content
    assert slice_cache.look_up(cases[1], tmp_path / "store", *SETTINGS) is None
    stored, failures = build(cases, tmp_path / "store")
    assert [entry.case for entry in stored] == cases and failures == {}


def test_workers_end_with_a_run_that_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time; from pathlib import Path; from pipeline.utils.workers import run_jobs\n"
        "def linger(folder):\n"
        "    (folder / f'{os.getpid()}.pid').touch(); time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    list(run_jobs(linger, {number: (Path(sys.argv[1]),) for number in range(4)}, 2))\n"
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


def test_an_image_replaced_while_it_is_read_is_not_served(tmp_path, monkeypatch, capsys):
    good, bad = (Case(name, "", "T1", write_volume(tmp_path / f"{name}.nii.gz")) for name in "ab")

    def replaced_meanwhile(path, *arguments):
        extract(path, *arguments)
        if path == bad.path:
            write_volume(path, seed=5, shape=(22, 22, 12))

    monkeypatch.setattr(slice_cache, "extract", replaced_meanwhile)
    stored, failures = build([good, bad], tmp_path / "store")
    assert [entry.case for entry in stored] == [good]
    assert failures == {bad: "changed while it was being read; run again"}
    assert f"warning: {bad.path}: changed while it was being read" in capsys.readouterr().err
