"""tracking.jsonl: everything that goes to MLflow except the metrics, written to disk at once so it can be sent later.

One JSON object per line. Its `kind` is "about" (experiment, name, params and tags of the run), "tags", "dataset",
"artifact", "image" or "end"; `NEEDS` lists its other keys. Images are kept in the folder `unsent` until MLflow has
them.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from pipeline.tracking.mlflow_run import MlflowRun
from pipeline.utils.files import append_whole, atomic_text, atomic_write, encoded, printable

NAME, PICTURES = "tracking.jsonl", "unsent"
LATEST_S = 1e11  # the year 5138, in seconds since 1970
Entry = dict[str, object]


def read_event_log(folder: Path) -> list[Entry]:
    """Return the entries of a folder's event log, or none where there is no log. Damaged and foreign lines are skipped.

    Repeated entries are skipped. Those of kind "about" and "tags" are skipped only if they repeat the previous entry of
    their kind, since a value that was changed and changed back must be sent last. Every "end" is returned.
    """
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries, known_entries, last_of_kind = [], set(), {}
    for entry in filter(None, map(_entry, lines)):
        kind, content = entry["kind"], json.dumps({**entry, "time": None}, sort_keys=True)
        if kind == "end" or (
            last_of_kind.get(kind) != content if kind in ("about", "tags") else content not in known_entries
        ):
            entries.append(entry)
        known_entries.add(content)
        last_of_kind[kind] = content
    return entries


def _entry(line: bytes) -> Entry | None:
    """Return the entry of a line; None if the line is damaged or lacks what its kind needs (`NEEDS`)."""
    try:
        entry = json.loads(line)
        _line(entry).encode(errors="surrogateescape")  # refuses half a surrogate pair, which occurs in no file name
    except (ValueError, RecursionError):
        return None
    needs = NEEDS.get(str(entry.get("kind"))) if isinstance(entry, dict) else None
    if needs is None or not all(fits(entry.get(name)) for name, fits in needs.items()):
        return None
    return entry if _is_time(entry.get("time", 0)) else None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _is_picture(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"(?:.*/)?[0-9A-Za-z-]{1,99}\.png", value) is not None


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < LATEST_S


NEEDS: dict[str, dict[str, Callable[[object], bool]]] = {  # kind -> required keys and the check of each value
    "about": {"experiment": _is_text, "name": _is_text, "params": _is_texts, "tags": _is_texts},
    "tags": {"tags": _is_texts},
    "dataset": {
        **dict.fromkeys(("name", "context", "source", "digest"), _is_text),
        "profile": lambda value: isinstance(value, dict),
    },
    "artifact": {"path": _is_text, "folder": lambda value: value is None or isinstance(value, str)},
    "image": {"key": _is_text, "step": lambda value: type(value) is int, "file": _is_picture},
    "end": {"status": lambda value: value in ("FINISHED", "FAILED", "KILLED"), "time": _is_time},
}


def replay(run: MlflowRun, entry: Entry, folder: Path) -> None:
    """Send an entry of the folder's event log to MLflow, without duplicates. May raise."""
    match entry:
        case {"kind": "image", "key": key, "step": step, "file": file}:
            send_image(run, key, step, picture(folder, file))
            picture(folder, file).unlink(missing_ok=True)
        case {"kind": "artifact", "path": path, "folder": artifact_path}:
            run.client.log_artifact(run.id, str(folder / path), artifact_path)
        case {"kind": "dataset"}:
            run.log_dataset(**{name: entry[name] for name in NEEDS["dataset"]})
        case {"kind": "tags", "tags": tags}:
            run.set_tags(tags)


def title(entry: Entry) -> str:
    """Return a name for the content of an entry, for messages."""
    return {
        "image": f"the image {entry.get('key')}",
        "artifact": str(entry.get("path")),
        "dataset": f"the data {entry.get('name')}",
    }.get(str(entry["kind"]), str(entry["kind"]))


def size_bytes(entry: Entry, folder: Path) -> int:
    """Return the size of an entry's upload."""
    if entry["kind"] not in ("artifact", "image"):
        return 0
    path = folder / str(entry["path"]) if entry["kind"] == "artifact" else picture(folder, entry["file"])
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def picture(folder: Path, name: object) -> Path:
    """Return the path of an unsent image: always in this folder, even if a foreign log names a file elsewhere."""
    return folder / PICTURES / Path(str(name)).name


def send_image(run: MlflowRun, key: str, step: int, path: Path) -> None:
    """Log an image file under a key and step, unless MLflow has it; may raise."""
    from PIL import Image

    if not run.has_image(key, step):
        with Image.open(path) as stored:
            run.log_image(np.asarray(stored), key, step)


class EventLog:
    """The open event log of a run.

    Args:
        folder: Folder of the run.
        run_info: Content of the entry "about".
        step: Global step of the checkpoint from which the run resumes: later images are dropped, since they will be
            logged again. None starts an empty log.
    """

    def __init__(self, folder: Path, run_info: Mapping[str, object], step: int | None):
        if step is None:
            clear(folder)
        self.folder = folder
        earlier_entries = [entry for entry in read_event_log(folder) if entry["kind"] != "end"]
        later_images = [entry for entry in earlier_entries if entry["kind"] == "image" and entry["step"] > step]
        for entry in later_images:
            picture(folder, entry["file"]).unlink(missing_ok=True)
        self.earlier_entries = [entry for entry in earlier_entries if entry not in later_images]
        atomic_text(folder / NAME, "".join(_line(entry) for entry in self.earlier_entries))
        self._stream = (folder / NAME).open("ab", buffering=0)
        self.add({"kind": "about", "time": time.time(), **run_info})

    def pending(self) -> list[Entry]:
        """Return entries of earlier starts that MLflow may lack and that the present start will not log again."""
        return [
            entry
            for entry in self.earlier_entries
            if entry["kind"] == "tags" or (entry["kind"] == "image" and picture(self.folder, entry["file"]).is_file())
        ]

    def add(self, entry: Entry) -> Entry:
        """Write an entry at once, completely or not at all, and return it.

        Raises:
            UserError: The disk is full or gone.
        """
        entry = entry if entry["kind"] == "artifact" else _printable(entry)  # paths keep their undecoded bytes
        append_whole(self._stream, self.folder / NAME, encoded(_line(entry)))
        return entry

    def add_image(self, key: str, image: np.ndarray, step: int) -> Entry:
        """Store an 8-bit (H, W) or (H, W, 3) image on disk until MLflow has it; raises like `add`."""
        from PIL import Image

        stream = BytesIO()
        Image.fromarray(image).save(stream, format="PNG", compress_level=1)
        file = f"{step:09d}-{secrets.token_hex(4)}.png"
        atomic_write(picture(self.folder, file), lambda out: out.write(stream.getvalue()))
        return self.add({"kind": "image", "key": key, "step": step, "file": file})

    def close(self, status: str) -> None:
        """Write the run's final status, and close the file."""
        if not self._stream.closed:
            self.add({"kind": "end", "status": status, "time": time.time()})
            os.fsync(self._stream.fileno())
            self._stream.close()


def clear(folder: Path) -> None:
    """Remove the event log and the unsent images of an earlier run in the folder."""
    (folder / NAME).unlink(missing_ok=True)
    _remove((folder / PICTURES).glob("*.png"))
    remove_sent(folder)


def remove_sent(folder: Path) -> None:
    """Remove the folder of unsent images if it is empty."""
    _remove((folder / PICTURES).glob(".tmp-*"))  # left by a kill
    with suppress(OSError):  # not there, or not empty
        (folder / PICTURES).rmdir()


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _printable(value: object) -> object:
    """Return plain data with texts that MLflow's stores accept."""
    if isinstance(value, dict):
        return {name: _printable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _line(entry: Entry) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
