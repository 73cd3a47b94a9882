"""The fair clock that every figure in `benchmarks/` comes from."""

import time
from pathlib import Path

import pytest

from benchmarks.timing import Side, Timing, mean_seconds, measure, peak_mib, processor_seconds


def waiting(seconds):
    return lambda: time.sleep(seconds)


def writing(path, letter):
    return lambda: Path(path).open("a").write(letter)


def test_units_are_counted():
    timings = measure({"slow": Side(waiting, {"seconds": 0.04}), "fast": Side(waiting, {"seconds": 0.01}, units=2)},
                      rounds=2, seconds=0.02)  # fmt: skip
    assert len(timings["slow"].rounds) == len(timings["fast"].rounds) == 2
    assert timings["slow"].seconds >= 0.04
    assert timings["fast"].seconds < 0.9 * timings["slow"].seconds  # 0.125, but for what else the machine does
    assert timings["slow"].peak_mib > 1


def test_the_processors_seconds_are_those_in_which_it_works():
    assert mean_seconds(waiting(0.1), 0.0, processor_seconds) < 0.05
    started = time.process_time()
    worked = mean_seconds(lambda: sum(range(2_000_000)), 0.0, processor_seconds)
    assert worked == pytest.approx(time.process_time() - started, abs=0.03)


def test_the_order_moves_on_by_one_in_each_round(tmp_path):
    calls = tmp_path / "calls"
    sides = {letter: Side(writing, {"path": str(calls), "letter": letter}) for letter in "abc"}
    measure(sides, rounds=4, seconds=0.0, warm_up=1)
    assert calls.read_text() == "abc" + "abc" + "bca" + "cab" + "abc"  # the first to warm up


def test_on_a_gpu_its_own_memory_counts(monkeypatch):
    import torch  # the processes of the sides, which import this module, do without

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert peak_mib() > 100  # this process
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 3 * 2**20)
    assert peak_mib() == 3


def test_the_ratio_is_taken_within_each_round():
    ours, theirs = Timing((1.0, 10.0, 2.0), 1, 0), Timing((2.0, 20.0, 40.0), 1, 0)
    assert ours.ratio_to(theirs) == "0.500 (0.05 to 0.50)"  # the medians alone would say 0.1
