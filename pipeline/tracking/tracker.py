"""What a run leaves on record while it trains: metrics.jsonl, which is the truth, and MLflow, which follows it.

Whatever else MLflow is told stands in the folder too (`pipeline.tracking.event_log`): `pipeline.sync` tells it later.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from pipeline.tracking.event_log import NAME, Entry, EventLog, clear, remove_sent, replay, size_bytes, title
from pipeline.tracking.metrics_file import MetricsFile
from pipeline.tracking.mlflow_run import MlflowRun, flatten
from pipeline.tracking.mlflow_settings import without_password
from pipeline.tracking.mlflow_worker import Job, MlflowWorker
from pipeline.utils.errors import Stopped


class Tracker:
    """The record of one run; use it as a context manager, or call `close`.

    Training waits for MLflow nowhere but in `call` and `close`, and for a failing server less than 10 s in all.

    Args:
        folder: The run's folder; holds metrics.jsonl, tracking.jsonl, and mlflow.json, which names the MLflow run.
        experiment: MLflow's experiment.
        run_name: The MLflow run's name.
        params: The run's settings, nested; logged flat ("training.epochs").
        step: The global step of the checkpoint from which the run resumes; None for a start from scratch.
        run_id: The MLflow run that the checkpoint names, which is continued.
        tags: Tags of the MLflow run.
        mlflow: Whether MLflow follows at all. A resumed run whose journal is there goes on with it all the same.
        whole: Which file to name as complete where MLflow does not answer; None: metrics.jsonl.

    Raises:
        UserError: the record cannot be written.
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
    ):
        self._metrics = MetricsFile(folder / "metrics.jsonl", step)
        self._checkpoint_run_id = run_id
        self._complete_file = complete_file or self._metrics.path
        run_info = {"experiment": experiment, "name": run_name, "params": flatten(params), "tags": dict(tags or {})}
        keeps_log = mlflow or (
            step is not None and (folder / NAME).is_file()
        )  # or it would end as an earlier sitting did
        self._event_log = EventLog(folder, run_info, step) if keeps_log else None
        self._worker = (
            MlflowWorker(
                self._metrics.path,
                folder / "mlflow.json",
                complete_file=self._complete_file,
                resumed=step is not None,
                run_id=run_id,
                run_info=run_info,
            )
            if mlflow
            else None
        )
        if self._event_log:
            for entry in self._event_log.pending():
                self._queue(entry)
        elif step is None:
            clear(folder)

    @property
    def run_id(self) -> str | None:
        """The MLflow run, for the checkpoint; None while it is not known."""
        return self._worker.run_id if self._worker else self._checkpoint_run_id

    @property
    def is_connected(self) -> bool:
        """Whether MLflow is on and, as far as is known, answering."""
        return self._worker is not None and self._worker.is_connected

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record numbers at a global step; names like "train/loss" make groups in MLflow's charts.

        Raises:
            UserError: metrics.jsonl cannot be written.
        """
        self._metrics.append(values, step)

    def log_image(self, key: str, image: np.ndarray, step: int) -> None:
        """Log an image under MLflow's step slider: (H, W) or (H, W, 3), 8-bit, or floats in [0, 1].

        Raises:
            UserError: it cannot be kept on disk until MLflow has it.
        """
        if self._event_log is None:
            return
        if image.dtype != np.uint8:
            image = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
        self._queue(self._event_log.add_image(key, image, step))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Log a file or a folder, as it is when its turn comes, into a folder of the run's artifacts."""
        home, path = self._metrics.path.parent.absolute(), path.absolute()
        moves_along = path.is_relative_to(home.parent)
        stored = os.path.relpath(path, home) if moves_along else str(path)
        self._add({"kind": "artifact", "path": stored, "folder": folder})

    def log_dataset(
        self, name: str, context: str, source: str, items: Sequence[str], profile: Mapping[str, object] | None = None
    ) -> None:
        """Log an input of the run.

        Args:
            name: Such as "T1".
            context: "train", "validation" or "test".
            source: The folder it came from.
            items: What it consists of (file names), for which its digest stands.
            profile: Numbers about it, besides their count.
        """
        digest = hashlib.sha256("\n".join(items).encode()).hexdigest()[:8]
        item_profile = {"items": len(items), **(profile or {})}
        content = {"name": name, "context": context, "source": source, "digest": digest, "profile": item_profile}
        self._add({"kind": "dataset", **content})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the MLflow run."""
        self._add({"kind": "tags", "tags": dict(tags)})

    def call(self, title: str, action: Callable[[MlflowRun], object], size_bytes: int = 0) -> object:
        """Have something done with the MLflow run in the background, and wait for what it returns.

        Returns:
            What `action` returned; None if it failed or took too long, or MLflow is off or does not answer.
        """
        return self._worker.call(Job(title, action, size_bytes)) if self._worker else None

    def close(self, status: str = "FINISHED") -> None:
        """End the run as FINISHED, FAILED or KILLED; returns within seconds whatever the server does."""
        self._metrics.close()
        if self._event_log:
            self._event_log.close(status)
        if self._worker:
            self._worker.close(status)
            remove_sent(self._metrics.path.parent)

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, Stopped | KeyboardInterrupt)
        self.close("KILLED" if stopped else "FINISHED" if kind is None else "FAILED")

    def open_instructions(self) -> str:
        """Say in a line where the record is and how to look at it."""
        worker = self._worker
        if worker is None or worker.experiment_id is None:
            return f"{self._complete_file} (MLflow was {'not reached' if worker else 'off'})"
        uri, page = without_password(worker.uri), f"/#/experiments/{worker.experiment_id}/runs/{worker.run_id}"
        if uri.startswith("http"):
            return f"{uri.rstrip('/')}{page}"
        choice = f" --backend-store-uri {uri}" if "MLFLOW_TRACKING_URI" in os.environ else ""
        return f"mlflow ui{choice}, then http://127.0.0.1:5000{page}"

    def _add(self, entry: Entry) -> None:
        if self._event_log:
            self._queue(self._event_log.add(entry))

    def _queue(self, entry: Entry) -> None:
        folder = self._metrics.path.parent
        if self._worker:
            self._worker.queue(Job(title(entry), lambda run: replay(run, entry, folder), size_bytes(entry, folder)))
