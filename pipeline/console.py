"""What every command does with its terminal: messages, tables, progress bars and exit codes."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pipeline.errors import EXIT_BAD_INPUT, EXIT_DONE, Stopped, UserError


def guarded(door: Callable[[list[str] | None], int]) -> Callable[[list[str] | None], int]:
    """Decorate a command's `main(argv=None) -> int` so that expected endings become one line and an exit code."""

    def main(argv: list[str] | None = None) -> int:
        try:
            return door(argv)
        except UserError as error:
            warn(f"error: {error}")
            return EXIT_BAD_INPUT
        except Stopped as stop:
            warn(f"stopped: {stop}")
            return stop.exit_code
        except KeyboardInterrupt:
            warn("stopped: interrupted before there was anything to save")
            return 130
        except SystemExit as leaving:  # argparse ends `--help` and usage errors this way
            return leaving.code if isinstance(leaving.code, int) else EXIT_BAD_INPUT
        except BrokenPipeError:  # the reader of our output (`| head`) has left
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (kept open: the interpreter flushes it at exit)
            return EXIT_DONE

    main.__doc__ = door.__doc__
    return main


def say(text: str = "") -> None:
    """Print a line for the user on standard output."""
    _print(text, sys.stdout)


def warn(text: str) -> None:
    """Print a line for the user on standard error."""
    _print(text, sys.stderr)


def _print(text: str, stream: TextIO) -> None:
    """Print a line, with escapes for what the terminal's encoding or a file's odd name cannot show."""
    try:
        print(text, file=stream, flush=True)
    except UnicodeEncodeError:
        encoding = stream.encoding or "ascii"
        print(text.encode(encoding, errors="backslashreplace").decode(encoding), file=stream, flush=True)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print what the block warns of as a line "warning: …" each, without the place in the code; in one thread alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(one.message) for one in caught if issubclass(one.category, UserWarning)):
                warn(f"warning: {' '.join(text.split())}")


def one_line(text: str) -> str:
    """Return a text with line ends, tabs and terminal codes (file names may hold them) written out, as `\\n`."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lay out rows under a header as aligned text; columns of numbers align right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(header), *cells]) for column in range(len(header))]
    numeric = [bool(cells) and all(row[column][:1] in "-+0123456789" for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), "  ".join("─" * width for width in widths), *(line(row) for row in cells)])


def progress(items: Iterable, *, total: int | None = None, title: str = "", unit: str = "it", quiet: bool = False):
    """Iterate with a progress bar and an estimate of the time left (tqdm); silent when `quiet`."""
    from tqdm import tqdm

    return tqdm(items, total=total, desc=title, unit=unit, disable=quiet, dynamic_ncols=True, mininterval=0.5)
