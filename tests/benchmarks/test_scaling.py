"""Growth with the size of the work: its rows, several processes, and the length of a run."""

import json
import os
import re
from pathlib import Path

import numpy as np

from benchmarks import scaling, step
from pipeline.config.load import load_config


def test_scaling(monkeypatch, capsys):
    sizes = {"pixels": (128, 256), "batch": (1, 2), "slices": (2, 4), "volumes": (1, 3)}
    for name, values in sizes.items():
        what, unit, prepare, option, _, others = scaling.QUANTITIES[name]
        monkeypatch.setitem(scaling.QUANTITIES, name, (what, unit, prepare, option, values, others))
    monkeypatch.setattr(scaling, "SUBJECTS", (10, 20))
    small = {"generator": {"type": "unet", "width": 2}, "discriminator": {"width": 2}}
    monkeypatch.setitem(step.ROWS, "unet-128", step.Row(128, step.CYCLEGAN, **small))
    monkeypatch.setattr(scaling, "run_command", planned)
    assert scaling.main([*scaling.QUANTITIES, "subjects", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for cell in ("256 pixels a side", "2 a batch", "4 slices", "20 subjects", "3 volumes"):
        assert f"  {cell}  " in printed
    assert printed.count("exponent") == 5 and re.search(r"dry run +exponent +1.00", printed)


def planned(*arguments):
    assert arguments[:2] == ("-m", "pipeline.run") and arguments[3] == "--dry-run"
    return float(load_config(Path(arguments[2]), arguments[4:]).data.subjects), ""


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
        return 0.0, f"{seconds[number][calls.count(number) - 1]}\n"

    monkeypatch.setattr(scaling, "run_command", measured)
    rows = scaling.process_rows([1, 2], 4, "cpu", 3)
    assert calls == [1, 2, 2, 1, 1, 2]
    assert [row[1:3] for row in rows] == [
        ["1 processes, 1.00 of the rate of 1", "2 s"], ["2 processes, 2.00 of the rate of 1", "4 s"],
    ]  # fmt: skip  # the medians alone would say 0.50


def test_scaling_with_the_length_of_a_run(monkeypatch, capsys):
    def run(*arguments):
        config = load_config(Path(arguments[2]), [part for part in arguments[3:] if part != "--quiet"])
        assert arguments[:2] == ("-m", "pipeline.run") and config.tracking.mlflow
        assert os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{config.folder.parent}")
        assert (config.training.epochs, config.training.steps_per_epoch, config.training.log_every) == (10, 3, 1)
        ends = np.cumsum([10 + step if step % 3 == 1 else 1 for step in range(1, 31)]).tolist()
        lines = [{"step": step, "time": time, "train/cycle_a": 0.5} for step, time in enumerate(ends, 1)]
        config.folder.mkdir(parents=True)
        (config.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))

    monkeypatch.setattr(scaling, "run_command", run)
    monkeypatch.setattr(scaling, "EPOCHS", 10)
    monkeypatch.setattr(scaling, "STEPS", 3)
    assert scaling.main(["length"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"a step, fifth 5 +1 s", printed) and re.search(r"a step, last over first +1.00", printed)
    assert re.search(r"an epoch's end, fifth 1 +14.5 s", printed)  # after 3 and 6 steps: 13 and 16


def test_the_ends_of_epochs_are_told_from_the_steps_within():
    times = np.cumsum([9, 1, 1, 6, 1, 1, 7, 1, 1])  # three epochs of three steps
    within, ends = scaling.epoch_gaps(list(zip(range(1, 10), times.tolist(), strict=True)), 3)
    assert within == [1] * 6 and ends == [5, 6]
    assert scaling.fifths("x", [1.0, 1.0, 1.0, 1.0, 2.0, 3.0])[-1][1:3] == ["x, last over first", "3.00"]
