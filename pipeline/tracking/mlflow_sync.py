"""Send the record of an ended run from its folder to an MLflow store, as if it had been logged during the run."""

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from pipeline.tracking.event_log import (
    NAME,
    Entry,
    picture,
    read_event_log,
    remove_sent,
    replay,
    send_image,
    size_bytes,
    title,
)
from pipeline.tracking.metrics_file import read_metrics
from pipeline.tracking.mlflow_run import MlflowRun
from pipeline.tracking.mlflow_settings import configure_mlflow, request_timeout, short_reason
from pipeline.tracking.mlflow_worker import LINES_AT_ONCE, UPLOAD_BYTES_PER_S, read_run_id, write_run_id
from pipeline.utils.errors import UserError

logger = logging.getLogger(__name__)

PATIENCE_S = 26  # added to the timeout of a request in training, since no training waits here
KINDS = {"image": "pictures", "artifact": "artifacts", "dataset": "data sets"}


class MlflowSync:
    """Sends a run's record in the foreground; replaces a `Tracker` where models are logged.

    What the store already has is not sent again, so sending twice changes nothing.

    Args:
        folder: Folder of a run that no process is working on.

    Attributes:
        status: Status with which the run ended: "FINISHED", "FAILED" or "KILLED".
        refused: Number of items that MLflow did not take.
        points: Number of metric points sent.
        sent: Number of other items sent, by kind.

    Raises:
        UserError: The folder has no event log, or a damaged one.
    """

    is_connected = True

    def __init__(self, folder: Path):
        self.folder, self._entries = folder, read_event_log(folder)
        self._run_infos = [dict(entry) for entry in self._entries if entry["kind"] == "about"]
        if not self._run_infos:
            raise UserError(
                f"{folder / NAME}: not there, or damaged, so nothing can be sent; "
                "run the run's own command again with tracking.mlflow=true"
            )
        ends = [entry for entry in self._entries if entry["kind"] == "end"]
        self._end: Entry = ends[-1] if ends else {"status": "KILLED", "time": _last_write_time(folder)}
        self.status = str(self._end["status"])
        self.refused, self.points, self.sent = 0, 0, Counter()

    def send(self, send_models: Callable[["MlflowSync"], object] = lambda sender: None) -> str:
        """Send the record, then the models, then end the MLflow run with the run's status; return a summary line.

        Raises:
            UserError: The store does not answer, or has another version's schema; what was sent stays sent.
        """
        configure_mlflow()
        try:
            with request_timeout(PATIENCE_S):
                self.run = self._open()
                self._send_points()
            self._send_entries()
            send_models(self)
            self.run.end(self.status, _milliseconds(self._end))
        except UserError:
            raise
        except Exception as error:  # the store, its server and its artifact storage each raise their own
            reason = f"{short_reason(error)}; send it again when that is mended"
            raise UserError(f"{self.folder}: not sent to MLflow: {reason}") from error
        remove_sent(self.folder)
        counts = [f"{count} {KINDS[kind]}" for kind, count in self.sent.items()]
        return (
            f"{self.folder}: {self.status}, MLflow run {self.run.id}: {', '.join([f'{self.points} points', *counts])}"
        )

    def call(self, title: str, action: Callable[[MlflowRun], object], size_bytes: int = 0) -> object:
        """Run an action with the MLflow run; return None, and count it in `refused`, if only the action fails."""
        try:
            with request_timeout(PATIENCE_S + size_bytes / UPLOAD_BYTES_PER_S):
                return action(self.run)
        except Exception as error:
            if not self.run.is_reachable():
                raise
            self.refuse(title, short_reason(error))
            return None

    def refuse(self, title: str, reason: str) -> None:
        """Warn of an item that could not be sent, and count it."""
        self.refused += 1
        logger.warning(f"{self.folder}: {title} is not sent ({reason})")

    def _open(self) -> MlflowRun:
        """Open the folder's MLflow run, or a new one, and log each of the run's successive settings."""
        run_id_file = self.folder / "mlflow.json"
        run_id, started_ms = read_run_id(run_id_file), _milliseconds(self._run_infos[0])
        for run_info in self._run_infos:
            settings = {name: run_info[name] for name in ("experiment", "name", "params", "tags")}
            run = MlflowRun(**settings, run_id=run_id, started_ms=started_ms)
            run_id = run.id
            write_run_id(run_id_file, run)
        return run

    def _send_points(self) -> None:
        path = self.folder / "metrics.jsonl"
        records = read_metrics(path)[0] if path.is_file() else []
        for start in range(0, len(records), LINES_AT_ONCE):
            self.points += self.run.log_points(records[start : start + LINES_AT_ONCE])

    def _send_entries(self) -> None:
        samples, lost = self._samples(), 0
        for entry in self._entries:
            if entry["kind"] == "image":
                lost += not self._send_picture(entry, samples)
                continue
            if entry["kind"] == "artifact" and (reason := self._refusal(str(entry["path"]))):
                self.refuse(title(entry), reason)
                continue
            refused = self.refused
            self.call(title(entry), partial(replay, entry=entry, folder=self.folder), size_bytes(entry, self.folder))
            if entry["kind"] in KINDS and self.refused == refused:
                self.sent[entry["kind"]] += 1
        if lost:
            pictures = "1 picture is" if lost == 1 else f"{lost} pictures are"
            logger.warning(f"{self.folder}: {pictures} not here any more, but only in the store that got them first")

    def _send_picture(self, entry: Entry, samples: Mapping[tuple[str, int], Path]) -> bool:
        """Send an image that the store lacks; return whether it was available or already logged."""
        key, step, refused = entry["key"], entry["step"], self.refused
        had, path = self.run.has_image(key, step), picture(self.folder, entry["file"])
        action = partial(replay, entry=entry, folder=self.folder)
        if not os.path.lexists(path):
            if had or (key, step) not in samples:
                return had
            path = samples[key, step]  # sent to an earlier store, but the run's samples have it too
            action = partial(send_image, key=key, step=step, path=path)
        if reason := self._refusal(str(path.relative_to(self.folder))):
            self.refuse(title(entry), reason)
            return True
        self.call(title(entry), action, path.stat().st_size)
        self.sent["image"] += not had and self.refused == refused
        return True

    def _samples(self) -> dict[tuple[str, int], Path]:
        """Return the files of the run's sample panels by the key and step under which they were logged.

        Files are named by epoch and entries by step: they are matched if there are as many files as entries, and all
        steps are ends of epochs.
        """
        steps: dict[str, set[int]] = {}
        for entry in self._entries:
            if entry["kind"] == "image" and re.fullmatch(r"samples/[^/\0]{1,200}", entry["key"]):
                steps.setdefault(entry["key"], set()).add(entry["step"])
        samples = {}
        for key, logged in steps.items():
            files = {path.stem.removeprefix("epoch-"): path for path in (self.folder / key).glob("epoch-*.png")}
            files = {int(epoch): path for epoch, path in files.items() if re.fullmatch(r"[0-9]{1,9}", epoch)}
            epochs, logged = sorted(files), sorted(logged)
            if len(epochs) == len(logged) and all(
                step * epochs[-1] == epoch * logged[-1] for epoch, step in zip(epochs, logged, strict=True)
            ):
                samples |= {(key, step): files[epoch] for epoch, step in zip(epochs, logged, strict=True)}
        return samples

    def _refusal(self, path: str) -> str:
        """Return why a file or folder must not be sent, "" if it may: a foreign event log could name any path.

        Allowed are files in the run's folder, and the comparison's files beside a comparison's record.
        """
        home = self.folder.resolve()
        try:
            target = (self.folder / path).resolve()
            inner = [target, *(target.rglob("*") if target.is_relative_to(home) else [])]
            inside = all(file.resolve().is_relative_to(home) for file in inner)
            is_comparison_file = (
                target.parent == home.parent and target.name in _names_beside(home.name) and not target.is_dir()
            )
            if inside or is_comparison_file:
                return "" if target.exists() else "it is not there any more"
        except (OSError, ValueError, RuntimeError):  # an impossible file name, or a link to itself
            return "it cannot be read"
        return "it lies outside the run's folder"


def _names_beside(record: str) -> set[str]:
    """Return the names of the files beside a comparison's record; none for other folders, or hidden ones."""
    stem = record.removesuffix("_record")
    if stem == record or not stem or stem.startswith("."):
        return set()
    return {f"{stem}{ending}" for ending in (".html", ".csv", ".json", "_slices.png")}


def _milliseconds(entry: Entry) -> int | None:
    return round(float(entry["time"]) * 1000) if "time" in entry else None


def _last_write_time(folder: Path) -> float:
    """Return the time of a killed run's last write, in seconds since 1970."""
    return max(file.stat().st_mtime for file in (folder / NAME, folder / "metrics.jsonl") if file.exists())
