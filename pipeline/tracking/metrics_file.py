"""metrics.jsonl: every number that a run logs, one line per call, written to disk at once.

JSON has no NaN and no infinity: they are stored as null, "inf" and "-inf".
"""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path

from pipeline.utils.files import append_whole, atomic_text, json_number

SUPERSEDING = "test/"  # prefix of metrics that a new evaluation of a finished run replaces


def read_metrics(path: Path, offset: int = 0) -> tuple[list[dict[str, float]], int]:
    """Read the complete lines of a metrics.jsonl from a byte offset on.

    Returns:
        The records ({"step": …, "time": seconds since 1970, name: value, …}), and the offset behind the last one.
        Lines damaged by a crash are skipped. Where a step has a name twice, the last value counts.
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
        if not isinstance(record, dict) or not {"step", "time"} <= record.keys():
            return None
        return {name: _number(value) for name, value in record.items()}
    except ValueError:
        return None


def _number(stored: float | str | None) -> float:
    return math.nan if stored is None else float(stored) if isinstance(stored, str) else stored


def _line(record: Mapping[str, float]) -> str:
    values = {name: json_number(value) for name, value in record.items()}
    return json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"


class MetricsFile:
    """The open metrics.jsonl of a run, whose folder is made.

    With the global `step` of the checkpoint from which the run resumes, later lines are dropped, since they will be
    written again; None starts an empty file.
    """

    def __init__(self, path: Path, step: int | None):
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        records = read_metrics(path)[0] if path.exists() else []
        records = [record for record in records if step is not None and record["step"] <= step]
        self._start, at_start = step, [record for record in records if record["step"] == step]
        self._at_start = {name: json_number(value) for record in at_start for name, value in record.items()}
        atomic_text(path, "".join(_line(record) for record in records))
        self._stream = path.open("ab", buffering=0)

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Write one complete line, or none; values that the file already has at the checkpoint's step are skipped.

        A value under "test/" that differs from the one at that step is written again: readers take the last one.

        Raises:
            UserError: The disk is full or gone.
        """
        logged = self._at_start if step == self._start else {}
        new_values = {
            name: float(value)
            for name, value in values.items()
            if name not in logged or (name.startswith(SUPERSEDING) and logged[name] != json_number(float(value)))
        }
        if new_values:
            line = _line({"step": step, "time": round(time.time(), 3), **new_values})
            append_whole(self._stream, self.path, line.encode())

    def close(self) -> None:
        """Flush the file to disk and close it."""
        if not self._stream.closed:
            os.fsync(self._stream.fileno())
            self._stream.close()
