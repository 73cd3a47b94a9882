"""tracking.jsonl: what MLflow is told of a run besides its numbers, on file at once, so that it can be told later.

One JSON object a line. Its `kind` is "about" (experiment, name, params and tags of the run), "tags", "dataset",
"artifact", "image" or "end"; what else it holds, `tell` says. Pictures wait in the folder
`unsent` until MLflow has them.
"""

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np

from pipeline.errors import UserError
from pipeline.files import atomic_text, atomic_write
from pipeline.tracking.mlflow_run import MlflowRun

NAME, PICTURES = "tracking.jsonl", "unsent"
Entry = dict[str, object]


def read_journal(folder: Path) -> list[Entry]:
    """Return the entries of a folder's journal, each once; none where there is no journal. Torn lines are left out."""
    try:
        lines = (folder / NAME).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    entries, seen = [], set()
    for line in lines:
        entry = _entry(line)
        known = json.dumps({name: value for name, value in (entry or {}).items() if name != "time"}, sort_keys=True)
        if entry is not None and (entry["kind"] == "end" or known not in seen):
            seen.add(known)
            entries.append(entry)
    return entries


def _entry(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "kind" in entry else None


def tell(run: MlflowRun, entry: Entry, folder: Path) -> None:
    """Tell MLflow what an entry of the folder's journal says; nothing is there twice afterwards. May raise."""
    match entry:
        case {"kind": "image", "key": key, "step": step, "file": file}:
            _send_image(run, key, step, _picture(folder, file))
        case {"kind": "artifact", "path": path, "folder": place}:
            run.client.log_artifact(run.id, str(folder / path), place)
        case {"kind": "dataset"}:
            run.log_dataset(**{name: value for name, value in entry.items() if name != "kind"})
        case {"kind": "tags", "tags": tags}:
            run.set_tags(tags)


def title(entry: Entry) -> str:
    """Return what an entry logs, for messages."""
    return {
        "image": f"the image {entry.get('key')}",
        "artifact": str(entry.get("path")),
        "dataset": f"the data {entry.get('name')}",
    }.get(str(entry["kind"]), str(entry["kind"]))


def size_bytes(entry: Entry, folder: Path) -> int:
    """Return how much an entry uploads."""
    if entry["kind"] not in ("artifact", "image"):
        return 0
    path = folder / str(entry["path"]) if entry["kind"] == "artifact" else _picture(folder, entry["file"])
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _picture(folder: Path, name: object) -> Path:
    """Return where a picture waits; a journal from elsewhere must not name, and lose us, a file of another folder."""
    return folder / PICTURES / Path(str(name)).name


def _send_image(run: MlflowRun, key: str, step: int, path: Path) -> None:
    from PIL import Image

    if not run.has_image(key, step):
        if not path.is_file():
            raise FileNotFoundError("its file is gone, for another store got it earlier")
        with Image.open(path) as picture:
            run.log_image(np.asarray(picture), key, step)
    path.unlink(missing_ok=True)


class Journal:
    """The open journal of a run.

    Args:
        folder: The run's folder.
        about: What the entry "about" holds.
        step: The global step of the checkpoint from which the run resumes: pictures beyond it are dropped, since they
            will come again. None starts an empty journal.
    """

    def __init__(self, folder: Path, about: Mapping[str, object], step: int | None):
        if step is None:
            forget(folder)
        self.folder = folder
        earlier = [entry for entry in read_journal(folder) if entry["kind"] != "end"]
        beyond = [entry for entry in earlier if entry["kind"] == "image" and entry["step"] > step]
        for entry in beyond:
            _picture(folder, entry["file"]).unlink(missing_ok=True)
        self.earlier = [entry for entry in earlier if entry not in beyond]
        atomic_text(folder / NAME, "".join(_line(entry) for entry in self.earlier))
        self._stream = (folder / NAME).open("ab", buffering=0)
        self.add({"kind": "about", "time": time.time(), **about})

    def untold(self) -> list[Entry]:
        """Return what an earlier sitting may not have told MLflow, and this one will not say again."""
        return [
            entry
            for entry in self.earlier
            if entry["kind"] == "tags" or (entry["kind"] == "image" and _picture(self.folder, entry["file"]).is_file())
        ]

    def add(self, entry: Entry) -> Entry:
        """Write an entry at once, and return it.

        Raises:
            UserError: the disk is full or gone.
        """
        try:
            self._stream.write(_line(entry).encode())
        except OSError as error:
            reason = f"cannot be written ({error.strerror}); free some space and run again"
            raise UserError(f"{self.folder / NAME}: {reason}") from error
        return entry

    def add_image(self, key: str, image: np.ndarray, step: int) -> Entry:
        """Keep an 8-bit (H, W) or (H, W, 3) image on disk until MLflow has it; raises like `add`."""
        from PIL import Image

        stream = BytesIO()
        Image.fromarray(image).save(stream, format="PNG", compress_level=1)
        file = f"{step:09d}-{secrets.token_hex(4)}.png"
        atomic_write(_picture(self.folder, file), lambda out: out.write(stream.getvalue()))
        return self.add({"kind": "image", "key": key, "step": step, "file": file})

    def close(self, status: str) -> None:
        """Note how the run ended, and close the file."""
        if not self._stream.closed:
            self.add({"kind": "end", "status": status, "time": time.time()})
            os.fsync(self._stream.fileno())
            self._stream.close()


def forget(folder: Path) -> None:
    """Remove the journal and the pictures of an earlier run in the folder."""
    (folder / NAME).unlink(missing_ok=True)
    _remove((folder / PICTURES).glob("*.png"))
    tidy(folder)


def tidy(folder: Path) -> None:
    """Remove the folder of unsent pictures if nothing waits there."""
    _remove((folder / PICTURES).glob(".tmp-*"))  # left by a kill
    with suppress(OSError):  # not there, or not empty
        (folder / PICTURES).rmdir()


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _line(entry: Entry) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
