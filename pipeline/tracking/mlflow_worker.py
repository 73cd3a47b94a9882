"""The background thread that sends a run's metrics.jsonl, and further jobs, to MLflow.

It sends new lines of the file and does its jobs in order. When the store fails, it warns once, retries at intervals,
and after reconnecting sends what the store lacks. Training waits for a failing store at most `PATIENCE_S` in all.
"""

import json
import logging
import math
import shlex
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic
from urllib.parse import urlsplit

from pipeline.tracking.metrics_file import read_metrics
from pipeline.tracking.mlflow_run import MlflowRun, Result, RunInfo
from pipeline.tracking.mlflow_settings import configure_mlflow, short_reason
from pipeline.utils.errors import without_password
from pipeline.utils.files import atomic_text

logger = logging.getLogger(__name__)

RUN_ID_FILE = "mlflow.json"  # names a folder's MLflow run, so that a run without a checkpoint is found again
# A request to SQLite delays training by 10 ms, whatever its size.
SEND_EVERY_S, RETRY_EVERY_S, SYSTEM_EVERY_S = 10.0, 30.0, 10.0
PATIENCE_S = 6.0  # how long training waits for a failing server, in all
PATIENCE_ON_DISK_S = 60.0  # the same for a store on disk, whose first use takes seconds
LINES_AT_ONCE = 200
UPLOAD_BYTES_PER_S = 10e6  # the timeout of an upload grows by its size at this speed


@dataclass
class Job(Generic[Result]):
    """An action with the MLflow run, for the background thread."""

    title: str  # what is logged, for messages
    action: Callable[[MlflowRun], Result]  # may raise
    size_bytes: int = 0  # of the upload
    done: threading.Event = field(default_factory=threading.Event)
    result: Result | None = None  # None if the action failed


class MlflowWorker:
    """MLflow as seen from training: it never raises and hardly ever waits.

    Args:
        metrics: The metrics.jsonl to send; `RUN_ID_FILE` is written beside it.
        complete_file: File that messages name as complete when MLflow does not answer; None for the metrics of a run,
            which `pipeline.sync` can send later.
        resumed: Whether the run resumes from a checkpoint, which names the MLflow run `run_id`.
        machine: Whether to measure what the machine does, as `system/…`.
    """

    def __init__(
        self,
        metrics: Path,
        info: RunInfo,
        *,
        complete_file: Path | None,
        resumed: bool,
        run_id: str | None,
        machine: bool = True,
    ):
        self._metrics, self._info, self._complete_file = metrics, info, complete_file
        earlier_id = read_run_id(metrics.parent)  # checkpoints saved before MLflow answered name no run
        self.run_id = run_id or (earlier_id if resumed else None)
        self._abandoned_id = None if resumed else earlier_id
        self.uri: str | None = None
        self.experiment_id: str | None = None
        self._run: MlflowRun | None = None  # used by the thread only
        self._jobs: deque[Job[Any]] = deque()
        self._offset, self._system_step, self._system_due = 0, 0, 0.0 if machine else math.inf
        self._is_offline = self._has_warned = self._has_gaps = self._is_complete = False
        self._patience_s, self._allowance_s, self._last_progress = PATIENCE_ON_DISK_S, 0.0, time.monotonic()
        self._status: str | None = None
        self._wake, self._ended = threading.Event(), threading.Event()
        configure_mlflow()
        threading.Thread(target=self._work, name="mlflow", daemon=True).start()

    # ── the training's side: nothing here touches MLflow ────────────────────────────────────────────────────

    @property
    def is_connected(self) -> bool:
        """Whether the run is open and the store, as far as known, answers."""
        return not self._is_offline and self._status is None

    def queue(self, job: Job[Any]) -> None:
        """Append a job to the thread's queue."""
        if self._status is None:
            self._jobs.append(job)

    def call(self, job: Job[Result]) -> Result | None:
        """Queue a job and wait for its result; None if it failed or took too long."""
        if self.is_connected:
            self.queue(job)
            self._wait(job.done)
        self._has_gaps |= not job.done.is_set()
        return job.result

    def close(self, status: str) -> None:
        """Send the rest, end the run with its status, and stop; print how to send later what could not be sent."""
        if self._status is not None:
            return
        self._status = status
        self._wait(self._ended)
        if self._complete_file is None and (self._has_gaps or not self._is_complete):
            command = f"python -m pipeline.sync {shlex.quote(str(self._metrics.parent))}"
            logger.warning(f"MLflow has not got all of this run; `{command}` sends it later")

    def _wait(self, event: threading.Event) -> None:
        """Wait while the thread makes progress; time without progress is subtracted from the remaining patience."""
        started = time.monotonic()
        self._wake.set()
        while not event.wait(0.05):
            idle_s = time.monotonic() - max(self._last_progress, started)
            is_unresponsive = idle_s > self._patience_s + self._allowance_s
            if is_unresponsive:
                self._warn_once("it does not answer")
            if is_unresponsive or (self._is_offline and self._status is None):
                self._patience_s = max(0.0, self._patience_s - idle_s)
                return

    # ── the thread ──────────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        while True:
            status = self._status
            try:
                self._run = self._run or self._connect()
                self._follow(self._run)
                if status is not None:
                    self._run.end(status)
                    self._is_complete = True
            except Exception as error:  # no error of MLflow stops the training
                self._run, self._is_offline = None, True
                self._warn_once(short_reason(error))
            if status is not None:
                self._ended.set()
                return
            self._wake.clear()
            if self._status is None and (self._is_offline or not self._jobs):
                self._wake.wait(RETRY_EVERY_S if self._is_offline else SEND_EVERY_S)

    def _connect(self) -> MlflowRun:
        import mlflow
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        if self.uri is None:
            self.uri, self._last_progress = str(mlflow.get_tracking_uri()), time.monotonic()
            is_on_disk = urlsplit(self.uri).scheme in ("sqlite", "file", "")
            self._patience_s = PATIENCE_ON_DISK_S if is_on_disk else PATIENCE_S
        run = MlflowRun(self._info, self.run_id, uri=self.uri)
        run.end_abandoned(self._abandoned_id)
        self._abandoned_id = None
        system_steps = [step for key, steps in run.logged_points.items() if key.startswith("system/") for step in steps]
        self._offset, self._system_step = 0, max(system_steps, default=-1) + 1
        self._monitors = SystemMetricsMonitor(run.id, tracking_uri=run.uri).monitors  # read here, not in its thread
        self.run_id, self.experiment_id = run.id, run.experiment_id
        write_run_id(self._metrics.parent, run)
        self._is_offline, self._last_progress = False, time.monotonic()
        return run

    def _follow(self, run: MlflowRun) -> None:
        records, offset = read_metrics(self._metrics, self._offset)
        for start in range(0, len(records), LINES_AT_ONCE):
            run.log_points(records[start : start + LINES_AT_ONCE])
            self._last_progress = time.monotonic()
        self._offset = offset
        while self._jobs:
            self._do(run, self._jobs[0])
            self._jobs.popleft().done.set()
            self._last_progress = time.monotonic()
        if time.time() >= self._system_due:
            self._log_system(run)

    def _do(self, run: MlflowRun, job: Job[Any]) -> None:
        self._allowance_s = job.size_bytes / UPLOAD_BYTES_PER_S
        try:
            job.result, reason = run.attempt(job.action, self._allowance_s)
        finally:
            self._allowance_s = 0.0
        if reason:
            self._has_gaps = True
            logger.warning(f"MLflow did not take {job.title} ({reason}); the run goes on without it there")

    def _log_system(self, run: MlflowRun) -> None:
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values |= {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            monitor.clear_metrics()
        now = time.time()
        run.log_points([{"step": self._system_step, "time": now, **values}])
        self._system_due, self._system_step = now + SYSTEM_EVERY_S, self._system_step + 1

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            store, complete_file = without_password(self.uri or "MLflow"), self._complete_file or self._metrics
            logger.warning(f"{store} is not followed ({reason}); the run goes on, {complete_file} has everything")


def read_run_id(folder: Path) -> str | None:
    """Return the id of a folder's MLflow run; None if its file is missing or damaged."""
    try:
        return str(json.loads((folder / RUN_ID_FILE).read_text())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_run_id(folder: Path, run: MlflowRun) -> None:
    """Write the MLflow run's id and store to a folder."""
    atomic_text(folder / RUN_ID_FILE, json.dumps({"run_id": run.id, "uri": without_password(run.uri)}, indent=2) + "\n")
