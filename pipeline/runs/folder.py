"""The folder of a run: paths of its files, and its lock."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.case import other_contrast
from pipeline.utils.files import fcntl, lock_alone, make_folder, writing_to

if TYPE_CHECKING:
    from pipeline.runs.checkpoint import CheckpointFolder

logger = logging.getLogger(__name__)


class RunFolder:
    """Paths of the files in a run's folder, `path`."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.yaml"
        self.split = path / "split.json"
        self.coverage = path / "coverage.json"
        self.metrics = path / "metrics.jsonl"
        self.samples = path / "samples"
        self.translated = path / "translated"
        self.registration = path / "registration"
        self.mosaics = path / "mosaics"
        self.curves = path / "curves.png"
        self.report = path / "report.html"
        self.uncertainty = path / "uncertainty.png"
        self.calibrations = path / "uncertainty.json"
        self.models = path / "models.json"
        self.scores = path / "scores.json"
        self.record = path / "run.json"

    @property
    def checkpoints(self) -> "CheckpointFolder":
        from pipeline.runs.checkpoint import CheckpointFolder  # imported late, since it imports torch

        return CheckpointFolder(self.path / "checkpoints")

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from, readable or not."""
        return any((self.path / "checkpoints" / name).exists() for name in ("latest.pt", "previous.pt"))

    def has_trained(self) -> bool:
        """Whether the folder holds training results that another configuration would spoil."""
        results = (self.path / "checkpoints" / "best.pt", self.scores, self.record)
        return self.has_checkpoint() or any(path.exists() for path in results)

    def file_in_use(self, path: Path) -> Path | None:
        """Return a file of this folder that the run goes on by, or None: it counts once something was trained."""
        return path if path.exists() and self.has_trained() else None

    def evaluated_checkpoint(self, choice: str) -> Path:
        """Return the checkpoint to evaluate for `evaluation.checkpoint` "best" or "latest"."""
        best = self.checkpoints.best
        return best if choice == "best" and best.exists() else self.checkpoints.latest

    def gif(self, direction: str) -> Path:
        """Return the path of a direction's training GIF."""
        return self.path / f"training_{direction}.gif"

    @staticmethod
    def direction(contrasts: tuple[str, str], target: str) -> str:
        """Return the name of a direction in files and metrics: "T1_to_T2"."""
        return f"{other_contrast(contrasts, target)}_to_{target}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other processes within the block, where system and disk have file locks.

        Warns where the disk has none. Raises:
            UserError: Another process is working on this run, or nothing can be written or locked there.
        """
        if fcntl is None:
            yield
            return
        is_new = not self.path.exists()
        make_folder(self.path)
        with writing_to(self.path):
            lock = (self.path / ".lock").open("w")
        with lock:
            busy = f"{self.path}: another process is at work on this run; wait for it, or stop it"
            if not lock_alone(fcntl.lockf, lock, self.path, busy):  # unlike flock's, not inherited by forked workers
                (self.path / ".lock").unlink(missing_ok=True)
                logger.warning(f"{self.path}: this disk has no file locks: start no second process on this run")
            try:
                yield
            finally:
                with suppress(OSError):
                    if is_new and {entry.name for entry in self.path.iterdir()} <= {".lock"}:  # refused before it began
                        (self.path / ".lock").unlink(missing_ok=True)
                        self.path.rmdir()


def json_text(content: object) -> str:
    """Return plain data as readable JSON."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def differing_keys(first: object, second: object, key: str = "") -> list[tuple[str, object, object]]:
    """Return (key, first value, second value) for every leaf in which two nested dictionaries differ."""
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [(key, first, second)]
    keys = list(dict.fromkeys([*first, *second]))
    return [
        difference
        for name in keys
        for difference in differing_keys(first.get(name), second.get(name), f"{key}.{name}" if key else name)
    ]
