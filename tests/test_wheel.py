"""The wheel, installed without the checkout, works from anywhere."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_volumes import write_volume

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "translate", "compare", "explore", "download", "sweep", "sync", "export")
ASK_EACH = """
import importlib, pathlib, sys
import pipeline
print(pathlib.Path(pipeline.__file__).parents[1])
for entry in sys.argv[1:]:
    module, _, function = entry.partition(":")
    assert getattr(importlib.import_module(module), function)(["--version"]) == 0, entry
importlib.import_module("pipeline.run").main(["phantom", "--show-config"])
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder that the wheel is installed into; what it depends on is the test environment's."""
    wheels, folder = tmp_path_factory.mktemp("wheels"), tmp_path_factory.mktemp("installed")
    source = tmp_path_factory.mktemp("source")  # building leaves folders behind
    for name in ("pipeline", "networks", "transforms", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*pip, "wheel", *options, str(source)], check=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True, timeout=300)
    return folder


def run(installed, folder, *arguments):
    """Python with the installed package, started in another folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_it_holds_packages_configurations_templates_and_licence(installed):
    for wanted in (
        "pipeline/configs/ixi.yaml",
        "bin/mri-translate",
        "pipeline/reporting/page.html.jinja",
        "networks/cpu_kernels/winograd.py",
    ):
        assert (installed / wanted).is_file()
    assert list(installed.glob("*.dist-info/licenses/LICENSE")) and not list(installed.rglob("tests"))


def test_it_translates_from_another_folder(installed, tmp_path):
    write_volume(tmp_path / "scan.nii.gz")
    options = ("-i", "scan.nii.gz", "-o", "out.nii.gz", "--model", "box", "--to", "T2")
    ended = run(installed, tmp_path, "-m", "pipeline.translate", *options)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out.nii.gz").is_file()


def test_its_commands_answer_and_find_the_shipped_configurations(installed, tmp_path):
    entries = configparser.ConfigParser()
    entries.read(next(installed.glob("*.dist-info/entry_points.txt")))
    assert set(entries["console_scripts"]) == {f"mri-{name}" for name in COMMANDS}
    ended = run(installed, tmp_path, "-c", ASK_EACH, *entries["console_scripts"].values())
    assert ended.returncode == 0, ended.stderr
    home, *versions = ended.stdout.split("# python -m")[0].splitlines()
    assert home == str(installed) and len(versions) == len(COMMANDS)
    assert all(version.split()[-1] == "0.1.0" for version in versions), versions
    assert "# python -m pipeline.run configs/phantom.yaml" in ended.stdout
