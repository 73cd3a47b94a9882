"""SIGINT and SIGTERM: asked for at any moment, answered between two steps."""

import os
import signal
from contextlib import suppress
from types import FrameType


class Interruption:
    """While entered, notes the first stop signal in `signal_number`; a second Ctrl-C stops at once.

    Outside the main thread signals cannot be caught; there it never notes one.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._note)
            except ValueError:  # not the main thread
                break
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number
        name = signal.Signals(number).name
        note = f"\n{name}: finishing what is under way, then saving (Ctrl-C again stops at once)\n"
        with suppress(OSError):  # past sys.stderr, whose buffer the interrupted code may be holding
            os.write(2, note.encode())
