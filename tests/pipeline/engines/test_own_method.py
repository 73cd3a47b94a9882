"""The method of one's own of docs/reference/methods.md, put into a copy of the house as the page says, and used."""

import importlib
import importlib.util
import itertools
import logging
import re
import shutil
import sys
from pathlib import Path

import nibabel as nib
import pytest
import torch
from small_volumes import write_volume

from pipeline.data.statistics import ContrastStatistics

ROOT = Path(__file__).parents[3]
TESTS = "tests/pipeline/engines/test_methods.py"


@pytest.fixture(scope="module")
def blocks():
    """The section's blocks of code, by the name that stands before each, or by their language."""
    text = (ROOT / "docs/reference/methods.md").read_text(encoding="utf-8")
    section = re.search(r"## Add your own method\n(.*)", text, re.DOTALL)[1]
    code_by_file = {}
    for text, language, code in re.findall(r"(.*?)```(\w+)\n(.*?)```", section, re.DOTALL):
        file_names = re.findall(r"^`([\w./]+)`", text, re.MULTILINE)
        code_by_file[file_names[0] if file_names else language] = code
    return code_by_file


@pytest.fixture(scope="module")
def house(blocks, tmp_path_factory):
    """A copy of the package with the method in it, which is what `import pipeline` finds while these tests run."""
    tmp_path, monkeypatch = tmp_path_factory.mktemp("house"), pytest.MonkeyPatch()
    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pipeline" / "engines" / "gcgan.py").write_text(blocks["pipeline/engines/gcgan.py"])
    methods = tmp_path / "pipeline" / "config" / "methods.py"
    before = methods.read_text()
    (line,) = re.findall(r"^AnyMethod = .*$", before, re.MULTILINE)
    entry = blocks["pipeline/config/methods.py"]
    assert f"\n{line} | GcGan\n" in entry, "the page's AnyMethod is not today's with one more"
    methods.write_text(before.replace(line, entry))
    (tmp_path / TESTS).parent.mkdir(parents=True)
    table = (ROOT / TESTS).read_text().replace("METHODS = {\n", "METHODS = {\n" + blocks[TESTS], 1)
    (tmp_path / TESTS).write_text(table)
    shutil.copy(ROOT / "tests" / "small_engine.py", tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "small_engine")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("pipeline", "transforms", "networks"):  # the copy's console is a handler of its own
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in ("pipeline", "small_engine")]:
        del sys.modules[name]
    monkeypatch.undo()  # which puts those back that it took away


def test_the_example_is_small(blocks):
    assert list(blocks) == ["pipeline/engines/gcgan.py", "pipeline/config/methods.py", TESTS, "yaml"]
    assert sum(len(code.splitlines()) for code in blocks.values()) < 50


def test_one_row_has_the_method_checked_for_all_that_every_method_keeps_to(house):
    spec = importlib.util.spec_from_file_location("own_methods", house / TESTS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.test_every_method_and_kind_of_generator_has_its_row()
    checked = set()
    for name, check in vars(module).items():
        for keys in _cases(check) if name.startswith("test_") else ():
            if keys.get("method") == "gcgan" and keys.get("generator", "unet") == "unet":
                check(**keys)
                checked.add(name)
    assert {
        "test_a_resumed_method_ends_in_the_same_bits",
        "test_every_generator_a_method_admits_takes_a_step",
    } < checked
    assert len(checked) > 10


def _cases(check):
    """The arguments with which pytest calls a parametrised test."""
    axes = []
    for mark in getattr(check, "pytestmark", ()):
        names, values = mark.args
        if isinstance(names, str):
            axes.append([{names: value} for value in values])
        else:
            axes.append([dict(zip(names, combination, strict=True)) for combination in values])
    for chosen in itertools.product(*axes):
        yield {name: value for options in chosen for name, value in options.items()}


def test_the_configuration_trains_resumes_and_translates(house, blocks):
    load_config = importlib.import_module("pipeline.config.load").load_config
    build_engine = importlib.import_module("pipeline.engines.builders").build_engine
    (house / "gcgan.yaml").write_text(blocks["yaml"])
    small = ["preprocess.size=32", "generator.width=2", "discriminator.width=2", "training.learning_rate=0.002"]
    config = load_config(house / "gcgan.yaml", small)
    assert type(config.method).__name__ == "GcGan" and config.method.geometry_weight == 20
    engines = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        engines.append(build_engine(config, torch.device("cpu")))
    first, second = engines
    assert type(first).__module__ == "pipeline.engines.gcgan"
    real = torch.rand(2, 2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = [first.step(*real) for _ in range(20)]
    assert losses[-1]["geometry_G"] < 0.9 * losses[0]["geometry_G"]
    torch.save(first.state_dict(), house / "state.pt")
    second.load_state_dict(torch.load(house / "state.pt", weights_only=True))
    next_losses = [engine.step(*real) for engine in (first, second)]
    assert all(torch.equal(next_losses[0][name], next_losses[1][name]) for name in next_losses[0])
    run = house / "run" / "checkpoints"
    run.mkdir(parents=True)
    content = {
        "format": 1,
        "config": config.model_dump(mode="json"),
        "facts": {to: ContrastStatistics(0.0, 1000.0, integer=True).to_json() for to in ("T1", "T2")},
        "translators": {to: second.translators()[side].state_dict() for side, to in (("a", "T1"), ("b", "T2"))},
    }
    torch.save(content, run / "latest.pt")
    source = write_volume(house / "source.nii.gz")
    main = importlib.import_module("pipeline.translate").main
    arguments = ["-i", source, "-o", house / "out.nii.gz", "--model", house / "run", "--to", "T2", "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    translated = nib.load(house / "out.nii.gz")
    assert translated.shape == nib.load(source).shape
    assert translated.header["descrip"].item() == b"not for clinical use; synthetic T2, gcgan gcgan"
