"""A bundle translates with MONAI alone, as the package does."""

import json
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from head_scans import scan, slanted_left_posterior_affine, write_scan
from negative_model import model_of
from small_engine import MUNIT, SMALL_GENERATORS, UNIT, config_of
from torch import nn

from pipeline.engines.builders import build_translators
from pipeline.exporting.bundle import EXAMPLE_SIDE, export_bundle, lost_in_bundle, traced
from pipeline.inference.slice_translator import neighbours_of
from pipeline.inference.translator import translate
from pipeline.utils.errors import UserError

# Runs bundles where nothing of this project can be imported, wherever it is installed: each in a folder of its own.
WITHOUT_THE_PACKAGE = """
import os, sys
class Blocker:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("pipeline", "networks", "transforms"):
            raise ModuleNotFoundError(f"{name} is hidden")
sys.meta_path.insert(0, Blocker())
from monai.bundle import run
sources, *folders = sys.argv[1:]
for folder in folders:
    os.chdir(folder)
    run(config_file="configs/inference.json", dataset_dir=sources, output_dir="out", device="cpu")
"""
SCANS = {"oblique": ((30, 36, 20), (4.6, 5.0, 8.0)), "anisotropic": ((48, 60, 12), (3.6, 3.4, 15.0))}
STARTED = {**SMALL_GENERATORS["unet"], "start": "lookup"}
OPTIONS = {name: {"generator": generator} for name, generator in SMALL_GENERATORS.items()} | {
    "munit": MUNIT,
    "unit": UNIT,
    "lookup start": {"generator": STARTED},
    "box start": {"generator": {**STARTED, "start": "box"}},
    "lookup start, neighbours": {"generator": STARTED, "preprocess": {"neighbours": 1}},
}


def network_of(name):
    """A small generator whose every weight matters."""
    torch.manual_seed(0)
    network = build_translators(config_of(**OPTIONS[name]))["T2"].eval()
    for weight in network.parameters():
        nn.init.normal_(weight, 0, 0.3)
    for module in network.modules():
        if hasattr(module, "set_table"):
            module.set_table(torch.rand(module.table.shape) * 2 - 1, (1.5, 4.0))
    return network


def model_for(name, **settings):
    settings = {"percentiles": (0.5, 99.5), "version": 2, "size": 32, **settings}
    return model_of(network_of(name), 0.0, 800.0, integer=True, **settings)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_generator_is_itself_in_torchscript_and_names_no_device(name):
    network = network_of(name)
    graph = traced(network, network.stride, "test")
    image = torch.rand(1, neighbours_of(network).channels, EXAMPLE_SIDE, 2 * EXAMPLE_SIDE) * 2 - 1
    expected = network(image)
    assert expected.std() > 0.005
    torch.testing.assert_close(graph(image), expected, rtol=0, atol=1e-5)
    assert "Device" not in str(graph.inlined_graph)


def test_bundles_translate_as_the_package_does_where_that_is_hidden(tmp_path):
    models = {
        "neighbours": model_for("lookup start, neighbours"),
        "sagittal": model_for("resnet", spacing_mm=(5.0, 6.0), axis="sagittal"),
    }
    for name, model in models.items():
        losses = export_bundle(model, "T2", tmp_path / name)
        assert any("--uncertainty" in loss for loss in losses)
    for name, (shape, spacing) in SCANS.items():
        affine = slanted_left_posterior_affine(shape, spacing)
        write_scan(tmp_path / "in" / f"{name}.nii.gz", scan("T1", shape=shape, affine=affine), affine)
    folders = [str(tmp_path / name) for name in ("in", *models)]
    command = [sys.executable, "-I", "-c", WITHOUT_THE_PACKAGE, *folders]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    for bundle_name, model in models.items():
        results = tmp_path / bundle_name / "out"
        assert sorted(path.name for path in results.iterdir()) == [
            f"{name}_synthetic-T2.nii.gz" for name in sorted(SCANS)
        ]
        for name in SCANS:
            result = nib.load(results / f"{name}_synthetic-T2.nii.gz")
            expected = translate(tmp_path / "in" / f"{name}.nii.gz", model, "T2")
            assert np.allclose(result.affine, expected.affine, atol=1e-5)
            assert result.get_data_dtype() == expected.get_data_dtype() == np.int16
            assert expected.get_fdata().std() > 20
            error = np.sqrt(np.mean((result.get_fdata() - expected.get_fdata()) ** 2))
            assert 20 * np.log10(800 / max(1e-9, error)) > 60


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A model, and the folder of its bundle, which nobody changes."""
    model, folder = model_for("unet"), tmp_path_factory.mktemp("made") / "bundle"
    export_bundle(model, "T2", folder)
    return model, folder


def test_the_files_of_a_bundle(bundle):
    model, folder = bundle
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        *("LICENSE", "configs/inference.json", "configs/metadata.json", "docs/README.md"),
        *("models/model.pt", "models/model.ts"),
    }
    weights = torch.load(folder / "models" / "model.pt", weights_only=True)
    network = model.translators["T2"]
    network.load_state_dict(weights)
    assert weights.keys() == torch.jit.load(folder / "models" / "model.ts").network.state_dict().keys()
    with zipfile.ZipFile(folder / "models" / "model.ts") as archive:
        assert not any(b".py" in archive.read(name) for name in archive.namelist() if "constants" not in name)
    readme = (folder / "docs" / "README.md").read_text()
    assert "Not for clinical use" in readme and "--uncertainty" in readme and "cd bundle" in readme


def test_metadata_has_what_monai_requires(bundle):
    content = json.loads((bundle[1] / "configs" / "metadata.json").read_text())
    required = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"}
    assert {*required, "task", "description", "authors", "copyright", "network_data_format"} <= content.keys()
    of_tensors = {"type", "format", "num_channels", "spatial_shape", "dtype", "value_range"}
    network_format = content["network_data_format"]
    assert all(of_tensors <= tensor.keys() for ends in network_format.values() for tensor in ends.values())


def test_the_configuration_has_what_monai_requires(bundle, tmp_path):
    from monai.bundle import ConfigWorkflow, verify_net_in_out
    from monai.bundle.properties import InferProperties

    copy = shutil.copytree(bundle[1], tmp_path / "bundle")
    write_scan(copy / "data" / "scan.nii.gz", scan("T1"))
    configs, root = copy / "configs", {"bundle_root": str(copy), "device": "cpu"}
    paths = {"config_file": str(configs / "inference.json"), "meta_file": str(configs / "metadata.json")}
    verify_net_in_out("network_def", **paths, **root, any=24)
    parser = ConfigWorkflow(**paths, workflow_type=None, **root).parser
    assert [entry["id"] for entry in InferProperties.values() if entry["required"] and entry["id"] not in parser] == []

    # What the evaluator does with a batch is what `run` does with a volume.
    parts = ("dataset", "dataloader", "prepare_batch", "inferer", "network_def", "translate")
    dataset, loader, prepare, inferer, network, run_one = map(parser.get_parsed_content, parts)
    image, label, arguments, options = prepare(next(iter(loader)), torch.device("cpu"), False)
    translated = inferer(image, network, *arguments, **options)[0]
    assert label is None and torch.equal(translated, run_one(dataset[0]["image"])) and translated.std() > 20


class Fickle(nn.Module):
    """Does something else with slices of another height."""

    stride = 8

    def forward(self, image):
        return image if image.shape[2] == EXAMPLE_SIDE else -image


def test_a_network_that_a_trace_does_not_show_is_refused(tmp_path):
    model = model_of(Fickle(), version=2)
    with pytest.raises(UserError, match=r"test model: its network in TorchScript differs from itself by .*as onnx"):
        export_bundle(model, "T2", tmp_path / "bundle")
    assert not any(tmp_path.iterdir())


def test_an_exported_graph_is_refused(tmp_path):
    graph = torch.fx.symbolic_trace(nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match=r"test model: .*exported graph .*give the run's folder"):
        export_bundle(model_of(graph, version=2), "T2", tmp_path / "bundle")


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"version": 1}, "of version 1"), ({"percentiles": None, "version": 2}, "translates pictures")],
)
def test_preprocessing_that_a_bundle_has_not_is_refused(settings, says, tmp_path):
    with pytest.raises(UserError, match=says):
        export_bundle(model_of(Fickle(), **settings), "T2", tmp_path / "bundle")


def test_a_folder_that_holds_something_is_left_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        export_bundle(model_for("unet"), "T2", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_is_lost_is_said():
    losses = " ".join(lost_in_bundle(replace(model_for("munit", n4=True), precision="bf16"), "T2"))
    assert "N4" in losses and "--style" in losses and "bf16: it" in losses
