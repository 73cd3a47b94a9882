"""Size of a checkout: lines, files, configuration keys, and the README's words.

python -m benchmarks.size [CHECKOUT …]

Source is the Python of pipeline/, networks/, transforms/ and benchmarks/, blank lines and docstrings included; empty
files are no files. Keys are those that the shipped configurations name, in sections as "section.key".
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from benchmarks.timing import ROOT, benchmark_parser
from pipeline.utils.arguments import path_argument
from pipeline.utils.console import cli_main, echo, table
from pipeline.utils.errors import UserError

SOURCES = ("pipeline", "networks", "transforms", "benchmarks")


def sizes(checkout: Path) -> dict[str, int]:
    """Return a checkout's sizes by name."""
    if not (checkout / "README.md").is_file() or not (checkout / SOURCES[0]).is_dir():
        raise UserError(f"{checkout}: no checkout of this project; give the folder that holds its README.md")
    sources = [length for folder in SOURCES for length in line_counts(checkout / folder, "*.py")]
    configs = [yaml.safe_load(path.read_text("utf-8")) for path in (checkout / "configs").rglob("*.yaml")]
    return {
        "source lines": sum(sources),
        "source files": len(sources),
        "test lines": sum(line_counts(checkout / "tests", "*.py")),
        "configuration keys": len({key for config in configs for key in keys(config)}),
        "lines of configs/": sum(line_counts(checkout / "configs", "*.yaml")),
        "README, words": len((checkout / "README.md").read_bytes().split()),
    }


def line_counts(folder: Path, pattern: str) -> list[int]:
    """Return the numbers of lines of the files below a folder that match, without empty files."""
    lengths = (len(path.read_text("utf-8").splitlines()) for path in folder.rglob(pattern))
    return [length for length in lengths if length]


def keys(settings: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of all values of nested settings: {"a": {"b": 1}} -> "a.b"."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def main(argv: list[str] | None = None) -> int:
    """Print the table, with ratios to the first checkout where there are several."""
    parser = benchmark_parser("size", __doc__)
    parser.add_argument("checkouts", nargs="*", type=path_argument, default=[ROOT], metavar="CHECKOUT")
    first, *others = [sizes(checkout) for checkout in parser.parse_args(argv).checkouts]
    rows = [
        [name, f"{number:,}", *(f"{other[name]:,} ({other[name] / max(number, 1):.2f})" for other in others)]
        for name, number in first.items()
    ]
    echo(table(["", *("checkout" for _ in (first, *others))], rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(cli_main(main)())
