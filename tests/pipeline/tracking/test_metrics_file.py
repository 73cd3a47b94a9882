"""A log on a disk that fills: a line is there whole, or it is said that it is not."""

import errno
import io
import os

import pytest

from pipeline.tracking.metrics_file import MetricsFile, read_metrics
from pipeline.utils.errors import DiskFull


class Scarce(io.FileIO):
    """A file whose disk has room for so many bytes more, and takes them before it fails."""

    room = 20

    def write(self, content):
        part = bytes(content)[: self.room]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(part)
        return super().write(part)


def test_numbers_that_do_not_fit_are_said_and_spoil_none_of_those_after_them(tmp_path):
    path = tmp_path / "metrics.jsonl"
    metrics = MetricsFile(path, None)
    metrics.append({"loss": 1.0}, 1)
    metrics._stream.close()
    metrics._stream = Scarce(path, "a")
    with pytest.raises(DiskFull, match=r"metrics\.jsonl: disk full, "):
        metrics.append({"loss": 2.0}, 2)
    metrics._stream.room = 1000
    for step in (3, 4):
        metrics.append({"loss": float(step)}, step)
    metrics.close()
    assert [record["step"] for record in read_metrics(path)[0]] == [1, 3, 4]
