"""Several processes against one: fair turns, ratios of a round, and an end that says why."""

import argparse

import pytest

from benchmarks import step, together


def test_the_work_of_each_row_prints_the_seconds_of_a_step(monkeypatch, capsys):
    monkeypatch.setattr("pipeline.utils.hardware.set_up", lambda threads: None)
    for row, generator in (("unet-128", {"type": "unet"}), ("dualgan-128", {"type": "unet"})):
        small = step.Row(32, step.ROWS[row].method, generator | {"width": 2}, {"width": 2})
        monkeypatch.setitem(step.ROWS, row, small)
        assert together.main([row, "--work", "--steps", "1", "--batch", "1"]) == 0
        assert 0 < float(capsys.readouterr().out) < 60


def test_numbers_of_processes_take_turns_and_ratios_are_those_of_a_round(monkeypatch, capsys):
    calls, seconds = [], {1: [1.0, 8.0, 2.0], 2: [0.5, 4.0, 40.0]}

    def measured(count, _):
        calls.append(count)
        return seconds[count][sum(one == count for one in calls) - 1]

    monkeypatch.setattr(together, "seconds_a_step", measured)
    assert together.main(["--rounds", "3", "--batch", "4"]) == 0
    assert calls == [1, 2, 2, 1, 1, 2]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert rows == [["1", "2", "s", "2", "1.00"], ["2", "4", "s", "1", "2.00"]]  # the medians alone would say 0.50


def test_processes_that_fail_say_why():
    arguments = argparse.Namespace(row="no_such_row", batch=1, device="cpu", steps=1)
    with pytest.raises(RuntimeError, match=r"(?s)1 processes: exit code 2.*invalid choice: 'no_such_row'"):
        together.seconds_a_step(1, arguments)
