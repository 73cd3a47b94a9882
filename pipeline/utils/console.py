"""Terminal output of every command: messages, tables, progress bars and exit codes."""

import errno
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

from tqdm import tqdm as ProgressBar

from pipeline.utils.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, Stopped, UserError
from pipeline.utils.interruption import sigterm_as_exception

Item = TypeVar("Item")
LINES = 10  # of one progress bar without a terminal, at most
APART_S = 60.0  # between two such lines, at least
LINE_FORMAT = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} gone, {remaining} left{postfix}"
logger = logging.getLogger(__name__)
_printed_warnings: set[str] | None = None  # the warnings that the present command has printed


def cli_main(command: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Decorate a command's `main(argv=None) -> int`: expected errors become one line and an exit code.

    A terminal that cannot be written to never changes the exit code.
    """

    def main(argv: list[str] | None = None) -> int:
        global _printed_warnings
        outer, _printed_warnings = _printed_warnings, set()
        try:
            log_to_console()
            with sigterm_as_exception():
                return command(argv)
        except UserError as error:
            warn(f"error: {_lines(str(error))}")
            return EXIT_BAD_INPUT
        except (Stopped, KeyboardInterrupt) as stop:
            warn(f"stopped: {_lines(str(stop)) or 'SIGINT; the same command does what is left'}")
            return getattr(stop, "exit_code", EXIT_INTERRUPTED)
        except SystemExit as leaving:  # argparse ends `--help` and usage errors this way
            return leaving.code if isinstance(leaving.code, int) else EXIT_BAD_INPUT
        finally:
            _printed_warnings = outer
            for stream in (sys.stdout, sys.stderr):  # written by argparse and others: flushed here, not at exit
                _attempt(stream, stream.flush)

    main.__doc__ = command.__doc__
    return main


def echo(text: str = "") -> None:
    """Print a line for the user on standard output."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print a line on standard error. Within a command, a repeated warning is printed once."""
    if _printed_warnings is not None and text.strip().startswith("warning: "):
        if text.strip() in _printed_warnings:
            return
        _printed_warnings.add(text.strip())
    _print(text, sys.stderr)


class ConsoleHandler(logging.Handler):
    """Prints what the project's modules log: information on standard output, the rest on standard error.

    Warnings begin with "warning: ". On a terminal, a text stands below any progress bar.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record as one text."""
        below_bars = "\n" if _is_terminal(sys.stderr) and getattr(ProgressBar, "_instances", None) else ""
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        if record.levelno < logging.WARNING:
            echo(f"{below_bars}{record.getMessage()}")
        else:
            warn(f"{below_bars}{prefix}{_lines(record.getMessage())}")


def logs_to_console() -> bool:
    """Whether this process prints what the project's modules log."""
    return any(isinstance(handler, ConsoleHandler) for handler in logging.getLogger("pipeline").handlers)


def log_to_console() -> None:
    """Let this process print what the project's modules log; commands call it, users of the Python functions may."""
    for name in ("pipeline", "transforms", "networks"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
            logger.addHandler(ConsoleHandler())
            logger.propagate = False  # libraries that set up the root logger would have it printed twice


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


def _print(text: str, stream: TextIO | None) -> None:
    """Print a line; letters that the terminal's encoding lacks are escaped."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    shown = text.encode(encoding, errors="backslashreplace").decode(encoding)
    _attempt(stream, lambda: print(shown, file=stream, flush=True))


def _attempt(stream: TextIO | None, write: Callable[[], object]) -> None:
    """Write to standard output or error; where that fails, redirect the stream to nowhere and go on.

    The reader (`| head`) may have left, or the disk behind a redirection may be full.
    """
    if stream is None or getattr(stream, "closed", False):
        return
    try:
        write()
    except OSError as error:
        # The old stream's buffer would fail again at the interpreter's exit; its replacement stays open until then.
        name = next((name for name in ("stdout", "stderr") if getattr(sys, name) is stream), None)
        if name is None:
            return
        setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115
        if name == "stdout" and error.errno != errno.EPIPE:
            warn(f"warning: standard output cannot be written ({error.strerror or error}); going on without it")


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Log the block's Python warnings, each once and on one line; for a single thread."""
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            texts = [str(warning.message) for warning in records if issubclass(warning.category, UserWarning)]
            for text in dict.fromkeys(texts):
                logger.warning(one_line(" ".join(text.split())))


def one_line(text: str) -> str:
    """Return a text with line ends, tabs and terminal codes (which file names may hold) escaped, as `\\n`."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _lines(text: str) -> str:
    """Escape terminal codes and line ends, but keep the line ends of indented lists ("\\n  ")."""
    return "\n  ".join(one_line(line) for line in text.split("\n  "))


def shortlist(names: Sequence[str], limit: int = 5) -> str:
    """Return the first few names, and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return rows under a header as aligned text; columns of numbers are right-aligned."""
    cells = [[str(cell) for cell in row] for row in rows]
    columns = []
    for heading, *texts in zip(header, *cells, strict=True):
        width = max(map(len, [heading, *texts]))
        is_numeric = bool(texts) and all(text[:1] in "-+0123456789" for text in texts)
        padded = [text.rjust(width) if is_numeric else text.ljust(width) for text in (heading, *texts)]
        columns.append([padded[0], "─" * width, *padded[1:]])
    return "\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True))


class _Terminal:
    """Standard error for a progress bar; failed writes are ignored."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> object:  # encoding, isatty, fileno
        return getattr(self.stream, name)

    def write(self, text: str) -> None:
        _attempt(self.stream, lambda: self.stream.write(text))

    def flush(self) -> None:
        _attempt(self.stream, self.stream.flush)


class ProgressLines(ProgressBar):
    """A progress bar without a terminal: a line per tenth of the work, at least a minute apart, and none at its end."""

    def __init__(self, items: Iterable[Any] | None = None, **options: Any):
        total = options.get("total") or getattr(items, "__len__", lambda: 0)()
        intervals = {"mininterval": APART_S, "maxinterval": math.inf, "miniters": max(1, math.ceil(total / LINES))}
        super().__init__(items, **options | intervals | {"bar_format": LINE_FORMAT})

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless no item is done yet."""
        if self.n > self.initial:
            self.fp.write(f"{self}\n")

    def close(self) -> None:
        """Close without a last line: the command reports the end itself."""
        self.last_print_t = -math.inf  # as if nothing had been shown, so that tqdm has nothing to complete
        super().close()


def progress(
    items: Iterable[Item], *, total: int | None = None, title: str = "", unit: str = "it", quiet: bool = False
) -> Iterable[Item]:
    """Iterate with a progress bar and the time left."""
    return bar(items, total=total, desc=title, unit=unit, disable=quiet)


def bar(items: Iterable[Any] | None = None, *, disable: bool = False, **options: Any) -> ProgressBar:
    """Return a progress bar on standard error that survives failed writes; `options` are tqdm's.

    Where standard error is no terminal, the bar prints a few lines instead (`ProgressLines`).
    """
    if sys.stderr is None:
        return ProgressBar(items, disable=True, **options)
    options |= {"file": _Terminal(sys.stderr), "disable": disable}
    if _is_terminal(sys.stderr):
        return ProgressBar(items, dynamic_ncols=True, mininterval=0.5, **options)
    return ProgressLines(items, **options)
