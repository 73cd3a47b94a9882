"""A command does not care which Python files the folder holds that it is started in, as research folders do."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_volumes import write_volume

ROOT = Path(__file__).parents[2]
# Of this project's own names, of those that it imports, of the standard library's; each is an error to import.
IN_THE_WAY = ("networks", "pipelines", "models", "utils", "data", "datasets", "test", "random", "statistics", "socket",
              "select", "struct", "tempfile", "queue", "types", "csv", "yaml", "torch", "numpy", "monai")  # fmt: skip


@pytest.fixture
def research(tmp_path):
    """A folder with modules that must not be imported, and a package of the name `transforms`."""
    folder = tmp_path / "research"
    (folder / "transforms").mkdir(parents=True)
    for name in (*IN_THE_WAY, "transforms/__init__"):
        (folder / f"{name}.py").write_text(f"raise RuntimeError('{name} of the research folder is imported')\n")
    return folder


def started_in(folder, *arguments, path=ROOT):
    """Start Python in a folder, with this project on its path as an installed one is; return the ended process."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    environment.pop("PYTHONSAFEPATH", None)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )


def test_a_command_and_its_workers_import_nothing_from_the_working_folder(research, tmp_path):
    for number in range(4):
        for contrast in ("T1", "T2"):
            write_volume(tmp_path / "scans" / f"s{number}_{contrast}.nii.gz", seed=number)
    overrides = [f"data.folder={tmp_path / 'scans'}", "data.patterns={T1: '{subject}_T1.nii.gz', "
                 "T2: '{subject}_T2.nii.gz'}", "preprocess.processes=2", "preprocess.size=32", "generator.width=4",
                 "discriminator.layers=2", "tracking.mlflow=false"]  # fmt: skip
    config = str(ROOT / "configs" / "nifti.yaml")
    ended = started_in(research, "-m", "pipeline.explore", config, *overrides, "-o", str(tmp_path / "page"), "--quiet")
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    assert (tmp_path / "page" / "explore.html").is_file()


def test_a_pipeline_of_their_own_is_left_out_by_pythons_option(research):
    (research / "pipeline.py").write_text("")
    ended = started_in(research, "-P", "-m", "pipeline.run", "--help")
    assert (ended.returncode, ended.stderr) == (0, "") and "python -m pipeline.run" in ended.stdout


def test_what_is_in_the_way_on_the_path_is_named_in_a_line(research):
    path = os.pathsep.join([str(research), str(ROOT)])
    (research / "networks.py").write_text("")
    for name in ("types", "random", "struct"):  # Python itself would not start
        (research / f"{name}.py").unlink()
    ended = started_in(research.parent, "-m", "pipeline.run", "--help", path=path)
    assert ended.returncode == 2
    assert (
        ended.stderr.startswith(f"error: {research / 'networks.py'}: is in the way") and ended.stderr.count("\n") == 1
    )


def test_a_script_beside_such_a_file_is_told_what_is_in_the_way(research):
    (research / "work.py").write_text("from pipeline.translate import main\n")
    for name in ("random", "types", "struct", "tempfile", "select", "socket", "queue"):
        (research / f"{name}.py").unlink()
    ended = started_in(research, "work.py")
    assert ended.returncode == 1
    assert f"ImportError: {research / 'networks.py'}: is in the way of this project's networks" in ended.stderr


def test_another_packages_command_keeps_its_folder(tmp_path):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("import pipeline\n")
    (tmp_path / "lab" / "work.py").write_text("import beside\n")
    (tmp_path / "beside.py").write_text("print('here')\n")
    ended = started_in(tmp_path, "-m", "lab.work")
    assert (ended.returncode, ended.stdout) == (0, "here\n"), ended.stderr


@pytest.mark.parametrize("spelling", [["-m", "pipeline.translate"], ["-umpipeline.run"]])
def test_a_command_is_one_however_it_is_spelt(research, spelling):
    ended = started_in(research, *spelling, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
