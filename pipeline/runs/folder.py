"""The folder of a run: paths of its files, and its lock."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.utils.errors import UserError
from pipeline.utils.files import make_folder, writing_to

if TYPE_CHECKING:
    from pipeline.runs.checkpoint import CheckpointFolder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # there the folder is not locked


@dataclass(frozen=True)
class RunFolder:
    """Paths of the files in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def split(self) -> Path:
        return self.path / "split.json"

    @property
    def coverage(self) -> Path:
        return self.path / "coverage.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def translated(self) -> Path:
        return self.path / "translated"

    @property
    def registration(self) -> Path:
        return self.path / "registration"

    @property
    def mosaics(self) -> Path:
        return self.path / "mosaics"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def uncertainty(self) -> Path:
        return self.path / "uncertainty.png"

    @property
    def calibrations(self) -> Path:
        return self.path / "uncertainty.json"

    @property
    def models(self) -> Path:
        return self.path / "models.json"

    @property
    def scores(self) -> Path:
        return self.path / "scores.json"

    @property
    def record(self) -> Path:
        return self.path / "run.json"

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
        source = contrasts[1] if target == contrasts[0] else contrasts[0]
        return f"{source}_to_{target}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder against other processes within the block, where the system has file locks.

        Raises:
            UserError: Another process is working on this run, or nothing can be written there.
        """
        if fcntl is None:
            yield
            return
        fresh = not self.path.exists()
        make_folder(self.path)
        with writing_to(self.path):
            lock = (self.path / ".lock").open("w")
        with lock:
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock's, not inherited by forked workers
            except (BlockingIOError, PermissionError) as error:
                raise UserError(
                    f"{self.path}: another process is at work on this run; wait for it, or stop it"
                ) from error
            try:
                yield
            finally:
                with suppress(OSError):
                    if fresh and [entry.name for entry in self.path.iterdir()] == [".lock"]:  # refused before it began
                        (self.path / ".lock").unlink()
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
