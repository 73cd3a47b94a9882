"""Each benchmark's command, once, at a size that takes no time: it runs, and its table says what it should."""

import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from small_run import QUICK, phantom_run
from small_volumes import write_volume

import pipeline.run
from benchmarks import data, inference, metrics, overheads, scaling, scans, step, together, views
from benchmarks.commands import ROOT, run_command
from benchmarks.timing import Timing
from pipeline.config.load import load_config
from pipeline.data.fingerprint import volume_fingerprint


@pytest.fixture(autouse=True)
def at_once(monkeypatch, tmp_path):
    """The benchmarks' clock with every side in this process, called once; no setting of this process changes."""

    def measure(sides, *, rounds=1, **_):
        timings = {}
        for name, side in sides.items():
            work = side.prepare(**side.options)
            started = time.perf_counter()
            work()
            seconds = time.perf_counter() - started
            timings[name] = Timing((seconds / side.units,) * rounds, 100.0, seconds)
        return timings

    for module in (data, inference, metrics, scaling, step):
        monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr("pipeline.utils.hardware.set_up", lambda threads: None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def first_cells(printed):
    """The first column of the tables."""
    return [line.split("  ")[0].strip() for line in printed.splitlines() if "  " in line.strip()]


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(data, "SETTINGS", replace(data.SETTINGS, size=32))
    for name, size in {"BATCH": 2, "BATCHES": 2, "FEW_VOLUMES": 2, "SLICES": 3, "MANY_VOLUMES": 3}.items():
        monkeypatch.setattr(data, name, size)


def test_data(small_slices, tmp_path, capsys):
    volume = write_volume(tmp_path / "scan.nii.gz", affine=np.diag([0.9375, 0.9375, 1.2, 1]))
    assert data.main(["--volume", str(volume), "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for row in ("nibabel", "ours, int16", "MONAI chain, Resized", "ours, into the store", "CacheDataset", "ours",
                "ours, 3 volumes", "ours, jitter 1.117", "ours, in the memory of cpu",
                "ours, 3 volumes, jitter 1.117"):  # fmt: skip
        assert row in first_cells(printed), row
    [table_row] = [line for line in printed.splitlines() if line.startswith("ours, into the store")]
    [total_line] = [line for line in printed.splitlines() if "extrapolated" in line]
    spent = re.search(r"\d\S* [mµ]?s", table_row)[0]
    assert f"200 volumes of {spent}: 0.00 GiB" in total_line  # of the same run


def test_data_from_a_store_of_any_size(small_slices, tmp_path, capsys):
    volume = write_volume(tmp_path / "scan.nii.gz")
    assert data.main(["--volume", str(volume), "--only", "loader", "--volumes", "5", "--rounds", "1"]) == 0
    assert "ours, 5 volumes, jitter 1.117" in first_cells(capsys.readouterr().out)


def test_every_call_of_a_loaders_work_is_another_epoch(small_slices, tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr("pipeline.data.loader.epoch_batches", lambda _, *, epoch, **__: epochs.append(epoch) or ())
    work = data.delivery(str(tmp_path / "scan.nii"), "ours")
    work(), work(), work()
    assert epochs == [0, 1, 2]


SMALL = ["--width", "2", "--size", "32", "--device", "cpu", "--batch-size", "4", "--rounds", "1"]


def test_inference(monkeypatch, capsys):
    monkeypatch.setattr(
        "pipeline.inference.compile.CompiledForms", lambda batch_size: lambda network, batch: network(batch)
    )
    assert inference.main([*SMALL, "--slices", "12"]) == 0
    printed = capsys.readouterr().out
    rows = first_cells(printed)
    assert [rows.count(name) for name in inference.variants(4)] == [1, 2, 2, 2, 2, 2]
    psnr = {line.split("  ")[0]: line.split()[-1] for line in printed.partition("against one by one")[2].splitlines()}
    assert float(psnr["bf16"]) > 30


def test_inference_file_to_file_is_the_commands_own_way(monkeypatch, capsys):
    compared = []
    likeness = volume_fingerprint
    recorded = lambda *arguments: compared.append(arguments[1]) or likeness(*arguments)  # noqa: E731
    monkeypatch.setattr("pipeline.inference.domain_shift.volume_fingerprint", recorded)
    assert inference.main([*SMALL, "--slices", "20", "--file", "--precision", "bf16"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.split("  ")[0] in (*inference.STAGES, "all else", "all")]
    assert len(rows) == 6 and "0 s" not in [re.split(r"\s{2,}", row)[1] for row in rows]
    assert compared == ["axial"] * 2  # with the cohort, in each of the two translations


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--compile", "--compile goes with --file alone"),
        ("--precision bf16", "--precision goes with --file alone"),
        ("--to T2", "--to goes with --model alone"),
        ("--model m --width 4", "--width is the model's own"),
        (f"--volume {__file__} --slices 4", "--slices is the volume's own"),
    ],
)
def test_inference_refuses_options_that_would_do_nothing(options, reason, capsys):
    with pytest.raises(SystemExit) as ended:
        inference.main(options.split())
    assert ended.value.code == 2 and reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        (step, "unet-128 --rounds 0", "--rounds: '0' is not a whole number from 1"),
        (step, "--batch 1 x", "--batch: 'x' is not a whole number from 1"),
        (step, "--seconds nan", "--seconds: 'nan' is not a number of seconds above 0"),
        (step, "unet-129", "no such row: unet-129; choose from unet-256"),
        (step, "--graph", "--graph, tf32 and fp16 need --device cuda"),
        (overheads, "--log-every 0 --only doors", "--log-every: '0' is not a whole number from 1"),
        (scaling, "pixel", "no such quantity: pixel"),
        (step, "--device auto --graph", "--graph, tf32 and fp16 need --device cuda"),
        (together, "--processes 1 2 --batch 3", "--batch 3: cannot be divided among 2 processes"),
        (inference, "--size 100", "--size 100: must be a power of two"),
        (inference, "--volume no.nii", "no.nii: no such file; give the path of a NIfTI volume"),
        (data, "--volume no.nii", "no.nii: no such file; give the path of a NIfTI volume"),
        (together, "--device gpu", "--device: 'gpu' is not one of auto, cpu, cuda, mps"),
        *((one, "--device cuda", "device cuda: not available") for one in (step, data, inference, together)),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(command, options, reason, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        command.main(options.split())
    assert ended.value.code == 2 and reason in capsys.readouterr().err


def test_step(monkeypatch, capsys):
    small = {"generator": {"type": "unet", "width": 2}, "discriminator": {"width": 2}}
    monkeypatch.setitem(step.ROWS, "unet-128", step.Row(128, step.CYCLEGAN, **small))
    monkeypatch.setattr(step, "ROOF_IMAGES", (1, 2, 8, 8))
    assert step.main(["unet-128", "--batch", "2", "--rounds", "1", "--roof", "--layers", "--threads", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unet-128")]
    sides = ("plain", "float32", "bf16", "float32 layers", "bf16 layers")
    assert [re.split(r"\s{2,}", line)[1:3] for line in lines] == [["2", side] for side in sides]
    assert all(line.endswith("%") for line in lines)
    assert step.main(["unet-128", "--operations"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unet-128")]
    plain, ours, ratio = (float(cell.replace(",", "")) for cell in line.split()[2:])
    assert ours / plain == pytest.approx(ratio, abs=1e-3) and ours < plain


def test_metrics(monkeypatch, capsys):
    monkeypatch.setattr(metrics, "SHAPES", {"slice": (24, 24), "volume": (16, 16, 16)})
    assert metrics.main(["--rounds", "1"]) == 0
    rows = first_cells(capsys.readouterr().out)
    assert [rows.count(name) for name in ("scikit-image", "monai", "ours")] == [2, 2, 2]


def test_overheads_of_doors_that_say_what_is_expected(monkeypatch, capsys):
    assert overheads.main(["--only", "doors", "--rounds", "1"]) == 0
    rows = first_cells(capsys.readouterr().out)
    assert [f"{name}{end}" in rows for name in overheads.COMMANDS for end in (" --help", ", refused")] == [True] * 14
    with pytest.raises(RuntimeError, match=r"pipeline.sync gone: exit code 2, not 2; it says 'error: gone: no such"):
        overheads.answer_seconds(["pipeline.sync", "gone"], 1, "something else", 2)


def test_overheads_of_a_record_are_those_of_the_whole_process():
    size = {"steps": 6, "step_seconds": 0.001, "log_every": 2}
    for how in (overheads.NOTHING, overheads.FILE, overheads.FOLLOWED):
        record = overheads.measure_record(how, **size)
        assert record.keys() == {"start", "computed", "waited"} and min(record.values()) >= 0
        assert record["computed"] < 60


def test_overheads_of_a_record_are_told_beyond_a_round_without_one(monkeypatch):
    idle, busy = [1.0, 5.0, 1.0], [1.2, 5.3, 1.9]  # one round has another load: its difference is in the middle

    def in_turns(names, rounds, take, title):
        assert rounds == 3
        computed = {name: idle if name == overheads.NOTHING else busy for name in names}
        return {name: [{"start": 2, "computed": one, "waited": 0.05} for one in computed[name]] for name in names}

    monkeypatch.setattr(overheads, "in_turns", in_turns)
    rows = overheads.record_rows(1.0, step_seconds=0.1, log_every=5, rounds=3)  # ten steps
    assert [row[1:] for row in rows] == [["30 ms", "30.00%", "5 ms", "5.00%", "2 s"]] * 3


@pytest.fixture
def after_the_demo(tmp_path, monkeypatch):
    """The folder worked in holds a run of the demo's name, of another configuration."""
    (tmp_path / "tree" / "runs" / "phantom").mkdir(parents=True)
    (tmp_path / "tree" / "runs" / "phantom" / "config.yaml").write_text("name: phantom\n")
    monkeypatch.chdir(tmp_path / "tree")


def test_scaling(after_the_demo, monkeypatch, capsys):
    sizes = {"PIXELS": (128, 256), "BATCHES": (1, 2), "SLICES": (2, 4), "SUBJECTS": (10, 20), "VOLUMES": (1, 3)}
    for name, values in sizes.items():
        monkeypatch.setattr(scaling, name, values)
    small = {"generator": {"type": "unet", "width": 2}, "discriminator": {"width": 2}}
    monkeypatch.setitem(step.ROWS, "unet-128", step.Row(128, step.CYCLEGAN, **small))
    monkeypatch.setattr(scaling, "command_seconds", in_this_process)
    assert scaling.main([*scaling.QUANTITIES, "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for size in ("256 pixels a side", "2 a batch", "4 slices", "20 subjects", "3 volumes"):
        assert f"  {size}  " in printed
    assert printed.count("exponent") == 5


def in_this_process(command):
    assert command[1:3] == ["-m", "pipeline.run"]
    started = time.perf_counter()
    assert pipeline.run.main(command[3:]) == 0
    return time.perf_counter() - started


def test_scaling_with_the_length_of_a_run(monkeypatch, capsys):
    def run(command):
        config = load_config(Path(command[3]), [part for part in command[4:] if part != "--quiet"])
        assert command[1:3] == ["-m", "pipeline.run"] and config.tracking.mlflow
        assert os.environ["MLFLOW_TRACKING_URI"].startswith(f"sqlite:///{config.folder.parent}")
        assert (config.training.epochs, config.training.steps_per_epoch, config.training.log_every) == (10, 3, 1)
        ends = np.cumsum([10 + step if step % 3 == 1 else 1 for step in range(1, 31)]).tolist()
        lines = [{"step": step, "time": time, "train/cycle_a": 0.5} for step, time in enumerate(ends, 1)]
        config.folder.mkdir(parents=True)
        (config.folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))

    monkeypatch.setattr(scaling, "command_seconds", run)
    assert scaling.main(["length", "--epochs", "10", "--steps", "3"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"a step, fifth 5 +1 s", printed) and re.search(r"a step, last over first +1.00", printed)
    assert re.search(r"an epoch's end, fifth 1 +14.5 s", printed)  # after 3 and 6 steps: 13 and 16


def test_the_ends_of_epochs_are_told_from_the_steps_within():
    times = np.cumsum([9, 1, 1, 6, 1, 1, 7, 1, 1])  # three epochs of three steps
    within, ends = scaling.epoch_gaps(list(zip(range(1, 10), times.tolist(), strict=True)), 3)
    assert within == [1] * 6 and ends == [5, 6]
    assert scaling.fifths("x", [1.0, 1.0, 1.0, 1.0, 2.0, 3.0])[-1][1:3] == ["x, last over first", "3.00"]


def test_the_plan_of_a_cohort_does_not_depend_on_earlier_runs(after_the_demo, capsys):
    [[label, _]] = overheads.plan_rows(10)
    assert label == "run --dry-run, 10 subjects"


def test_a_command_leaves_nothing_where_the_benchmark_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = run_command(
        [overheads.sys.executable, "-c", "import pipeline; open('left', 'w'); print(pipeline.__file__)"]
    )
    assert Path(ended.stdout.strip()) == ROOT / "pipeline" / "__init__.py" and list(tmp_path.iterdir()) == []


def test_a_command_that_fails_says_why():
    with pytest.raises(RuntimeError, match=r"(?s)pipeline.run no_such.yaml: exit code 2.*No such file"):
        scaling.command_seconds([overheads.sys.executable, "-m", "pipeline.run", "no_such.yaml"])


def test_scans(monkeypatch, tmp_path):
    monkeypatch.setattr(scans, "SHAPE", (15, 26, 24))
    monkeypatch.setattr(scans, "PHANTOM_MM", 8.0)
    path = scans.ixi_size_volume(tmp_path)
    image = nib.load(path)
    assert image.shape == (26, 24, 15) and image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R") and 1000 < np.max(image.dataobj) < 2000
    written = path.stat().st_mtime_ns
    assert scans.ixi_size_volume(tmp_path) == path and path.stat().st_mtime_ns == written


def test_views(tmp_path, capsys):
    short = ("training.steps_per_epoch=1", "training.decay_epochs=0", "evaluation.translate=false")
    assert phantom_run(tmp_path / "run", *QUICK, *short) == 0
    capsys.readouterr()
    assert json.loads((tmp_path / "run" / "uncertainty.json").read_text())
    assert views.main([str(tmp_path / "run"), "--to", "T2"]) == 0
    printed = capsys.readouterr().out
    assert {"axial alone", "fused"} <= set(first_cells(printed)) and "phantom, to T2, 1 test subjects" in printed
    alone, fused = (line for line in printed.splitlines() if line.startswith(("axial alone", "fused")))
    assert alone.split()[2:] == fused.split()[1:]  # one view, fused with none
