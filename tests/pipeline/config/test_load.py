import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.config.load import REMOVED_KEYS, load_config, load_seeds, load_settings
from pipeline.config.yaml_file import shipped_configs
from pipeline.utils.errors import UserError

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SMALL = {"name": "small", "data": {"source": "phantom"}, "preprocess": {"size": 64}}


def write(tmp_path, content):
    path = tmp_path / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def load(tmp_path, *overrides, content=SMALL):
    return load_config(write(tmp_path, content), overrides)


def errors(tmp_path, *overrides, content=SMALL):
    """Return the lines under the first of the error."""
    with pytest.raises(UserError) as caught:
        load(tmp_path, *overrides, content=content)
    first, *rest = str(caught.value).splitlines()
    count = "1 error" if len(rest) == 1 else f"{len(rest)} errors"
    assert first == f"{tmp_path / 'run.yaml'}: {count}"
    return [line.strip() for line in rest]


def test_several_seeds_are_a_configuration_each_with_a_name_and_a_folder_of_its_own(tmp_path):
    path = write(tmp_path, SMALL | {"seed": [4, 0], "output": str(tmp_path / "runs")})
    configs = load_seeds(path, ["training.epochs=3"])
    assert [(config.seed, config.name, config.folder.name) for config in configs] == [
        (4, "small-seed-4", "seed-4"),
        (0, "small-seed-0", "seed-0"),
    ]
    assert all(config.folder.parent == tmp_path / "runs" and config.training.epochs == 3 for config in configs)
    assert load_seeds(path, ["seed=2"]) == [load_config(path, ["seed=2"])]


@pytest.mark.parametrize("seeds", ["[1, 1.0]", "[3, 3]", "[3]"])
def test_several_seeds_are_different_numbers(seeds, tmp_path):
    with pytest.raises(UserError, match="must be one number, or a list of two different ones or more"):
        load_seeds(write(tmp_path, SMALL), [f"seed={seeds}"])


def test_several_seeds_are_refused_where_one_run_is_meant(tmp_path):
    assert errors(tmp_path, "seed=[1,2]") == [
        "seed = [1, 2]: must be one number here, as in seed=0; several are for pipeline.run alone"
    ]


def test_every_error_is_reported_at_once_with_key_value_rule_and_nearest_key(tmp_path):
    content = {
        "name": "wrong",
        "sed": 3,
        "device": "tpu",
        "data": {"source": "phantom", "subject": 5, "subjects": 0},
        "preprocess": {"size": 7, "spacing_mm": {"inplane": 1, "through_plane": 0}},
        "generator": {"width": "wide"},
        "training": {"epochs": 1.5, "learning_rat": 0.1},
        "trainig": {"epochs": 1},
    }
    assert set(errors(tmp_path, content=content)) == {
        "sed = 3: unknown key; the nearest valid key is seed",
        "device = 'tpu': must be 'auto', 'cpu', 'cuda' or 'mps'",
        "data.subject = 5: unknown key; the nearest valid key is data.subjects",
        "data.subjects = 0: must be greater than or equal to 1",
        "preprocess.size = 7: must be greater than or equal to 16",
        "preprocess.spacing_mm.in_plane: missing; it must be set",
        "preprocess.spacing_mm.inplane = 1: unknown key; the nearest valid key is preprocess.spacing_mm.in_plane",
        "preprocess.spacing_mm.through_plane = 0: must be greater than 0",
        "generator.width = 'wide': must be a valid integer, unable to parse string as an integer",
        "training.epochs = 1.5: must be a valid integer, got a number with a fractional part",
        "training.learning_rat = 0.1: unknown key; the nearest valid key is training.learning_rate",
        "trainig = {'epochs': 1}: unknown key; the nearest valid key is training",
    }


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("learning_rate=1", "learning_rate = 1: unknown key; the nearest valid key is training.learning_rate"),
        ("data.patterns=x", "data.patterns = 'x': not a key of data phantom; leave it out"),
        ("zzz=1", "zzz = 1: unknown key"),
        ("training.epochs=true", "training.epochs = True: must be a number"),
        ("training.learning_rate=.inf", "training.learning_rate = inf: must be a finite number"),
        ("preprocess.n4=perhaps", "preprocess.n4 = 'perhaps': must be a valid boolean, unable to interpret input"),
        ("preprocess.percentiles=[5, 2]", "preprocess.percentiles = [5, 2]: must be in order, the lower one first"),
        ("preprocess.spacing_mm=2", "preprocess.spacing_mm = 2: must hold keys of its own, as in configs/phantom.yaml"),
        ("augment=", "augment = None: must hold keys of its own, as in configs/phantom.yaml"),
        ("name=''", "name = '': must be a name, not empty and without / or \\"),
        ("name=..", "name = '..': must be a name, not empty and without / or \\"),
        ("contrasts=[T1, a/b]", "contrasts.1 = 'a/b': must be a name, not empty and without / or \\"),
        ("name=2024", "name = 2024: must be a valid string"),
        (f"seed={'x' * 1000}", f"seed = '{'x' * 79}…: must be a valid integer, unable to parse string as an integer"),
        ("data.source=dicom", "data.source = 'dicom': must be one of phantom, ixi, nifti, images"),
        ("data={}", "data.source: missing; it must be one of phantom, ixi, nifti, images"),
        ("method={type: [1]}", "method.type = '[1]': must be one of cyclegan, dualgan, munit, unit, pix2pix, cut"),
        ("data=5", "data = 5: must hold keys of its own, as in configs/phantom.yaml"),
        ("data={source: ixi}", "data.folder: missing; it must be set"),
        ("method.type=gan", "method.type = 'gan': must be one of cyclegan, dualgan, munit, unit, pix2pix, cut"),
        ("generator.blocks=3", "generator.blocks = 3: not a key of generator unet; leave it out"),
        ("data.seed=-1", "data.seed = -1: must be greater than or equal to 0"),
        (
            "evaluation.protocols=[selfrdb, selfrdb]",
            "evaluation.protocols = ['selfrdb', 'selfrdb']: must be named once each",
        ),
    ],
)
def test_one_error_says(override, line, tmp_path):
    assert errors(tmp_path, override) == [line]


def test_transforms_of_monai_are_tried_and_all_that_is_wrong_is_said_at_once(tmp_path):
    lines = errors(
        tmp_path,
        "augment.monai=[{RandFlipd: {prob: 0.5}}, {RandFlip: {}}, {RandZoomd: {max_zom: 2}}, {RandCoarseDropoutd: }]",
        "training.slices_on_device=true",
    )
    starts = (
        "augment.monai[1] = RandFlip: must be one of MONAI's random transforms of slices; the nearest is RandFlipd",
        "augment.monai[2].RandZoomd.max_zom: unknown argument; the nearest is max_zoom",
        "augment.monai[3].RandCoarseDropoutd = {}: ",
        "training.slices_on_device = True: must be false with augment.monai",
    )
    assert len(lines) == len(starts)
    for start in starts:
        assert any(line.startswith(start) for line in lines), lines


def test_contradictions_are_reported_beside_values_that_are_wrong_by_themselves_and_none_of_these(tmp_path):
    lines = errors(
        tmp_path, "training.epochs=-1", "contrasts=[T1, T1]", "method.type=pix2pix", "split.pairing=paird", "sed=3"
    )
    assert {line.partition(" =")[0] for line in lines} == {"training.epochs", "contrasts", "split.pairing", "sed"}
    assert len(lines) == 4  # and not that pix2pix needs pairs
    assert [line.partition(" =")[0] for line in errors(tmp_path, "contrasts=[T1, 3]", "preprocess.size=100")] == [
        "contrasts.1",
        "preprocess.size",
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: a\nname: b\n", "not valid YAML: the key 'name' is given twice"),
        ("training: {epochs: 1, epochs: 2}\n", "not valid YAML: the key 'epochs' is given twice"),
        ("a: b: c\n", "not valid YAML: mapping values are not allowed here"),
        ("? [a]\n: 3\n", "not valid YAML: unhashable type"),
        ("name: 2001-13-45\n", "not valid YAML: month must be in 1..12"),
        ("name: !!python/object/apply:os.mkdir [made]\n", "not valid YAML: could not determine a constructor"),
        ("- a\n", "holds no `key: value` lines; start from one of the files in configs/"),
        ("", "holds no `key: value` lines; start from one of the files in configs/"),
    ],
)
def test_a_file_that_is_no_configuration_is_one_line(text, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load(tmp_path, content=text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'run.yaml'}: {reason}") and "\n" not in message
    assert not (tmp_path / "made").exists()


def test_a_missing_folder_or_binary_file_is_one_line(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\x81\x00\xff\xfe")
    shipped = f"give the path of a YAML configuration, or a shipped one: {', '.join(shipped_configs())}"
    for path, reason in [
        (tmp_path / "none.yaml", f"No such file or directory; {shipped}"),
        (tmp_path, f"Is a directory; {shipped}"),
        (tmp_path / "binary.yaml", "not a text file; give the path of a YAML configuration"),
    ]:
        with pytest.raises(UserError) as caught:
            load_config(path)
        assert str(caught.value) == f"{path}: {reason}"


def test_anchors_and_merges_work(tmp_path):
    text = "name: a\ndata: {source: phantom}\ngenerator: &both {width: 8}\ndiscriminator: {<<: *both, layers: 2}\n"
    config = load(tmp_path, content=text)
    assert (config.generator.width, config.discriminator.width, config.discriminator.layers) == (8, 8, 2)


def test_overrides_reach_into_sections_and_make_those_that_are_not_there(tmp_path):
    config = load(
        tmp_path, "seed=7", "preprocess.size=32", "training.learning_rate=2e-4", "preprocess.spacing_mm.in_plane=1",
        "preprocess.spacing_mm.through_plane=2.5", "contrasts=[CT, 'a = b']", "output=runs/x=y", "threads=null",
        "evaluation.protocols=[syndiff, reggan]", "split.test=0.25", "split.validation=3", "preprocess.n4=yes",
    )  # fmt: skip
    assert (config.seed, config.preprocess.size, config.training.learning_rate) == (7, 32, 2e-4)
    assert (config.preprocess.spacing_mm.in_plane, config.preprocess.spacing_mm.through_plane) == (1.0, 2.5)
    assert (config.contrasts, config.output, config.threads) == (("CT", "a = b"), Path("runs/x=y"), None)
    assert config.evaluation.protocols == ["syndiff", "reggan"]
    assert (config.split.test, config.split.validation, config.preprocess.n4) == (0.25, 3, True)
    assert config.preprocess.axis == "axial"


def test_a_null_takes_a_setting_back_to_its_default_meaning(tmp_path):
    content = {**SMALL, "output": "elsewhere", "generator": {"depth": 4}}
    assert load(tmp_path, content=content).folder == Path("elsewhere")
    config = load(tmp_path, "output=null", "generator.depth=", content=content)
    assert config.folder == Path("runs/small") and config.generator.depth is None


@pytest.mark.parametrize("key", map(".".join, REMOVED_KEYS))
def test_a_key_of_an_earlier_release_has_no_effect_and_a_warning(key, tmp_path, caplog):
    assert load(tmp_path, f"{key}=2") == load(tmp_path)
    assert caplog.messages == [f"{tmp_path / 'run.yaml'}: {key} has no effect any more; remove the line"]


@pytest.mark.parametrize(("section", "name"), REMOVED_KEYS)
def test_a_saved_configuration_may_hold_it_without_one(section, name, tmp_path, caplog):
    saved = load_settings(write(tmp_path, {**SMALL, section: {name: 2}}))
    assert saved == load(tmp_path).model_dump(mode="json") and caplog.messages == []


def test_overrides_of_bad_form_are_all_reported(tmp_path):
    assert errors(tmp_path, "seed", "=3", "name.first=3", "device=]", "seed=[1", "trainig.epochs=3") == [
        "seed: an override is written key.sub=value",
        "=3: an override is written key.sub=value",
        "name.first: name holds a value, not keys of its own",
        "device = ]: not valid YAML; quote it",
        "seed = [1: not valid YAML; quote it",
        "trainig = {'epochs': 3}: unknown key; the nearest valid key is training",
    ]


def test_loading_a_configuration_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; from pathlib import Path; from pipeline.config.load import load_config\n"
        "load_config(Path(sys.argv[1]))\n"
        "print(*(name for name in sys.modules if '.' not in name))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, str(write(tmp_path, SMALL))],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not {"torch", "monai", "mlflow", "nibabel", "SimpleITK", "numpy", "scipy"} & set(process.stdout.split())


def test_an_override_of_the_kind_takes_the_sections_place_and_others_fill_it(tmp_path):
    content = {**SMALL, "method": {"type": "cyclegan", "cycle_weight": 3.0}, "generator": {"type": "unet", "depth": 3}}
    config = load(tmp_path, "method.temperature=0.1", "method.type=cut", "generator.type=resnet", content=content)
    assert (config.method.type, config.method.temperature, config.generator.type) == ("cut", 0.1, "resnet")
    assert load(tmp_path, "method.type=cyclegan", content=content).method.cycle_weight == 3.0  # the same kind
