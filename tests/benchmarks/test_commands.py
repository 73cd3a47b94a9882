"""Each benchmark's command, once, at a size that takes no time: it runs, and its table says what it should."""

import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_run import QUICK, phantom_run
from small_volumes import write_volume

from benchmarks import data, inference, inputs, overheads, scaling, size, step, views
from benchmarks.timing import ROOT, run_command
from pipeline.config.load import load_config


def first_cells(printed):
    """The first column of the tables."""
    return [line.split("  ")[0].strip() for line in printed.splitlines() if "  " in line.strip()]


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(data, "SETTINGS", replace(data.SETTINGS, size=32))
    for name, number in {"BATCH": 2, "BATCHES": 2, "FEW_VOLUMES": 2, "SLICES": 3, "MANY_VOLUMES": 3}.items():
        monkeypatch.setattr(data, name, number)


def test_data(small_slices, tmp_path, monkeypatch, capsys):
    volume = write_volume(tmp_path / "scan.nii.gz", affine=np.diag([0.9375, 0.9375, 1.2, 1]))
    monkeypatch.setattr(data, "SSIM_SHAPES", {"slice": (24, 24), "volume": (16, 16, 16)})
    assert data.main(["--volume", str(volume), "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for row in ("nibabel", "scikit-image", "MONAI chain, Resized", "ours, into the store", "CacheDataset", "ours",
                "ours, 3 volumes", "ours, jitter 1.117", "ours, in the memory of cpu",
                "ours, 3 volumes, jitter 1.117"):  # fmt: skip
        assert row in first_cells(printed), row


def test_every_call_of_a_loaders_work_is_another_epoch(small_slices, tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr("pipeline.data.loader.epoch_batches", lambda _, *, epoch, **__: epochs.append(epoch) or ())
    work = data.delivery(str(tmp_path / "scan.nii"))
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


def test_inference_file_to_file_is_the_commands_own_way(capsys):
    assert inference.main([*SMALL, "--slices", "20", "--file"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.split("  ")[0] in (*inference.STAGES, "all else", "all")]
    assert len(rows) == 6 and "0 s" not in [re.split(r"\s{2,}", row)[1] for row in rows]


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        (step, "unet-128 --rounds 0", "--rounds: '0' is not a whole number from 1"),
        (step, "--batch 1 x", "--batch: 'x' is not a whole number from 1"),
        (step, "unet-129", "no such row: unet-129; choose from unet-256"),
        (step, "--graph", "--graph, tf32 and fp16 need --device cuda"),
        (overheads, "--log-every 0 --only doors", "--log-every: '0' is not a whole number from 1"),
        (scaling, "pixel", "no such quantity: pixel"),
        (step, "--device auto --graph", "--graph, tf32 and fp16 need --device cuda"),
        (scaling, "processes --processes 1 2 --batch 3", "--batch 3: cannot be divided among 2 processes"),
        (inference, "--size 100", "--size 100: must be a power of two"),
        (inference, "--volume no.nii", "no.nii: no such file; give the path of a NIfTI volume"),
        (data, "--volume no.nii", "no.nii: no such file; give the path of a NIfTI volume"),
        (scaling, "--device gpu", "--device: 'gpu' is not one of auto, cpu, cuda, mps"),
        *((one, "--device cuda", "device cuda: not available") for one in (step, data, inference, scaling)),
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
    assert step.main(["unet-128", "--batch", "2", "--rounds", "1", "--roof"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unet-128")]
    sides = ("plain", "float32", "bf16")
    assert [re.split(r"\s{2,}", line)[1:3] for line in lines] == [["2", side] for side in sides]
    assert all(line.endswith("%") for line in lines)
    assert step.main(["unet-128", "--operations"]) == 0
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("unet-128")]
    plain, ours, ratio = (float(cell.replace(",", "")) for cell in line.split()[2:])
    assert ours / plain == pytest.approx(ratio, abs=1e-3) and ours < plain


def test_overheads_of_doors_that_say_what_is_expected(monkeypatch, capsys):
    assert overheads.main(["--only", "doors", "--rounds", "1"]) == 0
    rows = first_cells(capsys.readouterr().out)
    assert [f"{name}{end}" in rows for name in overheads.COMMANDS for end in (" --help", ", refused")] == [True] * 14


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


def test_the_plan_of_a_cohort_lies_in_a_folder_of_its_own(monkeypatch):
    calls = []
    monkeypatch.setattr(overheads, "run_command", lambda *arguments, **_: calls.append(arguments) or (1.5, ""))
    assert overheads.plan_row(10) == ["run --dry-run, 10 subjects", "1.5 s"]
    [(_, module, path, dry_run, *overrides)] = calls
    config = load_config(Path(path), overrides)
    assert (module, dry_run, config.data.subjects) == ("pipeline.run", "--dry-run", 10)
    assert config.folder.parent == config.data.folder.parent == config.preprocess.store.parent


def test_a_command_leaves_nothing_where_the_benchmark_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seconds, printed = run_command("-c", "import pipeline; open('left', 'w'); print(pipeline.__file__)")
    assert Path(printed.strip()) == ROOT / "pipeline" / "__init__.py" and list(tmp_path.iterdir()) == []
    assert seconds > 0


def test_a_command_that_fails_or_answers_something_else_says_why():
    with pytest.raises(RuntimeError, match=r"(?s)pipeline.run no_such.yaml: exit code 2, not 0.*No such file"):
        run_command("-m", "pipeline.run", "no_such.yaml")
    with pytest.raises(RuntimeError, match=r"pipeline.sync gone: exit code 2, not 2; it says 'error: gone: no such"):
        run_command("-m", "pipeline.sync", "gone", code=2, expected="something else")


def test_the_volume_of_ixis_size(monkeypatch, tmp_path):
    monkeypatch.setattr(inputs, "IXI_SHAPE", (15, 26, 24))
    monkeypatch.setattr(inputs, "PHANTOM_MM", 8.0)
    image = nib.load(inputs.ixi_size_volume(tmp_path))
    assert image.shape == (26, 24, 15) and image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R") and 1000 < np.max(image.dataobj) < 2000


def test_size_counts_lines_files_and_keys(tmp_path, capsys):
    files = {
        "pipeline/__init__.py": "",
        "pipeline/a.py": "x = 1\n\ny = 2\n",
        "networks/b/c.py": "z = 3\n",
        "tests/test_a.py": "assert True\n" * 4,
        "configs/one.yaml": "name: one\ndata:\n  source: ixi\n  folder: x\n",
        "configs/two.yaml": "base: one.yaml\ndata:\n  seed: 1\n",
        "README.md": "# A title\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert size.sizes(tmp_path) == {
        "source lines": 4, "source files": 2, "test lines": 4, "configuration keys": 5, "lines of configs/": 7,
        "README, bytes": 10, "README, words": 3,
    }  # fmt: skip
    assert size.main([str(tmp_path), str(tmp_path)]) == 0
    assert "4 (1.00)" in capsys.readouterr().out


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
