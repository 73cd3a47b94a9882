"""tracking.jsonl: everything that goes to MLflow except the metrics, written to disk at once so it can be sent later.

One JSON object per line; `KEYS` lists what each kind holds. Images are kept in the folder `unsent` until MLflow has
them.
"""

import json
import os
import secrets
import time
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.tracking.mlflow_run import MlflowRun, RunInfo
from pipeline.tracking.mlflow_worker import Job, read_run_id
from pipeline.utils.files import append_whole, atomic_text, atomic_write, is_file, remove_stale

NAME, PICTURES = "tracking.jsonl", "unsent"
KEYS = {  # by kind of an entry
    "about": ("experiment", "name", "params", "tags"),  # of the run
    "tags": ("tags",),
    "dataset": ("name", "context", "source", "digest", "profile"),
    "artifact": ("path", "folder"),
    "image": ("key", "step", "file"),
    "table": ("path", "columns", "rows"),
    "children": ("folders",),  # of runs to be shown below this one
    "end": ("status", "time"),
}
Entry = dict[str, Any]  # a line: its kind, the keys of that kind, and for some kinds the time in seconds since 1970


def read_event_log(folder: Path) -> list[Entry]:
    """Return the entries of a folder's event log, or none where there is no log. Lines torn by a crash are skipped.

    Of repeated entries the last one counts.
    """
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    last_first = dict.fromkeys(reversed(lines))
    return [entry for entry in map(_entry, reversed(last_first)) if entry]


def _entry(line: bytes) -> Entry | None:
    """Return the entry of a line; None if the line is damaged or lacks what its kind needs."""
    try:
        entry = json.loads(line)
        return entry if entry.keys() >= set(KEYS[entry["kind"]]) else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def run_info(entry: Entry) -> RunInfo:
    """Return the content of an entry "about"."""
    return RunInfo(**{key: entry[key] for key in KEYS["about"]})


def _replay(run: MlflowRun, entry: Entry, folder: Path) -> None:
    match entry["kind"]:
        case "image":
            path = picture(folder, entry)
            run.log_image_file(path, entry["key"], entry["step"])
            path.unlink(missing_ok=True)
        case "artifact":
            run.client.log_artifact(run.id, str(folder / entry["path"]), entry["folder"])
        case "dataset":
            run.log_dataset(**{key: entry[key] for key in KEYS["dataset"]})
        case "table":
            run.log_table(**{key: entry[key] for key in KEYS["table"]})
        case "tags":
            run.set_tags(entry["tags"])
        case "children":
            run.adopt(filter(None, (read_run_id(folder / path) for path in entry["folders"])))


def replay_job(entry: Entry, folder: Path) -> Job[None]:
    """Return the job that sends an entry of the folder's event log to MLflow, without duplicates."""
    title = f"{entry['kind']} {entry.get('key') or entry.get('path') or entry.get('name') or ''}".rstrip()
    path = uploaded_file(entry, folder)
    size_bytes = path.stat().st_size if path is not None and is_file(path) else 0
    return Job(title, partial(_replay, entry=entry, folder=folder), size_bytes)


def uploaded_file(entry: Entry, folder: Path) -> Path | None:
    """Return the file that an entry uploads, if any."""
    if entry["kind"] == "image":
        return picture(folder, entry)
    return folder / entry["path"] if entry["kind"] == "artifact" else None


def picture(folder: Path, entry: Entry) -> Path:
    """Return the path of an unsent image: always in this folder, even if a foreign log names a file elsewhere."""
    return folder / PICTURES / f"{Path(entry['file']).stem}.png"


class EventLog:
    """The open event log of a run.

    With the global `step` of the checkpoint from which the run resumes, later images are dropped, since they will be
    logged again; None starts an empty log. `pending` holds entries of earlier starts that MLflow may lack and that the
    present start will not log again.
    """

    def __init__(self, folder: Path, info: RunInfo, step: int | None):
        self.folder = folder
        if step is None:
            clear(folder)
        earlier_entries = []
        for entry in read_event_log(folder):
            if entry["kind"] == "image" and step is not None and entry["step"] > step:
                picture(folder, entry).unlink(missing_ok=True)
            elif entry["kind"] != "end":
                earlier_entries.append(entry)
        self.pending = [
            entry
            for entry in earlier_entries
            if entry["kind"] == "tags" or (entry["kind"] == "image" and picture(folder, entry).is_file())
        ]
        atomic_text(folder / NAME, "".join(_line(entry) for entry in earlier_entries))
        self._stream = (folder / NAME).open("ab", buffering=0)
        self.add({"kind": "about", "time": time.time(), **asdict(info)})

    def add(self, entry: Entry) -> Entry:
        """Write an entry at once, completely or not at all, and return it.

        Raises:
            UserError: The disk is full or gone.
        """
        append_whole(self._stream, self.folder / NAME, _line(entry).encode())
        return entry

    def add_image(self, key: str, image: np.ndarray, step: int) -> Entry:
        """Store an 8-bit (H, W) or (H, W, 3) image on disk until MLflow has it; raises like `add`."""
        from PIL import Image

        stream = BytesIO()
        Image.fromarray(image).save(stream, format="PNG", compress_level=1)
        entry = {"kind": "image", "key": key, "step": step, "file": f"{step:09d}-{secrets.token_hex(4)}.png"}
        atomic_write(picture(self.folder, entry), lambda out: out.write(stream.getvalue()))
        return self.add(entry)

    def close(self, status: str) -> None:
        """Write the run's final status, and close the file."""
        if not self._stream.closed:
            self.add({"kind": "end", "status": status, "time": time.time()})
            os.fsync(self._stream.fileno())
            self._stream.close()


def clear(folder: Path) -> None:
    """Remove the event log and the unsent images of an earlier run in the folder."""
    (folder / NAME).unlink(missing_ok=True)
    for path in (folder / PICTURES).glob("*.png"):
        path.unlink(missing_ok=True)
    remove_sent(folder)


def remove_sent(folder: Path) -> None:
    """Remove the folder of unsent images if it is empty."""
    remove_stale(folder / PICTURES, below=False)
    with suppress(OSError):  # not there, or not empty
        (folder / PICTURES).rmdir()


def _line(entry: Entry) -> str:
    return json.dumps(entry) + "\n"
