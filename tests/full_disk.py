"""A disk that becomes full while a file is being written."""

import errno
import io
import os
import resource
from pathlib import Path

LIMIT = resource.RLIMIT_FSIZE


class _Filling(io.FileIO):
    """A file whose disk has room for so many bytes more; beyond, writes fail in part, then whole."""

    def __init__(self, path: Path, room: int):
        super().__init__(path, "w")
        self.room = room

    def write(self, content) -> int:
        part = memoryview(content)[: self.room]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(part)
        return super().write(part)


def fill(monkeypatch, room: int, suffix: str = "") -> None:
    """Have every file that is opened for writing fail after `room` bytes; of these names alone, if so asked."""
    real = Path.open

    def open_filling(path, mode="r", *arguments, **options):
        if mode == "wb" and path.name.endswith(suffix):
            return io.BufferedWriter(_Filling(path, room), buffer_size=512)
        return real(path, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_filling)


def limit_files(size: int) -> None:
    """Let the system itself refuse larger files, in this process and for good."""
    resource.setrlimit(LIMIT, (size, size))
