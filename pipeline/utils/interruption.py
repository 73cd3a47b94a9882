"""SIGINT, SIGTERM and SIGHUP: received at any moment, acted on between two steps."""

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Self

from pipeline.utils.errors import Stopped

NOTICE = "finishing what is under way, then saving (Ctrl-C again stops at once)"
AFTER_TRAINING = "after training; all of it is saved, and the same command does the rest"


@contextmanager
def signal_handlers(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Install a signal handler within the block; outside the main thread, where this is impossible, do nothing."""
    earlier_handlers = {}
    try:
        with suppress(ValueError):  # not the main thread
            for number in numbers:
                earlier_handlers[number] = signal.signal(number, handler)
        yield
    finally:
        for number, earlier_handler in earlier_handlers.items():
            signal.signal(number, earlier_handler)


class Terminated(KeyboardInterrupt):
    """SIGTERM was received; like Ctrl-C, it is not caught by `except Exception`."""

    exit_code = 128 + signal.SIGTERM


@contextmanager
def sigterm_as_exception() -> Iterator[None]:
    """Have SIGTERM raise `Terminated` within the block instead of ending the process silently."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Terminated(f"{signal.Signals(number).name}; the same command does what is left")

    with signal_handlers((signal.SIGTERM,) if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL else (), stop):
        yield


class Interruption:
    """Context manager that records stop signals. Outside the main thread they cannot be caught, and none is recorded.

    A second Ctrl-C raises `KeyboardInterrupt`.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None  # of the first signal
        self._remark = ""
        numbers = [signal.SIGINT, signal.SIGTERM]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none
        if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # as it is under nohup
            numbers.append(hangup)
        self._handlers = signal_handlers(numbers, self._on_signal)

    @contextmanager
    def stop_immediately(self, remark: str = AFTER_TRAINING) -> Iterator[None]:
        """Within the block, let a signal raise `Stopped` immediately: for work that a rerun simply repeats.

        A signal that was recorded before the block raises on entry. The remark follows its name in the message.
        """
        self._remark = remark
        try:
            if self.signal_number:
                raise self._stop_error(self.signal_number)
            yield
        finally:
            self._remark = ""

    def _stop_error(self, number: int) -> Stopped:
        return Stopped(number, f"{signal.Signals(number).name} {self._remark}")

    def __enter__(self) -> Self:
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._handlers.__exit__(None, None, None)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        is_first = self.signal_number is None
        self.signal_number = self.signal_number or number
        if not is_first and number == signal.SIGINT:
            raise KeyboardInterrupt("SIGINT again; what was under way is not saved; the same command does it again")
        if self._remark:
            raise self._stop_error(number)
        if is_first:
            with suppress(OSError):  # past sys.stderr, whose buffer the interrupted code may be holding
                os.write(2, f"\n{signal.Signals(number).name}: {NOTICE}\n".encode())
