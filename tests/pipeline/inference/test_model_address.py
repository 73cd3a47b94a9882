"""A wrong model is told before anything slow is there."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_volumes import write_volume

from pipeline.inference.model_address import BY_PREFERENCE, LATEST, checkpoint_at, require_model
from pipeline.runs.checkpoint import CheckpointFolder
from pipeline.utils.errors import UserError

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_wrong_model_is_told_without_torch_and_nothing_is_made(tmp_path, name):
    source = write_volume(tmp_path / "a.nii")
    (tmp_path / "empty").mkdir()
    paths = ["-i", str(source), "-o", str(tmp_path / "out"), "--model", str(tmp_path / name)]
    command = [sys.executable, "-X", "importtime", "-m", "pipeline.translate", *paths]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    lines = answer.stderr.splitlines()
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines if line.startswith("import time:")}
    reason = {"none": "no such model", "empty": "no checkpoint in this folder"}[name]
    assert answer.returncode == 2
    assert [line for line in lines if line.startswith(f"error: {tmp_path / name}: {reason}; give")]
    assert "argparse" in loaded and loaded & {"torch", "monai", "mlflow", "pydantic"} == set()
    assert not (tmp_path / "out").exists()


def test_every_model_given_has_to_be_there_but_mlflows_are_not_looked_at(tmp_path):
    require_model("runs:/abc/T1-to-T2"), require_model("models:/T1-to-T2@best")
    with pytest.raises(UserError, match="runs: no such model"):
        require_model(str(tmp_path / "runs"))


def test_the_names_are_those_of_the_folder_of_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    assert [folder.folder / name for name in BY_PREFERENCE] == [folder.best, folder.latest, folder.previous]
    assert folder.folder / LATEST == folder.latest
    folder.folder.mkdir(parents=True)
    for path in (folder.previous, folder.latest, folder.best):  # each is worth more than those before
        path.touch()
        assert checkpoint_at(tmp_path / "run") == checkpoint_at(folder.folder) == path
