"""Send the record of an ended run from its folder to an MLflow store, as if it had been logged during the run."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipeline.tracking.event_log import (
    NAME,
    Entry,
    picture,
    read_event_log,
    remove_sent,
    replay_job,
    run_info,
    uploaded_file,
)
from pipeline.tracking.metrics_file import read_metrics
from pipeline.tracking.mlflow_run import MlflowRun, Result
from pipeline.tracking.mlflow_settings import configure_mlflow, request_timeout, short_reason
from pipeline.tracking.mlflow_worker import UPLOAD_BYTES_PER_S, read_run_id, write_run_id
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)

PATIENCE_S = 26  # added to the timeout of a request in training, since no training waits here
SWEEP_RECORD = "sweep_record"  # name of the folder of a sweep's record, beside its comparison's files
BESIDE_RECORD = (".html", ".csv", ".json", "_slices.png")  # ends of the names of a comparison's files


class MlflowSync:
    """Sends a run's record in the foreground; replaces a `Tracker` where models are logged.

    What the store already has is not sent again, so sending twice changes nothing. No process may be working on the
    folder's run. `status` is that with which it ended, "FINISHED", "FAILED" or "KILLED"; `refused` counts the items
    that MLflow did not take.

    Raises:
        UserError: The folder has no event log, or a damaged one.
    """

    run: MlflowRun  # open from `send` on

    def __init__(self, folder: Path):
        self.folder, self._entries = folder, read_event_log(folder)
        self._starts = [entry for entry in self._entries if entry["kind"] == "about"]
        if not self._starts:
            raise UserError(
                f"{folder / NAME}: not there, or damaged, so nothing can be sent; "
                "run the run's own command again with tracking.mlflow=true"
            )
        last_write = max(file.stat().st_mtime for file in folder.glob("*.jsonl"))
        killed: Entry = {"kind": "end", "status": "KILLED", "time": last_write}  # without an end of its own
        self._end = [killed, *(entry for entry in self._entries if entry["kind"] == "end")][-1]
        self.status = str(self._end["status"])
        self.refused = 0

    def send(self, send_models: Callable[["MlflowSync"], object] = lambda sync: None) -> str:
        """Send the record, then the models, then end the MLflow run with the run's status; return a summary line.

        Raises:
            UserError: The store does not answer, or has another version's schema; what was sent stays sent.
        """
        configure_mlflow()
        try:
            with request_timeout(PATIENCE_S):
                self.run = self._open()
                path = self.folder / "metrics.jsonl"
                points = self.run.log_points(read_metrics(path)[0] if path.is_file() else [])
            self._send_entries()
            send_models(self)
            self.run.end(self.status, _milliseconds(self._end))
        except UserError:
            raise
        except Exception as error:  # the store, its server and its artifact storage each raise their own
            reason = f"{short_reason(error)}; send it again when that is mended"
            raise UserError(f"{self.folder}: not sent to MLflow: {reason}") from error
        remove_sent(self.folder)
        return f"{self.folder}: {self.status}, MLflow run {self.run.id}: {points} points were new there"

    def call(self, title: str, action: Callable[[MlflowRun], Result], size_bytes: int = 0) -> Result | None:
        """Run an action with the MLflow run; return None, and count it in `refused`, if only the action fails."""
        result, reason = self.run.attempt(action, PATIENCE_S + size_bytes / UPLOAD_BYTES_PER_S)
        if reason:
            self.refuse(title, reason)
        return result

    def refuse(self, title: str, reason: str) -> None:
        """Warn of an item that could not be sent, and count it."""
        self.refused += 1
        logger.warning(f"{self.folder}: {title} is not sent ({reason})")

    def _open(self) -> MlflowRun:
        first, *restarts = self._starts
        run = MlflowRun(run_info(first), read_run_id(self.folder), started_ms=_milliseconds(first))
        write_run_id(self.folder, run)
        for start in restarts:
            run.log_params(run_info(start).params)
        return run

    def _send_entries(self) -> None:
        lost_count = 0  # pictures
        for entry in self._entries:
            if entry["kind"] == "image" and not picture(self.folder, entry).exists():
                lost_count += not self.run.has_image(entry["key"], entry["step"])
                continue
            job = replay_job(entry, self.folder)
            if reason := self._refusal(entry):
                self.refuse(job.title, reason)
            else:
                self.call(job.title, job.action, job.size_bytes)
        if lost_count:
            logger.warning(f"{self.folder}: {lost_count} pictures are only in the store that got them first")

    def _refusal(self, entry: Entry) -> str:
        """Return why a file must not be sent, "" if it may: a log from elsewhere could name any path.

        Allowed are files in the run's folder, and the comparison's files beside a comparison's record.
        """
        path = uploaded_file(entry, self.folder)
        if path is None:
            return ""
        folder = self.folder.resolve()
        stem = "compare" if folder.name == SWEEP_RECORD else folder.name.removesuffix("_record")
        of_comparison = [f"{stem}{ending}" for ending in BESIDE_RECORD] if stem not in ("", folder.name) else []
        with suppress(OSError, ValueError, RuntimeError):  # an impossible file name, or a link to itself
            target = path.resolve()
            is_inside = all(file.resolve().is_relative_to(folder) for file in (target, *target.rglob("*")))
            if is_inside or (target.parent == folder.parent and target.name in of_comparison):
                return "" if target.exists() else "it is not there any more"
        return "it lies outside the run's folder, or cannot be read"


def _milliseconds(entry: Entry) -> int | None:
    return round(float(entry["time"]) * 1000) if "time" in entry else None
