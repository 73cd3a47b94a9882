"""Each benchmark's command, once, at a size that takes no time: it runs, and its table says what it should."""

import re
import time
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from small_run import finished_phantom
from small_volumes import write_volume

from benchmarks import data, inference, size, step, views
from benchmarks.timing import Timing
from pipeline.inference.compile import CompiledForms
from pipeline.utils.errors import UserError

SMALL = """name: small
contrasts: [T1, T2]
data: {source: phantom}
generator: {type: unet, start: lookup, width: 2, depth: 3}
discriminator: {layers: 2}
preprocess: {spacing_mm: null, size: 32}
"""


def first_cells(printed):
    """The first column of the tables."""
    return [line.split("  ")[0].strip() for line in printed.splitlines() if "  " in line.strip()]


@pytest.fixture
def small_slices(monkeypatch):
    monkeypatch.setattr(data, "SETTINGS", replace(data.SETTINGS, size=32))
    for name, number in {"BATCH": 2, "BATCHES": 2, "FEW_VOLUMES": 2, "SLICES": 3, "MANY_VOLUMES": 3}.items():
        monkeypatch.setattr(data, name, number)
    monkeypatch.setattr(data, "IXI_SHAPE", (15, 26, 24))
    monkeypatch.setattr(data, "PHANTOM_MM", 8.0)


def test_data(small_slices, monkeypatch, capsys):
    monkeypatch.setattr(data, "SSIM_SHAPES", {"slice": (24, 24), "volume": (16, 16, 16)})
    assert data.main(["--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    for row in ("nibabel", "scikit-image", "MONAI chain, Resized", "ours, into the store", "CacheDataset", "ours",
                "ours, 3 volumes", "ours, jitter 1.117", "ours, in the memory of cpu",
                "ours, 3 volumes, jitter 1.117"):  # fmt: skip
        assert row in first_cells(printed), row


def test_every_call_of_a_loaders_work_is_another_epoch(small_slices, tmp_path, monkeypatch):
    epochs = []
    monkeypatch.setattr("pipeline.data.loader.epoch_batches", lambda _, *, epoch, **__: epochs.append(epoch) or ())
    work = data.delivery(str(tmp_path / "scan.nii"), volumes=2, slices=3)
    work(), work(), work()
    assert epochs == [0, 1, 2]


def test_the_volume_of_ixis_size(small_slices, tmp_path):
    image = nib.load(data.ixi_size_volume(tmp_path))
    assert image.shape == (26, 24, 15) and image.get_data_dtype() == np.int16
    assert nib.aff2axcodes(image.affine) == ("P", "S", "R") and 1000 < np.max(image.dataobj) < 2000


@pytest.fixture
def small_model(tmp_path, monkeypatch):
    """The configuration that models come from; runtimes that are torch, and forms that are not compiled."""
    requests = []
    monkeypatch.setattr(
        "pipeline.exporting.backends.in_backend", lambda model, to, backend: requests.append(backend) or model
    )
    monkeypatch.setattr(CompiledForms, "__call__", lambda forms, network, batch: network(batch))
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "ixi.yaml").write_text(SMALL)
    monkeypatch.setattr(inference, "ROOT", tmp_path)
    return requests


def test_inference(small_model, capsys):
    assert inference.main(["--device", "cpu", "--rounds", "1", "--slices", "12"]) == 0
    rows = {row[0]: row for line in capsys.readouterr().out.splitlines() if (row := re.split(r"\s{2,}", line))}
    assert rows.keys() >= inference.WAYS["torch"].keys()
    assert rows["one by one, plain"][-1] == "inf" and float(rows["bf16"][-1]) > 30


def test_inference_of_a_volume_by_other_runtimes_counts_the_set_up(small_model, tmp_path, capsys):
    command = ["--backends", "ixi", "--rounds", "1", "--slices", "3", "--volume"]
    assert inference.main([*command, str(write_volume(tmp_path / "scan.nii.gz"))]) == 0
    assert {"torch", "onnxruntime", "openvino"} == set(small_model)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("ixi, runtimes, bf16, 3 slices")]
    rows = {row[0]: row for line in lines if (row := re.split(r"\s{2,}", line))}
    assert rows.keys() >= {way for title in ("runtimes, float32", "runtimes, bf16") for way in inference.WAYS[title]}
    for way in inference.WAYS["runtimes, float32"]:
        set_up, one_volume, volumes = (float(cell[:-2].replace(",", "")) for cell in rows[way][5:8])
        assert float(rows[way][-2]) < 1e-4 and set_up <= one_volume <= volumes, rows[way]


def test_the_set_up_counts_once(monkeypatch, capsys):
    def measure(sides, **_):
        for number, side in enumerate(sides.values()):
            np.save(side.options["result"], np.full((2, 4, 4), number / 4, np.float32))
        return {"first": Timing((1.0, 2.0, 4.0), 100.0, 10.0), "second": Timing((0.5, 1.0, 1.0), 200.0, 20.0)}

    monkeypatch.setitem(inference.WAYS, "torch", {"first": {}, "second": {}})
    monkeypatch.setattr(inference, "measure", measure)
    inference.compare("torch", {"model": {"name": "it"}, "slices": 2}, 3, time.perf_counter)
    first, second = (re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()[-2:])
    assert first[1:] == ["2 s", "0.5 slices/s", "1.000 (1.00 to 1.00)", "100 MiB", "6.0 s", "306.0 s", "6,006.0 s",
                         "0", "inf"]  # fmt: skip
    assert second[1:] == ["1 s", "1 slices/s", "0.500 (0.25 to 0.50)", "200 MiB", "18.0 s", "168.0 s", "3,018.0 s",
                          "0.25", "18.1"]  # fmt: skip


def test_inference_file_to_file_is_the_commands_own_way(small_model, capsys):
    assert inference.main(["--device", "cpu", "--rounds", "1", "--slices", "20", "--file"]) == 0
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.split("  ")[0] in (*inference.STAGES, "all else", "all")]
    assert len(rows) == 6 and "0 s" not in [re.split(r"\s{2,}", row)[1] for row in rows]


@pytest.mark.parametrize(
    ("command", "options", "reason"),
    [
        (step, "--batch 1 x", "--batch: 'x' is not a whole number from 1"),
        (step, "unet-129", "no such row: unet-129; choose from unet-256"),
        (step, "--device auto --graph", "--graph and tf32 need --device cuda"),
        (step, "--device gpu", "--device: 'gpu' is not one of auto, cpu, cuda, mps"),
        (data, "--device cuda", "device cuda: not available"),
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
        "README, words": 3,
    }  # fmt: skip
    assert size.main([str(tmp_path), str(tmp_path)]) == 0
    assert "4 (1.00)" in capsys.readouterr().out
    with pytest.raises(UserError, match="nowhere: no checkout of this project; give the folder that holds its README"):
        size.sizes(tmp_path / "nowhere")


def test_views(capsys):
    assert views.main([str(finished_phantom()), "--to", "T2"]) == 0
    printed = capsys.readouterr().out
    assert {"axial alone", "fused"} <= set(first_cells(printed)) and "phantom, to T2, 1 test subjects" in printed
    alone, fused = (line for line in printed.splitlines() if line.startswith(("axial alone", "fused")))
    assert alone.split()[2:] == fused.split()[1:]  # one view, fused with none
