"""The wheel, installed without the checkout, works from anywhere."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small_run import QUICK, train_phantom
from small_volumes import write_volume

ROOT = Path(__file__).parents[1]


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
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(wheels), str(source)], check=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder), str(wheel)], check=True, timeout=300)
    return wheel, folder


def run(installed, folder, *arguments):
    """A command of the installed package, started in another folder."""
    environment = {**os.environ, "PYTHONPATH": str(installed[1])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_it_holds_packages_configurations_templates_and_licence(installed):
    names = zipfile.ZipFile(installed[0]).namelist()
    for wanted in (
        "pipeline/configs/ixi.yaml",
        "pipeline/inference/box.pt",
        "pipeline/reporting/page.html.jinja",
        "networks/cpu_kernels/winograd.py",
    ):
        assert wanted in names
    assert any(name.endswith("licenses/LICENSE") for name in names) and not any("tests/" in name for name in names)


def test_it_translates_from_another_folder(installed, tmp_path):
    write_volume(tmp_path / "scan.nii.gz")
    assert train_phantom(tmp_path / "run", *QUICK) == 0
    options = ("-i", "scan.nii.gz", "-o", "out.nii.gz", "--model", "run", "--to", "T2")
    ended = run(installed, tmp_path, "-m", "pipeline.translate", *options)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out.nii.gz").is_file()


def test_its_commands_answer_and_find_the_shipped_configurations(installed, tmp_path):
    for name in ("run", "translate", "compare", "explore", "download", "sweep", "sync", "export"):
        command = installed[1] / "bin" / f"mri-{name}"
        ended = run(installed, tmp_path, str(command), "--version")
        assert (ended.returncode, ended.stdout.split()[-1:]) == (0, ["0.1.0"]), (name, ended.stderr)
    ended = run(
        installed, tmp_path, "-c", "import pipeline, pathlib; print(pathlib.Path(pipeline.__file__).parents[1])"
    )
    assert ended.stdout.strip() == str(installed[1])
    assert run(installed, tmp_path, "-m", "pipeline.run", "phantom", "--show-config").stdout.startswith("# python -m")
