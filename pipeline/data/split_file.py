"""A split as a file: subjects' names per part and contrast, to be read by people and given to another run."""

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import yaml

from pipeline.data.case import Case
from pipeline.data.splits import CohortSplit
from pipeline.utils.errors import UserError
from pipeline.utils.paths import cwd_hint
from pipeline.utils.texts import decoded

SHOWN_NAMES = 8


def split_to_json(split: CohortSplit) -> dict[str, dict[str, list[str]] | list[str]]:
    """Return a split as {"train": {contrast: names}, "validation": names, "test": names}.

    A name is "subject", or "subject/session" where the subject's scans have sessions.
    """
    train = {contrast: _names(cases) for contrast, cases in split.train.items()}
    return {"train": train, "validation": _names(split.validation), "test": _names(split.test)}


def split_from_file(path: Path, cases: Sequence[Case], contrasts: tuple[str, str], *, pairing: str) -> CohortSplit:
    """Read a split of these cases from a JSON or YAML file as `split_to_json` makes it.

    "subject" alone means all of the subject's sessions, unless one of its scans has no session: then that. Subjects
    that are not named are left out.

    Raises:
        UserError: the file cannot be read, or lists all that is wrong in it: parts missing or unknown, names that the
            data does not have, a subject in two parts, in both contrasts of unpaired training or without its pair in
            paired training, images of the data's own test folders elsewhere than in the test part.
    """
    names, problems = _parts(_read(path), contrasts)
    found: dict[str, list[Case]] = {}
    for place, listed in names.items():
        _, _, contrast = place.partition(".")
        eligible = [case for case in cases if case.contrast in ((contrast,) if contrast else contrasts)]
        found[place], unknown = _look_up(listed, eligible)
        if unknown:
            kind = f"{contrast} image" if contrast else "image"
            problems.append(f"{place}: the data has no {kind} of {_some(unknown)}")
    problems += _conflicts(found, contrasts, pairing)
    if problems:
        raise UserError("\n  ".join([f"{path}: not a split of this data; correct the file (split.file):", *problems]))
    train = {contrast: tuple(found[f"train.{contrast}"]) for contrast in contrasts}
    return CohortSplit(train, tuple(found["validation"]), tuple(found["test"]))


def _names(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(_name(case) for case in cases))


def _name(case: Case) -> str:
    return f"{case.subject}/{case.session}" if case.session else case.subject


def _some(names: Collection[str]) -> str:
    listed = ", ".join(sorted(names)[:SHOWN_NAMES])
    return f"{listed} and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else listed


def _read(path: Path) -> object:
    try:
        text = decoded(path.read_bytes(), str(path), "a split, JSON or YAML")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=yaml.BaseLoader)  # makes strings only: a subject 007 stays "007"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}){cwd_hint(path)}; correct split.file") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: neither JSON nor YAML ({reason}); correct split.file") from error


def _parts(content: object, contrasts: tuple[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the names listed in each "train.<contrast>", "validation" and "test", and what is wrong with the form."""
    problems: list[str] = []
    top = _mapping(content, "", ("train", "validation", "test"), problems)
    train = _mapping(top["train"], "train.", contrasts, problems) if "train" in top else {}
    listed = {f"train.{contrast}": value for contrast, value in train.items()}
    listed |= {part: top[part] for part in ("validation", "test") if part in top}
    names: dict[str, list[str]] = {}
    for place, value in listed.items():
        if value in ("", None):  # a key with nothing after it
            names[place] = []
        elif isinstance(value, list) and all(isinstance(name, str) for name in value):
            names[place] = value
        else:
            problems.append(f"{place}: must be a list of names")
    return names, problems


def _mapping(value: object, prefix: str, keys: Sequence[str], problems: list[str]) -> dict[str, object]:
    """Return the value's entries under the keys that it must have, and note what is missing or unknown."""
    if not isinstance(value, dict):
        problems.append(f"{prefix.rstrip('.') or 'the file'}: must have the keys {', '.join(keys)}")
        return {}
    problems += [f"{prefix}{key}: missing" for key in keys if key not in value]
    problems += [f"{prefix}{key}: unknown; the keys are {', '.join(keys)}" for key in value if key not in keys]
    return {key: value[key] for key in keys if key in value}


def _look_up(names: Iterable[str], cases: Sequence[Case]) -> tuple[list[Case], set[str]]:
    """Return the cases that are named, in order of name, and the names that are nobody's."""
    by_name: dict[str, set[Case]] = {}
    for case in cases:
        by_name.setdefault(_name(case), set()).add(case)
    for case in cases:
        if all(other.session for other in by_name.get(case.subject, ())):
            by_name.setdefault(case.subject, set()).add(case)
    unknown = {name for name in names if name not in by_name}
    found = set().union(*(by_name[name] for name in names if name not in unknown))
    return sorted(found, key=lambda case: (case.subject, case.session, case.contrast)), unknown


def _conflicts(found: dict[str, list[Case]], contrasts: tuple[str, str], pairing: str) -> list[str]:
    empty = [place for place, cases in found.items() if "." in place and not cases]
    problems = [f"{place}: empty; training needs both contrasts" for place in empty]
    subjects = {place: {case.subject for case in cases} for place, cases in found.items()}
    first, second = (f"train.{contrast}" for contrast in contrasts)
    for one, other in combinations(found, 2):
        shared = subjects[one] & subjects[other]
        if shared and (one, other) != (first, second):
            problems.append(f"{one} and {other}: both have {_some(shared)}")
        elif shared and pairing == "unpaired":
            problems.append(f"{one} and {other}: both have {_some(shared)}, which split.pairing: unpaired forbids")
    if pairing == "paired" and first in found and second in found:
        for one, other in ((first, second), (second, first)):
            alone = {_name(case) for case in found[one]} - {_name(case) for case in found[other]}
            if alone:
                problems.append(f"{one}: not in {other} too, as split.pairing: paired needs: {_some(alone)}")
    for place, cases in found.items():
        aside = {case.subject for case in cases if case.split == "test"}
        if aside and place != "test":
            problems.append(f"{place}: the data sets these aside for testing: {_some(aside)}")
    return problems
