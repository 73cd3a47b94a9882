"""What a run leaves on record while it trains: metrics.jsonl, which is the truth, and MLflow, which follows it.

The training thread only appends lines to metrics.jsonl and queues the rest. One background thread tails that file into
MLflow and works the queue off. When the store fails, it says so once, tries again now and then, and on success sends
what the store lacks; training neither waits nor changes.
"""

import hashlib
import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.console import warn
from pipeline.errors import Stopped, UserError
from pipeline.files import atomic_text
from pipeline.mlflow_run import (
    MlflowRun,
    configure_mlflow,
    flatten,
    is_remote,
    request_timeout,
    system_monitors,
    without_password,
)

SEND_EVERY_S, RETRY_EVERY_S, SYSTEM_EVERY_S = 2.0, 30.0, 10.0
PATIENCE_S = 8.0  # what training waits for a failing server, in all
PATIENCE_ON_DISK_S = 60.0  # the same for a store on this machine, whose first use takes seconds
UPLOAD_BYTES_PER_S = 10e6  # a request with a file may take longer by its size at this speed


def read_metrics(path: Path, offset: int = 0) -> tuple[list[dict[str, float]], int]:
    """Read the whole lines of a metrics.jsonl from a byte offset on.

    Returns:
        The records ({"step": …, "time": seconds since 1970, name: value, …}), and the offset behind the last one.
        A line that is no record (torn by a crash) is left out.
    """
    with open(path, "rb") as stream:
        stream.seek(offset)
        content = stream.read()
    content = content[: content.rfind(b"\n") + 1]
    records = (_record(line) for line in content.splitlines())
    return [record for record in records if record], offset + len(content)


def _record(line: bytes) -> dict[str, float] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and {"step", "time"} <= record.keys() else None


class MetricsFile:
    """The metrics.jsonl of a run. Opening it at step S drops what was logged beyond S; None drops everything."""

    def __init__(self, path: Path, step: int | None):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [record for record in self._read() if step is not None and record["step"] <= step]
        self._at_start = {(record["step"], name) for record in kept if record["step"] == step for name in record}
        atomic_text(path, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in kept))
        self._stream = open(path, "ab", buffering=0)  # noqa: SIM115  (open as long as the run)

    def _read(self) -> list[dict[str, float]]:
        return read_metrics(self.path)[0] if self.path.exists() else []

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Write one line at once; values that the resumed step has already are left out.

        Raises:
            UserError: the disk is full or gone.
        """
        new = {name: float(value) for name, value in values.items() if (step, name) not in self._at_start}
        if not new:
            return
        line = json.dumps({"step": step, "time": round(time.time(), 3), **new}, ensure_ascii=False)
        try:
            self._stream.write(f"{line}\n".encode())
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror}); free some space and run again") from error

    def close(self) -> None:
        """Put the file on the disk and close it."""
        if not self._stream.closed:
            os.fsync(self._stream.fileno())
            self._stream.close()


@dataclass
class _Job:
    title: str
    action: Callable[[MlflowRun], object]
    size_bytes: int = 0
    done: threading.Event = field(default_factory=threading.Event)
    result: object = None


class Tracker:
    """The record of one run; use it as a context manager, or call `close`.

    Args:
        folder: The run's folder; holds metrics.jsonl and mlflow.json, which names the MLflow run.
        experiment: MLflow's experiment.
        run_name: The MLflow run's name.
        params: The run's settings, nested; logged flat ("training.epochs").
        step: The global step of the checkpoint from which the run resumes; None for a start from scratch.
        run_id: The MLflow run that the checkpoint names, which is continued.
        tags: Tags of the MLflow run.
        mlflow: Whether to follow in MLflow at all.
    """

    def __init__(
        self,
        folder: Path,
        *,
        experiment: str,
        run_name: str,
        params: Mapping[str, object],
        step: int | None = None,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        mlflow: bool = True,
    ):
        self.metrics = MetricsFile(folder / "metrics.jsonl", step)
        self._note = folder / "mlflow.json"
        self._asked = {"experiment": experiment, "name": run_name, "params": flatten(params), "tags": dict(tags or {})}
        noted_id = self._noted_id()  # a checkpoint made before MLflow answered names no run
        self._asked |= {"run_id": run_id or (noted_id if step is not None else None)}
        self._asked |= {"unfinished_id": noted_id if step is None else None}
        self._run: MlflowRun | None = None  # the worker's alone
        self._uri = self._experiment_id = self._run_id = None
        self._jobs: deque[_Job] = deque()
        self._offset, self._system_step, self._system_due = 0, 0, 0.0
        self._offline = self._told = False
        self._patience_s, self._allowance_s, self._beat = PATIENCE_ON_DISK_S, 0.0, time.monotonic()
        self._status: str | None = None
        self._wake, self._ended = threading.Event(), threading.Event()
        self.on = mlflow
        if mlflow:
            configure_mlflow()
            threading.Thread(target=self._work, name="tracking", daemon=True).start()

    # ── the training's side: nothing here touches MLflow ────────────────────────────────────────────────────

    @property
    def run_id(self) -> str | None:
        """The MLflow run, for the checkpoint; None while it is not known."""
        return self._run_id or self._asked["run_id"]

    @property
    def follows(self) -> bool:
        """Whether MLflow is on and, as far as is known, answering."""
        return self.on and not self._offline and self._status is None

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a global step; names like "train/loss" make groups in MLflow's charts."""
        self.metrics.append(values, step)

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Log an image under MLflow's step slider: (H, W) or (H, W, 3), 8-bit, or floats in [0, 1]."""
        if image.dtype != np.uint8:
            image = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
        image = image.copy()
        self._queue(_Job(f"the image {key}", lambda run: run.log_image(image, key, step), image.nbytes))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file or a folder, as it is when its turn comes, into a folder of the run's artifacts."""
        files = path.rglob("*") if path.is_dir() else [path]
        size_bytes = sum(file.stat().st_size for file in files if file.is_file())
        self._queue(_Job(str(path), lambda run: run.client.log_artifact(run.id, str(path), folder), size_bytes))

    def log_dict(self, content: Mapping[str, object], file: str) -> None:
        """Log a mapping as an artifact; `file` ends in .yaml or .json."""
        content = dict(content)
        self._queue(_Job(file, lambda run: run.client.log_dict(run.id, content, file)))

    def log_dataset(
        self, name: str, context: str, source: str, items: Sequence[str], profile: Mapping[str, object] | None = None
    ) -> None:
        """Log an input of the run.

        Args:
            name: Such as "T1".
            context: "train", "validation" or "test".
            source: The folder it came from.
            items: What it consists of (file names), which its digest stands for.
            profile: Numbers about it, besides their count.
        """
        digest = hashlib.sha256("\n".join(items).encode()).hexdigest()[:8]
        about = {"items": len(items), **(profile or {})}
        self._queue(_Job(f"the data {name}", lambda run: run.log_dataset(name, context, source, digest, about)))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the MLflow run."""
        tags = dict(tags)
        self._queue(_Job("tags", lambda run: run.set_tags(tags)))

    def call(self, title: str, action: Callable[[MlflowRun], object], size_bytes: int = 0) -> object:
        """Let the background thread do something with the MLflow run, and wait for what it returns.

        Returns:
            What `action` returned; None if it failed, was not waited for, or MLflow is off or does not answer.
        """
        job = _Job(title, action, size_bytes)
        if not self.follows:
            return None
        self._queue(job)
        self._wait(job.done)
        return job.result

    def close(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; returns within seconds whatever the server does."""
        self.metrics.close()
        if self._status is None:
            self._status = status
            if self.on:
                self._wait(self._ended)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, Stopped | KeyboardInterrupt)
        self.close("KILLED" if stopped else "FINISHED" if kind is None else "FAILED")

    def how_to_open(self) -> str:
        """Say in a line where the record is and how to look at it."""
        if self._run_id is None or self._uri is None:
            return f"{self.metrics.path} (MLflow was {'not reached' if self.on else 'off'})"
        place = f"/#/experiments/{self._experiment_id}/runs/{self._run_id}"
        if self._uri.startswith("http"):
            return f"{without_password(self._uri).rstrip('/')}{place}"
        choice = f" --backend-store-uri {without_password(self._uri)}" if "MLFLOW_TRACKING_URI" in os.environ else ""
        return f"mlflow ui{choice}, then http://127.0.0.1:5000{place}"

    def _queue(self, job: _Job) -> None:
        if self.on and self._status is None:
            self._jobs.append(job)

    def _wait(self, event: threading.Event) -> None:
        """Wait while the worker gets on; time in which it does not is taken from the patience left."""
        started = time.monotonic()
        self._wake.set()
        while not event.wait(0.05):
            idle_s = time.monotonic() - max(self._beat, started)
            gone = idle_s > self._patience_s + self._allowance_s
            if gone:
                self._tell("it does not answer")
            if gone or (self._offline and self._status is None):
                self._patience_s = max(0.0, self._patience_s - idle_s)
                return

    def _noted_id(self) -> str | None:
        try:
            return json.loads(self._note.read_text())["run_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    # ── the background thread ───────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while True:
            closing = self._status is not None
            try:
                self._follow()
                if closing:
                    self._run.end(self._status)
            except Exception as error:  # whatever happens in MLflow, the training goes on
                self._lose(error)
            if closing:
                self._ended.set()
                return
            self._wake.wait(RETRY_EVERY_S if self._offline else SEND_EVERY_S)
            self._wake.clear()

    def _follow(self) -> None:
        if self._run is None:
            self._connect()
        records, offset = read_metrics(self.metrics.path, self._offset)
        self._run.log_points(records)
        self._offset, self._beat = offset, time.monotonic()
        while self._jobs:
            self._do(self._jobs[0])
            self._jobs.popleft().done.set()
            self._beat = time.monotonic()
        self._log_system()

    def _connect(self) -> None:
        import mlflow

        self._beat, self._uri = time.monotonic(), mlflow.get_tracking_uri()
        if is_remote(self._uri):
            self._patience_s = min(self._patience_s, PATIENCE_S)
        if self._run_id:
            self._asked |= {"run_id": self._run_id}
        run = MlflowRun(**self._asked)
        self._offset, self._system_step = 0, 1 + max(
            (step for key, steps in run.logged_steps.items() if key.startswith("system/") for step in steps), default=-1
        )
        self._run, self._run_id, self._experiment_id = run, run.id, run.experiment_id
        self._monitors = system_monitors()
        atomic_text(self._note, json.dumps({"run_id": run.id, "uri": without_password(run.uri)}, indent=2) + "\n")
        self._offline, self._beat = False, time.monotonic()

    def _do(self, job: _Job) -> None:
        self._allowance_s = job.size_bytes / UPLOAD_BYTES_PER_S
        try:
            with request_timeout(4 + self._allowance_s):
                job.result = job.action(self._run)
        except Exception as error:
            if not self._run.answers():
                raise
            warn(f"tracking: MLflow did not take {job.title} ({_reason(error)}); the run goes on without it there")
        finally:
            self._allowance_s = 0.0

    def _log_system(self) -> None:
        now = time.time()
        if now < self._system_due:
            return
        values = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        if values:
            self._run.log_points([{"step": self._system_step, "time": now, **values}])
        self._system_due, self._system_step = now + SYSTEM_EVERY_S, self._system_step + 1

    def _lose(self, error: Exception) -> None:
        self._run, self._offline = None, True
        self._tell(_reason(error))

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            store = without_password(self._uri or "MLflow")
            warn(f"tracking: {store} is not followed ({reason}); the run goes on, {self.metrics.path} has everything")


def _reason(error: BaseException) -> str:
    text = str(error)
    if "database schema" in text or "Can't locate revision" in text:
        return (
            "its schema is that of another MLflow release; if the store is older, run "
            "`mlflow db upgrade sqlite:///mlflow.db`, if it is newer, update MLflow"
        )
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    lines = (str(error) or type(error).__name__).splitlines()
    return lines[0][:200]
