"""Settings with several values each, and every combination of them: `method.cycle_weight=2,5,10 seed=0..2`."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import yaml

from pipeline.utils.errors import UserError

MOST_RUNS = 1000  # of one configuration; more are a mistake of typing, and more than a Slurm array takes
WHOLE_RANGE = re.compile(r"([+-]?\d+)\.\.([+-]?\d+)")
NUMBER_RANGE = re.compile(r"[+-]?\.?\d[\d.e+-]*\.\.[+-]?\.?\d[\d.e+-]*", re.IGNORECASE)


@dataclass(frozen=True)
class Combination:
    """One value of every setting."""

    overrides: tuple[str, ...]  # `key=value` each
    label: str = ""  # names the values that differ between combinations, "cycle_weight-2_seed-0"


def combinations(overrides: Sequence[str], takes_text: Callable[[str], bool]) -> list[Combination]:
    """Return every combination of the settings' values, the last setting varying first.

    Values are separated by commas; `0..2` stands for 0,1,2. What YAML reads as one value (a list, a mapping, a quoted
    text) is one, and so is that of a key that takes a path or a pattern (`takes_text`).

    Raises:
        UserError: Names every setting that is not as above or is given twice, and too many combinations.
    """
    settings = [text.partition("=")[::2] for text in overrides]
    values = [[value] if takes_text(key) else list(_values(value)) for key, value in settings]
    lists = {key: items for (key, _), items in zip(settings, values, strict=True) if len(items) > 1}
    counts = Counter(key for key, _ in settings)
    repeated_keys = [key for key in lists if counts[key] > 1]
    problems = [f"{key}: is given {counts[key]} times; give it once, with all its values" for key in repeated_keys]
    for key, value in settings:
        problems += [f"{key} = {value}: {problem}" for problem in _problems(value) if not takes_text(key)]
    if not problems and (number := prod(map(len, values))) > MOST_RUNS:
        problems = [f"{' × '.join(lists)}: {number} combinations; a sweep takes up to {MOST_RUNS}"]
    if problems:
        raise UserError("\n  ".join(problems))
    names = _short_names(list(lists))
    chosen = [[(key, value) for (key, _), value in zip(settings, choice, strict=True)] for choice in product(*values)]
    return [
        Combination(
            tuple(f"{key}={value}" for key, value in choice),
            "_".join(f"{names[key]}-{_word(value)}" for key, value in choice if key in lists),
        )
        for choice in chosen
    ]


def _values(text: str) -> Iterator[str]:
    """Yield a setting's values."""
    for item in _split(text):
        if ends := WHOLE_RANGE.fullmatch(item):
            first, last = map(int, ends.groups())
            yield from map(str, range(first, min(last, first + MOST_RUNS) + 1))
        else:
            yield item


def _problems(text: str) -> Iterator[str]:
    """Yield what is wrong with a setting's values."""
    items = _split(text)
    if len(items) > 1 and "" in items:
        yield "a value is missing between its commas; quote what is one text with a comma"
    for item in items:
        ends = WHOLE_RANGE.fullmatch(item)
        if ends and int(ends[1]) > int(ends[2]):
            yield f"{item} runs backwards; the lower number comes first"
        elif not ends and NUMBER_RANGE.fullmatch(item):
            yield f"{item}: a range is one of whole numbers, such as 0..2; list others with commas"
    values = [value for value in _values(text) if value]
    if repeated := [value for value, number in Counter(values).items() if number > 1]:
        yield f"has {', '.join(repeated)} more than once"


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside YAML's brackets and quotes."""
    try:
        nodes = yaml.compose(f"[{text}]", yaml.SafeLoader).value  # type: ignore[union-attr]  # a list is a node
        items = [text[node.start_mark.index - 1 : node.end_mark.index - 1] for node in nodes]
        items += [""] if text.rstrip().endswith(",") else []
    except yaml.YAMLError:  # a value is missing, among others
        items = [item.strip() for item in text.split(",")]
    return items if len(items) > 1 else [text]


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return each key's last part, or the whole key where another has the same."""
    last_parts = [key.rpartition(".")[2] for key in keys]
    return {key: last if last_parts.count(last) == 1 else key for key, last in zip(keys, last_parts, strict=True)}


def _word(value: str) -> str:
    """Return a value as part of a name."""
    return re.sub(r"[^\w.+-]+", "_", value).strip("_")
