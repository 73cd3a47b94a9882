"""Every shipped configuration, made small, from its first step to a translated volume, with a resume on the way."""

import copy

import nibabel as nib
import numpy as np
import pytest
import torch
from small_engine import differences
from small_run import CONFIGS, command, copied_after, latest, unlike, without_evaluation, without_pictures, workshop

from pipeline.config.load import load_config
from pipeline.engines.builders import build_engine
from pipeline.translate import main as translate_main

SHIPPED = sorted(CONFIGS.glob("*.yaml"))
# Each method and each kind of network once; the others differ from these in numbers and data.
WHOLE = [path for path in SHIPPED if path.stem.startswith("phantom") and path.stem != "phantom_long"]
WHOLE += [CONFIGS / "ixi_dualgan_original.yaml", CONFIGS / "nifti.yaml"]  # Wasserstein critics; skip generators
# Each method once: of generators nothing but their weights is resumed.
RESUMED = {"phantom", "phantom_cut", "phantom_dualgan", "phantom_munit", "phantom_pix2pix", "phantom_unit"}
RESUMED |= {"ixi_dualgan_original"}
SMALL = (
    "preprocess.spacing_mm=null", "preprocess.size=32", "preprocess.processes=1", "preprocess.scaling=percentiles",
    "preprocess.n4=false", "split.file=null", "split.validation=1", "split.test=1",
    "discriminator.width=2", "discriminator.layers=1", "training.steps_per_epoch=2", "training.epochs=1",
    "training.decay_epochs=1", "training.log_every=1", "training.validation_slices=2", "training.sample_slices=1",
    "training.batch_size=1", "training.precision=float32", "threads=1", "device=cpu", "tracking.mlflow=false",
    "evaluation.protocols=[]", "evaluation.uncertainty=false", "evaluation.translate=false",
    "training.checkpoint_minutes=0.0000001",
)  # fmt: skip
NARROW = ("generator.width=2", "generator.downs=1", "generator.blocks=1")
SMALLER = {
    "unet": ("generator.width=2", "generator.depth=2"),
    **dict.fromkeys(("resnet", "residual_concat", "skip", "unit"), NARROW),
    "munit": (*NARROW, "generator.style_downs=2", "generator.mlp_width=4"),
    "monai": ("generator.arguments={channels: [2, 4], strides: [2]}",),
    "multiscale": ("discriminator.scales=2",),
    "cut": ("method.head_width=4", "method.patches=8"),
}


def small(path):
    """The overrides that make a configuration small and put the phantom in the place of its data."""
    config = load_config(path)
    kinds = [getattr(config, name).type for name in ("generator", "discriminator", "method")]
    data = f"data={{source: phantom, folder: {workshop() / 'phantom'}, subjects: 6, spacing_mm: 8}}"
    store = f"preprocess.store={workshop() / 'store'}"
    return (data, store, "contrasts=[T1, T2]", *SMALL, *(option for kind in kinds for option in SMALLER.get(kind, ())))


def test_every_kind_of_method_and_network_is_among_the_whole_runs():
    def kinds(paths):
        configs = [load_config(path) for path in paths]
        return {(name, getattr(config, name).type) for config in configs for name in ("method", "generator")}

    assert kinds(WHOLE) == kinds(SHIPPED)
    resumed = {load_config(path).method.type for path in WHOLE if path.stem in RESUMED}
    assert resumed == {load_config(path).method.type for path in SHIPPED}


def weights(engine):
    return {name: network.state_dict() for name, network in engine.networks().items()}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_configuration_is_built_and_makes_a_step(path):
    config = load_config(path, small(path))
    engine = build_engine(config, torch.device("cpu"))
    before = copy.deepcopy(weights(engine))
    losses = engine.step(*torch.rand(2, 1, 1, 32, 32).mul(2).sub(1))
    assert losses and all(torch.isfinite(loss) for loss in losses.values())
    assert differences(before, weights(engine))


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_shipped_configuration_trains_resumes_to_the_bit_evaluates_and_translates(path, tmp_path):
    def run(output):
        return command([str(path), *small(path), f"output={output}", "--quiet"])

    with without_pictures(), copied_after(3, tmp_path / "parts"):
        assert run(tmp_path / "whole") == 0
    assert latest(tmp_path / "whole")["position"]["step"] == 4

    if path.stem in RESUMED:
        assert latest(tmp_path / "parts")["position"]["step"] == 3
        with without_evaluation():
            assert run(tmp_path / "parts") == 0
        assert unlike(tmp_path / "parts", tmp_path / "whole") == set()

    scores = (tmp_path / "whole" / "scores.csv").read_text().splitlines()
    assert any(line.startswith("T1,T2,model,") for line in scores)
    assert any(line.startswith("T2,T1,model,") for line in scores)

    source = next((workshop() / "phantom").rglob("*_T1.nii.gz"))
    arguments = ["-i", source, "-o", tmp_path / "out.nii.gz", "--model", tmp_path / "whole", "--to", "T2"]
    assert translate_main([*map(str, arguments), "--device", "cpu", "--quiet"]) == 0
    before, after = nib.load(source), nib.load(tmp_path / "out.nii.gz")
    assert after.shape == before.shape
    assert np.allclose(after.affine, before.affine)
    assert np.isfinite(after.get_fdata()).all()
    assert after.get_fdata().std() > 0
