"""Commands as a user starts them, but in an empty folder: nothing that lies where the benchmark is started counts."""

import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_command(command: Sequence[str]) -> subprocess.CompletedProcess:
    """Run a command on this project's code in a temporary folder, which goes with all that is left in it.

    Args:
        command: The program and its arguments; paths among them are absolute.

    Returns:
        The ended process, with what it said as text.
    """
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        return subprocess.run(
            command, cwd=folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
        )


def overrides_within(folder: Path | str) -> tuple[str, str, str]:
    """Return the overrides with which a run on the phantom keeps all that it reads and makes in one folder."""
    return f"output={folder}/run", f"data.folder={folder}/phantom", f"preprocess.store={folder}/store"
