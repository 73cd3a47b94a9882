"""metrics.jsonl: every number a run logs, one line per call, on file at once."""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.errors import UserError
from pipeline.files import atomic_text


def read_metrics(path: Path, offset: int = 0) -> tuple[list[dict[str, float]], int]:
    """Read the whole lines of a metrics.jsonl from a byte offset on.

    Returns:
        The records ({"step": …, "time": seconds since 1970, name: value, …}), and the offset behind the last one.
        A line that is no record (torn by a crash) is left out.
    """
    with path.open("rb") as stream:
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
    """The open metrics.jsonl of a run.

    Args:
        path: The file; its folder is made.
        step: The global step of the checkpoint from which the run resumes: lines beyond it are dropped, since they
            will come again. None starts an empty file.
    """

    def __init__(self, path: Path, step: int | None):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        before = read_metrics(path)[0] if path.exists() and step is not None else []
        kept = [record for record in before if record["step"] <= step]
        self._at_start = {(record["step"], name) for record in kept if record["step"] == step for name in record}
        atomic_text(path, "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in kept))
        self._stream = path.open("ab", buffering=0)

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Write one line at once; values that the step of the checkpoint has already are left out.

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
            reason = f"cannot be written ({error.strerror}); free some space and run again"
            raise UserError(f"{self.path}: {reason}") from error

    def close(self) -> None:
        """Put the file on the disk and close it."""
        if not self._stream.closed:
            os.fsync(self._stream.fileno())
            self._stream.close()
