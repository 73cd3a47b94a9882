"""Runs commands as a user does, but in an empty folder, so that files of the working folder have no influence."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess:
    """Run a command with this project's code in a temporary folder, which is deleted afterwards.

    Args:
        command: The program and its arguments; paths among them are absolute.

    Returns:
        The completed process, with its output as text.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
        )


def overrides_within(folder: Path | str) -> tuple[str, str, str]:
    """Return overrides that keep a phantom run's data, slice cache and output in one folder."""
    return f"output={folder}/run", f"data.folder={folder}/phantom", f"preprocess.store={folder}/store"
