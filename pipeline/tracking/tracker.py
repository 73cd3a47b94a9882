"""The record of a run during training: metrics.jsonl, which is complete, and MLflow, which receives a copy.

Everything else that goes to MLflow is kept in the folder too (`pipeline.tracking.event_log`), so that `pipeline.sync`
can send it later.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from pipeline.tracking.event_log import NAME, Entry, EventLog, clear, remove_sent, replay_job
from pipeline.tracking.metrics_file import MetricsFile
from pipeline.tracking.mlflow_run import NOTE_TAG, MlflowRun, Result, RunInfo, flatten
from pipeline.tracking.mlflow_worker import Job, MlflowWorker
from pipeline.utils.errors import Stopped, without_password

QUERY = "?workflowType=machine_learning"  # for MLflow's pages of training, not of prompts


class Tracker:
    """The record of one run; use it as a context manager, or call `close`.

    Training waits for MLflow only in `call` and `close`, and for a failing server less than 10 s in all.

    Args:
        folder: Folder of the run; holds metrics.jsonl, tracking.jsonl, and mlflow.json, which names the MLflow run.
        params: Nested settings of the run; logged flat ("training.epochs").
        step: Global step of the checkpoint from which the run resumes; None for a start from scratch.
        run_id: MLflow run to continue, as named in the checkpoint.
        mlflow: Whether to log to MLflow. A resumed run that has an event log continues the log in any case.
        complete_file: File that messages name as complete when MLflow does not answer; None for metrics.jsonl.
        machine: Whether to measure what the machine does, as `system/…`, while MLflow follows.

    Raises:
        UserError: The record cannot be written.
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
        complete_file: Path | None = None,
        machine: bool = True,
    ):
        self._folder = folder
        self._metrics = MetricsFile(folder / "metrics.jsonl", step)
        self._checkpoint_run_id = run_id
        self._complete_file = complete_file or self._metrics.path
        info = RunInfo(experiment, run_name, flatten(params), dict(tags or {}))
        # A resumed run continues its event log, which would keep the status of an earlier session otherwise.
        keeps_log = mlflow or (step is not None and (folder / NAME).is_file())
        if not keeps_log:
            clear(folder)
        self._event_log = EventLog(folder, info, step) if keeps_log else None
        self._worker = None
        if mlflow:
            resumed = step is not None
            self._worker = MlflowWorker(
                self._metrics.path, info, complete_file=complete_file, resumed=resumed, run_id=run_id, machine=machine
            )
        for entry in self._event_log.pending if self._event_log else ():
            self._queue(entry)

    @property
    def run_id(self) -> str | None:
        """Id of the MLflow run, for the checkpoint; None while it is unknown."""
        return self._worker.run_id if self._worker else self._checkpoint_run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a global step; names like "train/loss" form groups in MLflow's charts.

        Raises:
            UserError: metrics.jsonl cannot be written.
        """
        self._metrics.append(values, step)

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Log an image under MLflow's step slider: (H, W) or (H, W, 3), 8-bit, or floats in [0, 1].

        Raises:
            UserError: The image cannot be stored until MLflow has it.
        """
        if self._event_log is None:
            return
        if image.dtype != np.uint8:
            image = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
        self._queue(self._event_log.add_image(key, image, step))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Queue a file for upload to a folder of the run's artifacts, as it is at the time of the upload."""
        self._add({"kind": "artifact", "path": self._portable(path), "folder": folder})

    def log_table(self, path: str, columns: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Log a table as a JSON artifact, which MLflow's UI shows; a later one at that path replaces it."""
        self._add({"kind": "table", "path": path, "columns": list(columns), "rows": [list(row) for row in rows]})

    def log_dataset(
        self, name: str, context: str, source: str, items: Sequence[str], profile: Mapping[str, object] | None = None
    ) -> None:
        """Log an input data set of the run, such as "T1" in the context "train".

        Args:
            items: File names, from which the digest is computed.
            profile: Further numbers about the data set, besides the count of items.
        """
        digest = hashlib.sha256("\n".join(items).encode()).hexdigest()[:8]
        content = {"name": name, "context": context, "source": source, "digest": digest}
        self._add({"kind": "dataset", **content, "profile": {"items": len(items), **(profile or {})}})

    def log_children(self, folders: Iterable[Path]) -> None:
        """Have the MLflow runs of these folders shown below this one."""
        self._add({"kind": "children", "folders": [self._portable(folder) for folder in folders]})

    def set_description(self, markdown: str) -> None:
        """Set the text, in Markdown, on the front page of the MLflow run; what is too long for MLflow is cut off."""
        self.set_tags({NOTE_TAG: markdown})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the MLflow run."""
        self._add({"kind": "tags", "tags": dict(tags)})

    def call(self, title: str, action: Callable[[MlflowRun], Result], size_bytes: int = 0) -> Result | None:
        """Run an action with the MLflow run in the background, and wait for its result.

        Returns:
            The action's result; None if it failed or took too long, or if MLflow is off or does not answer.
        """
        return self._worker.call(Job(title, action, size_bytes)) if self._worker else None

    def close(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; returns within seconds even if the server does not answer."""
        self._metrics.close()
        if self._event_log:
            self._event_log.close(status)
        if self._worker:
            self._worker.close(status)
            remove_sent(self._folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        is_stopped = kind is not None and issubclass(kind, Stopped | KeyboardInterrupt)
        self.close("KILLED" if is_stopped else "FINISHED" if kind is None else "FAILED")

    def open_instructions(self) -> str:
        """Return a line with the place of the record and the way to open it."""
        worker = self._worker
        if worker is None or worker.uri is None or worker.experiment_id is None:
            return f"{self._complete_file} (MLflow was {'not reached' if worker else 'off'})"
        uri, page = without_password(worker.uri), f"/#/experiments/{worker.experiment_id}/runs/{worker.run_id}{QUERY}"
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}{page}"
        choice = f" --backend-store-uri {uri}" if "MLFLOW_TRACKING_URI" in os.environ else ""
        return f"mlflow ui{choice}, then http://127.0.0.1:5000{page}"

    def _portable(self, path: Path) -> str:
        """Return a path as the event log keeps it: relative if what lies there moves along with the run's folder."""
        home, path = self._folder.absolute(), path.absolute()
        return os.path.relpath(path, home) if path.is_relative_to(home.parent) else str(path)

    def _add(self, entry: Entry) -> None:
        if self._event_log:
            self._queue(self._event_log.add(entry))

    def _queue(self, entry: Entry) -> None:
        if self._worker:
            self._worker.queue(replay_job(entry, self._folder))
