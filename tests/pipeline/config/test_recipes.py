"""The shipped recipes: as long as one another, and with the values of their sources."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.data_builders import augmentation_of, schedule_of

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
IXI = {path.stem: load_config(path) for path in CONFIGS if path.stem.startswith("ixi")}
PHANTOM = {
    path.stem: load_config(path)
    for path in CONFIGS
    if path.stem.startswith("phantom") and path.stem != "phantom_long"  # meant to be longer
}


def lengths(configs):
    """The steps of each, with few and with many slices: methods that learn from pairs are shown twice as many."""
    return {schedule_of(config.training, slices).steps for config in configs.values() for slices in (900, 29_088)}


def test_every_ixi_recipe_makes_as_many_steps_as_the_others_and_as_the_original():
    assert len(IXI) > 8 and {"ixi_pix2pix", "ixi_regression", "ixi_munit"} <= set(IXI)
    assert lengths(IXI) == {250_000}  # horse to zebra, 200 epochs of 1,334: 266,800
    assert {config.training.batch_size for config in IXI.values()} == {1}


def test_every_phantom_recipe_that_starts_from_nothing_makes_as_many_steps_as_the_others():
    begun = {name: config for name, config in PHANTOM.items() if getattr(config.generator, "start", None)}
    others = {name: config for name, config in PHANTOM.items() if name not in begun}
    assert set(begun) == {"phantom"} and lengths(begun) == {3_800}  # the demo, from a lookup
    assert len(others) > 7 and lengths(others) == {5_000}


CYCLEGAN = {  # junyanz/CycleGAN, options.lua and models/cycle_gan_model.lua
    "method.cycle_weight": 10, "method.identity_share": 0.5, "method.discriminator_scale": 0.5, "method.pool_size": 50,
    "training.epochs": 100, "training.decay_epochs": 100, "training.learning_rate": 2e-4, "training.beta1": 0.5,
    "training.optimiser": "adam", "training.batch_size": 1, "training.halve_every": None, "training.weight_decay": 0,
}  # fmt: skip
MUNIT = {  # NVlabs/MUNIT, configs/summer2winter_yosemite256_folder.yaml; MsImageDis sums over scales and does not halve
    "training.learning_rate": 1e-4, "training.beta1": 0.5, "training.weight_decay": 1e-4, "training.optimiser": "adam",
    "training.halve_every": 100_000, "training.decay_epochs": 0, "training.batch_size": 1,
    "method.adversarial": "least_squares", "method.adversarial_weight": 1, "method.discriminator_scale": 1,
    "method.image_weight": 10, "method.cycle_weight": 10,
    "discriminator.type": "multiscale", "discriminator.scales": 3, "discriminator.layers": 4, "discriminator.width": 64,
    "generator.width": 64, "generator.downs": 2, "generator.blocks": 4,
}  # fmt: skip
SOURCES = {
    "ixi_tutorial": CYCLEGAN | {"method.adversarial": "bce", "generator.dropout": 0.5, "generator.width": 64},
    "ixi_resnet": CYCLEGAN | {"method.adversarial": "least_squares", "generator.blocks": 9, "generator.width": 64},
    "ixi_cut": {  # taesungp/contrastive-unpaired-translation, models/cut_model.py: (NCE(X) + NCE(Y)) * 0.5
        "method.nce_weight": 0.5, "method.identity": True, "method.temperature": 0.07, "method.patches": 256,
        "method.head_width": 256, "method.adversarial": "least_squares", "method.discriminator_scale": 0.5,
        "generator.type": "resnet", "generator.blocks": 9, "training.learning_rate": 2e-4, "training.beta1": 0.5,
    },
    "phantom_cut": {"method.identity": False, "method.nce_weight": 1},  # the code halves with identity alone
    "ixi_munit": MUNIT | {
        "method.content_weight": 1, "method.style_weight": 1,
        "generator.style_size": 8, "generator.mlp_width": 256, "generator.style_downs": 4,
    },
    "ixi_unit": MUNIT | {"method.kl_weight": 0.02, "method.cycle_kl_weight": 0.02},  # 0.01 of μ², which is 0.02 of μ²/2
    "ixi_pix2pix": {  # phillipi/pix2pix, train.lua
        "method.l1_weight": 100, "method.adversarial_weight": 1, "method.adversarial": "bce",
        "method.discriminator_scale": 0.5, "generator.dropout": 0.5, "generator.type": "unet",
        "training.learning_rate": 2e-4, "training.beta1": 0.5, "training.batch_size": 1,
    },
    "ixi_dualgan_original": {  # duxingren14/DualGAN, main.py, where the paper gives no single value
        "method.adversarial": "wasserstein", "method.gradient_penalty": 0, "method.reconstruction_weight": 500,
        "method.discriminator_scale": 1, "training.optimiser": "rmsprop", "training.learning_rate": 5e-5,
        "training.decay_epochs": 0, "training.halve_every": None,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_a_recipe_has_the_values_of_the_source_that_it_names(name):
    sections = load_config(Path(name)).model_dump(mode="json")
    flat = {f"{part}.{key}": value for part in sections if isinstance(sections[part], dict)
            for key, value in sections[part].items()}  # fmt: skip
    assert {key: flat[key] for key in SOURCES[name]} == SOURCES[name]


def test_the_original_dualgan_lies_within_the_ranges_of_its_paper():
    """Yi et al. 2017, section 3.4: clip 0.01 to 0.1, 2 to 4 critic updates to one of the generators, λ 100 to 1,000."""
    method = IXI["ixi_dualgan_original"].method
    assert 0.01 <= method.clip <= 0.1 and 2 <= method.critic_steps <= 4 and 100 <= method.reconstruction_weight <= 1000


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_configuration_loads_and_opens_with_the_command_that_runs_it(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    *_, last_command = itertools.takewhile(lambda line: line.startswith("# python -m pipeline."), lines)
    words = shlex.split(last_command[2:])
    command, overrides = words[:4], words[4:]
    assert command == ["python", "-m", "pipeline.run", path.relative_to(CONFIGS[0].parents[1]).as_posix()]
    assert isinstance(load_config(path), Config) and isinstance(load_config(path, overrides), Config)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_shipped_configuration_is_complete_or_differs_from_a_complete_one(path):
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    complete = ("images", "ixi", "nifti", "phantom")
    if path.stem in complete:
        assert leaves(written) == leaves(load_config(path).model_dump(mode="json"))
        return
    assert Path(written.pop("base")).stem in (*complete, "ixi_tutorial")  # the published recipes
    inherited = load_config(path, [f"name={written['name']}"]).model_dump(mode="json")
    assert leaves(written) < leaves(inherited)


@pytest.mark.parametrize("name", ["images", "ixi", "nifti", "phantom"])
def test_every_key_of_a_complete_configuration_has_a_comment(name):
    lines = (CONFIGS[0].parent / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if re.match(r" *(?!T[12])\w+: ", line)]
    assert len(keys) > 80 and [line for line in keys if "#" not in line] == []


def leaves(content, key=""):
    """Return the dotted keys; what the schema holds as a free mapping (one entry per contrast) counts as one."""
    if not isinstance(content, dict) or key in ("data.patterns", "data.train", "data.test"):
        return {key}
    return {leaf for name, value in content.items() for leaf in leaves(value, f"{key}.{name}".lstrip("."))}


@pytest.mark.parametrize(("axis", "share"), [("axial", 0.3), ("coronal", 0.3), ("sagittal", 0)])
def test_slices_are_mirrored_where_they_have_a_left_and_a_right(axis, share):
    overrides = [f"preprocess.axis={axis}", "augment.horizontal_flip=0.3", "augment.vertical_flip=0.2"]
    augmentation = augmentation_of(load_config(CONFIGS[0].with_name("ixi_tutorial.yaml"), overrides))
    assert (augmentation.horizontal_flip, augmentation.vertical_flip) == (share, 0.2)
