"""The folder of a run: paths of its files, and whether a configuration may continue the run in it."""

import hashlib
import json
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from pipeline.config.schema import Config
from pipeline.utils.console import one_line
from pipeline.utils.errors import UserError
from pipeline.utils.files import atomic_text, make_folder, writing_to

if TYPE_CHECKING:
    from pipeline.runs.checkpoint import CheckpointFolder

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# Settings that may change between two sessions of a run, since they do not change what is learnt.
CHANGEABLE = (
    "output", "device", "threads", "tracking", "evaluation", "training.loader_workers", "training.checkpoint_minutes",
    "training.cuda_graph", "training.slices_on_device",
    "preprocess.processes", "preprocess.store", "preprocess.on_bad_volume", "split.file",
)  # fmt: skip
# Numbers of epochs, which may change although they decide what is learnt: finished training stays, the rest follows the
# new schedule (`pipeline.training.history`).
SCHEDULE = ("training.epochs", "training.decay_epochs")
HEADING = "Resolved configuration of this run"  # the first line of a config.yaml that a run wrote


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

    def is_finished(self, config: Config) -> bool:
        """Whether the run is trained, evaluated and reported with exactly this configuration.

        `config.yaml` does not show it, since it is written when a session begins; `run.json` is written last.
        """
        try:
            is_same = json.loads(self.record.read_text(encoding="utf-8"))["configuration"] == fingerprint(config)
        except (OSError, ValueError, KeyError, TypeError):  # not there, damaged, or of an older version
            return False
        return is_same and self.scores.is_file() and self.report.is_file()

    def save_config(self, config: Config, notes: Iterable[str] = ()) -> None:
        """Write the resolved configuration, with which later sessions compare theirs; notes become comments."""
        command = f"python -m pipeline.run {shlex.quote(str(self.config))}"
        heading = [f"{HEADING}; `{command}` continues it.", *notes]
        comments = "".join(f"# {one_line(line)}\n" for line in heading)
        atomic_text(self.config, f"{comments}{resolved_yaml(config)}")


def fingerprint(config: Config) -> str:
    """Return a hash of a configuration without `output`, since a run may be moved."""
    content = config.model_dump(mode="json", exclude={"output"})
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def resolved_yaml(config: Config) -> str:
    """Return the whole configuration, defaults included, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def json_text(content: object) -> str:
    """Return plain data as readable JSON."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def open_run_folder(config: Config) -> RunFolder:
    """Return the run's folder, after checking that an earlier session there had the same configuration.

    The numbers of epochs may differ (`SCHEDULE`); where nothing was trained yet, everything may.

    Raises:
        UserError: The folder holds a run of another configuration, or other files.
    """
    folder = RunFolder(config.folder)
    if folder.path.exists() and not folder.path.is_dir():
        raise UserError(f"{folder.path}: is a file; choose another output")
    if not folder.config.exists():
        if folder.path.exists() and any(entry.name != ".lock" for entry in folder.path.iterdir()):
            raise UserError(f"{folder.path}: holds files that are not of a run; choose another output, or empty it")
        return folder
    if not folder.has_trained() and _is_written_by_run(folder.config):
        return folder
    saved_values = _read_config(folder.config)
    new_values = json.loads(json.dumps(config.model_dump(mode="json")))
    different = [
        f"{key}: {saved_value!r} there, {value!r} now"
        for key, saved_value, value in differing_keys(saved_values, new_values)
        if not _may_change(key, config)
    ]
    if different:
        weights = (
            f" (there training.start_from={folder.path} begins from its weights)" if folder.has_checkpoint() else ""
        )
        problem = f"{folder.path}: holds a run of another configuration; set output=…{weights}, or move it away"
        raise UserError("\n  ".join([problem, *different]))
    return folder


def _may_change(key: str, config: Config) -> bool:
    """Whether a setting may change between sessions; the registration of pairs may not if training uses them."""
    if key == "evaluation.register_pairs" and config.split.pairing == "paired":
        return False
    return any(key == free or key.startswith(f"{free}.") for free in (*CHANGEABLE, *SCHEDULE))


def _is_written_by_run(path: Path) -> bool:
    """Whether a configuration was written by `RunFolder.save_config` and not by the user."""
    try:
        with path.open(encoding="utf-8") as stream:
            return stream.readline().startswith(f"# {HEADING}")
    except (OSError, UnicodeDecodeError):
        return False


def _read_config(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read; move the run's folder away to start anew") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a run's configuration; move the run's folder away to start anew")
    try:  # keys that the file lacks get their defaults
        return json.loads(json.dumps(Config.model_validate(content).model_dump(mode="json")))
    except ValidationError:
        return content


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
