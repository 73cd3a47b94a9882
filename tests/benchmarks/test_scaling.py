"""Growth with the size of the work: its rows, and several processes."""

import pytest

from benchmarks import scaling, step


def test_scaling(monkeypatch, capsys):
    sizes = {"pixels": (128, 256), "batch": (1, 2), "slices": (2, 4), "volumes": (1, 3)}
    for name, values in sizes.items():
        what, unit, prepare, option, _, others = scaling.QUANTITIES[name]
        monkeypatch.setitem(scaling.QUANTITIES, name, (what, unit, prepare, option, values, others))
    small = {"generator": {"type": "unet", "width": 2}, "discriminator": {"width": 2}}
    monkeypatch.setitem(step.ROWS, "unet-128", step.Row(128, step.CYCLEGAN, **small))
    assert scaling.main([*scaling.QUANTITIES, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for cell in ("256 pixels a side", "2 a batch", "4 slices", "3 volumes"):
        assert f"  {cell}  " in printed
    assert printed.count("exponent") == 4


def test_the_exponent_is_that_of_a_power_law():
    assert scaling.power_law_exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)


def test_the_work_of_several_processes_prints_the_seconds_of_a_step(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "PROCESS_STEPS", 1)
    monkeypatch.setitem(step.ROWS, "unet-128", step.Row(32, step.CYCLEGAN, step.UNET | {"width": 2}, {"width": 2}))
    assert scaling.main(["processes", "--work", "--batch", "1"]) == 0
    assert 0 < float(capsys.readouterr().out) < 60


def test_numbers_of_processes_take_turns_and_ratios_are_those_of_a_round(monkeypatch):
    calls, seconds = [], {1: [1.0, 8.0, 2.0], 2: [0.5, 4.0, 40.0]}

    def measured(*arguments):
        number = 2 if "--nproc_per_node=2" in arguments else 1
        calls.append(number)
        return f"{seconds[number][calls.count(number) - 1]}\n"

    monkeypatch.setattr(scaling, "run_python", measured)
    rows = scaling.process_rows([1, 2], 4, "cpu", 3)
    assert calls == [1, 2, 2, 1, 1, 2]
    assert [row[1:3] for row in rows] == [
        ["1 processes, 1.00 of the rate of 1", "2 s"], ["2 processes, 2.00 of the rate of 1", "4 s"],
    ]  # fmt: skip  # the medians alone would say 0.50
