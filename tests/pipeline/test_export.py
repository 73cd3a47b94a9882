import json
import shutil

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from negative_model import volume_at
from small_checkpoints import untrained_model

from pipeline.export import main
from pipeline.exporting import agreement, backends
from pipeline.exporting import onnx as onnx_module
from pipeline.exporting.onnx import onnx_model
from pipeline.inference.model import load_model
from pipeline.inference.runtimes import backend_of
from pipeline.translate import main as translate

CONFIG = {
    "generator": {"type": "skip", "width": 4, "blocks": 1},
    "preprocess": {
        "axis": "coronal",
        "spacing_mm": {"in_plane": 8.0, "through_plane": 9.0},
        "size": 32,
        "neighbours": 1,
    },
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of a run, whose networks do something."""
    return untrained_model(tmp_path_factory.mktemp("run") / "best.pt", CONFIG, weights_sd=0.3, chain_version=2)


@pytest.fixture(scope="module", autouse=True)
def exported_once():
    """Have a network exported to ONNX once, which takes seconds."""
    made = {}

    def remembered(model, to):
        if (identity := model.identity(to)) not in made:
            made[identity] = onnx_model(model, to)
        return made[identity]

    with pytest.MonkeyPatch.context() as patched:
        for module in (onnx_module, backends):
            patched.setattr(module, "onnx_model", remembered)
        yield


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The files that the command made of the checkpoint, by format."""
    paths = {name: checkpoint.with_name(f"model{suffix}") for name, suffix in (("onnx", ".onnx"), ("openvino", ".xml"))}
    for name, path in paths.items():
        assert main([str(checkpoint), "-o", str(path), "--format", name, "--to", "T2"]) == 0
    return paths


def translated(folder, name, *options):
    """The voxels of a scan that the command translates, and its exit code."""
    source, target = volume_at(folder / "in.nii.gz"), folder / f"{name}.nii.gz"
    code = translate(["-i", str(source), "-o", str(target), *map(str, options)])
    return nib.load(target).get_fdata() if code == 0 else code


@pytest.fixture
def expected(checkpoint, tmp_path):
    """What torch makes of the scan."""
    return translated(tmp_path, "torch", "--model", checkpoint, "--to", "T2")


@pytest.mark.parametrize(("name", "backend"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_another_runtime_translates_as_the_checkpoint_does(name, backend, checkpoint, exported, expected, tmp_path):
    assert np.ptp(expected) > 100 and expected.std() > 20
    for options in (("--model", exported[name]), ("--model", checkpoint, "--to", "T2", "--backend", backend)):
        ours = translated(tmp_path, name, *options, "--overwrite")
        assert np.abs(ours - expected).max() <= 1  # whole numbers, of which rounding may take the next
        assert (ours != expected).mean() < 0.01
    original, model = load_model(checkpoint, "cpu"), load_model(exported[name])
    assert model.info("T2") == original.info("T2") and model.metadata("T2") == original.metadata("T2")
    # The same weights made both, so that a command with either finds its work done.
    repeated = translate(
        ["-i", str(tmp_path / "in.nii.gz"), "-o", str(tmp_path / "torch.nii.gz"), "--model", str(exported[name])]
    )
    assert repeated == 0 and np.array_equal(nib.load(tmp_path / "torch.nii.gz").get_fdata(), expected)


@pytest.fixture
def openvino_pays(monkeypatch):
    """Have OpenVINO be the quickest from the first volume on."""
    monkeypatch.setattr(backends, "may_gain", lambda *_: True)
    monkeypatch.setattr(backends, "_seconds", lambda model, to, _: float(backend_of(model.translators[to]) == "torch"))


def test_what_auto_chose_is_named_and_its_volume_is_torchs(
    openvino_pays, checkpoint, expected, tmp_path, capsys, monkeypatch
):
    common, summary = ("--model", checkpoint, "--to", "T2", "--backend", "auto"), tmp_path / "summary.json"
    ours = translated(tmp_path, "auto", *common, "--summary", summary)
    assert np.abs(ours - expected).max() <= 1 and (ours != expected).mean() < 0.01
    assert "computed by OpenVINO 20" in capsys.readouterr().out
    assert json.loads(summary.read_text())["computed_by"].startswith("OpenVINO 20")

    # Where the runtime does not agree, torch stays.
    monkeypatch.setattr(agreement, "BOUND", 0.0)
    assert np.array_equal(translated(tmp_path, "agrees not", *common), expected)
    printed = capsys.readouterr()
    assert "OpenVINO cannot compute the network" in printed.err and "computed by torch 2" in printed.out


def test_auto_leaves_uncertainty_and_compilation_to_torch(openvino_pays, checkpoint, expected, tmp_path, capsys):
    options = ("--model", checkpoint, "--to", "T2", "--backend", "auto")
    assert translated(tmp_path, "map", *options, "--uncertainty") == 2  # the checkpoint has no calibration
    assert "uncertainty.json" in capsys.readouterr().err
    translated(tmp_path, "compiled", *options, "--compile", "yes", "--batch-size", 1000)  # no batch is full
    assert f"computed by torch {torch.__version__}, compiled" in capsys.readouterr().out


def test_the_command_names_what_is_lost(checkpoint, tmp_path, capsys):
    path = tmp_path / "new" / "model.pt2"
    assert main([str(checkpoint), "-o", str(path), "--format", "pt2", "--to", "T2"]) == 0
    printed = capsys.readouterr().out
    for lost in ("uncertainty maps", "the other direction", "checks of a volume against the training cohort"):
        assert f"not in model.pt2: {lost}" in printed.replace("preprocessing and the ", "")
    assert "wrote" in printed and "T1 to T2" in printed and "not for clinical use" in printed


def refusal(capsys, command, *arguments):
    """The line that a command prints when it refuses."""
    capsys.readouterr()
    assert command([*map(str, arguments)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def test_what_an_exported_model_cannot_do_is_one_line(exported, checkpoint, tmp_path, capsys):
    source, onnx_file, xml = volume_at(tmp_path / "in.nii"), exported["onnx"], exported["openvino"]
    common = ("-i", source, "-o", tmp_path / "out.nii", "--model")
    for options, message in {
        (onnx_file, "--uncertainty"): "an exported model has no uncertainty; give the run's folder",
        (checkpoint, "--backend", "openvino", "--uncertainty"): "--uncertainty needs the networks of torch",
        (onnx_file, "--precision", "bf16"): "--precision bf16: ONNX Runtime computes in float32",
        (onnx_file, "--device", "cuda"): "--device cuda: ONNX Runtime computes on the CPU alone here; choose cpu",
        (xml, "--backend", "onnxruntime"): "comes from a file for OpenVINO; leave --backend out",
        (xml, "--to", "T1"): "the model does not make 'T1' but T2",
        (
            xml,
            "--style",
            source,
        ): "it has no styles to set; --style is for method munit, from a run's folder",
    }.items():
        assert message in refusal(capsys, translate, *common, *options)
    assert not (tmp_path / "out.nii").exists()
    assert "exported already, and none is made of it; give the run's folder" in refusal(
        capsys, main, onnx_file, "-o", tmp_path / "x.onnx", "--format", "onnx"
    )


def test_bad_arguments_are_one_line(checkpoint, tmp_path, capsys):
    for options, message in {
        ("-o", "x.bin", "--format", "onnx", "--to", "T2"): "--format onnx writes a file that ends in .onnx",
        ("-o", tmp_path / "x.onnx", "--format", "onnx"): r"the model makes T1 and T2; name the one to make (--to)",
    }.items():
        assert message in refusal(capsys, main, checkpoint, *options)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_program_beside_an_openvino_model_are_not_replaced(checkpoint, tmp_path, capsys):
    weights, command = tmp_path / "x.bin", (checkpoint, "-o", tmp_path / "x.xml", "--format", "openvino", "--to", "T2")
    weights.write_text("foreign")
    message = "x.bin: is there without x.xml, and would be replaced; remove it, or choose another OUT"
    assert message in refusal(capsys, main, *command)
    assert weights.read_text() == "foreign" and list(tmp_path.iterdir()) == [weights]
    weights.unlink()
    weights.mkdir()
    assert "x.bin: is a folder, and a file is to be written there" in refusal(capsys, main, *command)


def test_other_files_of_the_same_suffix_are_one_line(exported, tmp_path, capsys):
    source = volume_at(tmp_path / "in.nii")
    foreign = onnx.load(exported["onnx"])
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    newer = onnx.load(exported["onnx"])
    for entry in newer.metadata_props:
        entry.value = entry.value.replace('"format": 1', '"format": 9')
    onnx.save(newer, tmp_path / "newer.onnx")
    (tmp_path / "damaged.onnx").write_bytes(exported["onnx"].read_bytes()[:-1000])
    shutil.copy(exported["openvino"], tmp_path / "alone.xml")  # without its .bin
    for name, message in {
        "foreign.onnx": "foreign.onnx: was not exported by this tool",
        "newer.onnx": "newer.onnx: exported by another release",
        "damaged.onnx": "damaged.onnx: ONNX Runtime cannot read it",
        "alone.xml": "alone.xml: OpenVINO cannot read it",
        "absent.onnx": "absent.onnx: no such model",
    }.items():
        assert message in refusal(
            capsys, translate, "-i", source, "-o", tmp_path / "out.nii", "--model", tmp_path / name
        )
