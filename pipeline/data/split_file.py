"""A split as a file: the subjects of each part and contrast, for people to read and for other runs to use."""

import json
from collections.abc import Collection, Iterable, Sequence
from itertools import combinations
from pathlib import Path

import yaml

from pipeline.data.case import Case
from pipeline.data.splits import CohortSplit
from pipeline.utils.arguments import cwd_hint
from pipeline.utils.console import shortlist
from pipeline.utils.errors import UserError
from pipeline.utils.files import decoded

MAX_LISTED_NAMES = 8


def split_to_json(split: CohortSplit) -> dict[str, dict[str, list[str]] | list[str]]:
    """Return a split as {"train": {contrast: names}, "validation": names, "test": names}, and "pairs" if it has any.

    A name is "subject", or "subject/session" where the subject's scans have sessions.
    """
    train = {contrast: _names(cases) for contrast, cases in split.train.items()}
    pairs = {"pairs": _names(split.pairs)} if split.pairs else {}
    return {"train": train, "validation": _names(split.validation), "test": _names(split.test), **pairs}


def split_from_file(
    path: Path, cases: Sequence[Case], contrasts: tuple[str, str], *, pairing: str, pairs_beside: int = 0
) -> CohortSplit:
    """Read a split of these cases from a JSON or YAML file as `split_to_json` makes it.

    "subject" alone means all of the subject's sessions, or the scan without a session where there is one. Subjects that
    are not named are left out. "pairs", the scans that unpaired training has in both contrasts, may be missing.

    UserError: the file cannot be read, or is wrong; lists all problems: parts missing or unknown, names that the data
    does not have, a subject in two parts, in both contrasts of unpaired training or without its pair in paired
    training, pairs that are not in both or not of `pairs_beside` subjects, and images of the data's own test folders
    outside the test part.
    """
    names, problems = _names_by_part(_read(path), contrasts)
    cases_by_part: dict[str, list[Case]] = {}
    for part, part_names in names.items():
        _, _, contrast = part.partition(".")
        candidates = [case for case in cases if case.contrast in ((contrast,) if contrast else contrasts)]
        cases_by_part[part], unknown = _cases_by_name(part_names, candidates)
        if unknown:
            kind = f"{contrast} image" if contrast else "image"
            problems.append(f"{part}: the data has no {kind} of {_listed(unknown)}")
    pair_cases = cases_by_part.pop("pairs", [])
    problems += _conflicts(cases_by_part, contrasts, pairing, {case.subject for case in pair_cases})
    problems += _pair_problems(pair_cases, cases_by_part, contrasts, pairs_beside)
    if problems:
        raise UserError("\n  ".join([f"{path}: not a split of this data; correct the file (split.file):", *problems]))
    train = {contrast: tuple(cases_by_part[f"train.{contrast}"]) for contrast in contrasts}
    return CohortSplit(train, tuple(cases_by_part["validation"]), tuple(cases_by_part["test"]), tuple(pair_cases))


def _names(cases: Iterable[Case]) -> list[str]:
    return list(dict.fromkeys(_name(case) for case in cases))


def _name(case: Case) -> str:
    return f"{case.subject}/{case.session}" if case.session else case.subject


def _listed(names: Collection[str]) -> str:
    return shortlist(sorted(names), MAX_LISTED_NAMES)


def _read(path: Path) -> object:
    try:
        text = decoded(path.read_bytes(), str(path), "a split, JSON or YAML")
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return yaml.load(text, Loader=yaml.BaseLoader)  # reads strings only, so that subject 007 stays "007"
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}){cwd_hint(path)}; correct split.file") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: neither JSON nor YAML ({reason}); correct split.file") from error


def _names_by_part(content: object, contrasts: tuple[str, str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the names listed in each "train.<contrast>", "validation" and "test", and problems of the file's form."""
    problems: list[str] = []
    parts = _mapping(content, "", ("train", "validation", "test"), problems, optional=("pairs",))
    train = _mapping(parts["train"], "train.", contrasts, problems) if "train" in parts else {}
    values = {f"train.{contrast}": value for contrast, value in train.items()}
    values |= {part: parts[part] for part in ("validation", "test", "pairs") if part in parts}
    names: dict[str, list[str]] = {}
    for part_name, value in values.items():
        if value in ("", None):  # a key with nothing after it
            names[part_name] = []
        elif isinstance(value, list) and all(isinstance(name, str) for name in value):
            names[part_name] = value
        else:
            problems.append(f"{part_name}: must be a list of names")
    return names, problems


def _mapping(
    value: object, prefix: str, keys: Sequence[str], problems: list[str], optional: Sequence[str] = ()
) -> dict[str, object]:
    """Return the value's entries under required and optional keys; append missing and unknown keys to `problems`."""
    if not isinstance(value, dict):
        problems.append(f"{prefix.rstrip('.') or 'the file'}: must have the keys {', '.join(keys)}")
        return {}
    problems += [f"{prefix}{key}: missing" for key in keys if key not in value]
    problems += [
        f"{prefix}{key}: unknown; the keys are {', '.join(keys)}" for key in value if key not in (*keys, *optional)
    ]
    return {key: value[key] for key in (*keys, *optional) if key in value}


def _cases_by_name(names: Iterable[str], cases: Sequence[Case]) -> tuple[list[Case], set[str]]:
    """Return the named cases in order of name, and the names that no case has."""
    by_name: dict[str, set[Case]] = {}
    for case in cases:
        by_name.setdefault(_name(case), set()).add(case)
    for case in cases:
        if all(other.session for other in by_name.get(case.subject, ())):
            by_name.setdefault(case.subject, set()).add(case)
    unknown = {name for name in names if name not in by_name}
    matches = set().union(*(by_name[name] for name in names if name not in unknown))
    return sorted(matches), unknown


def _pair_problems(
    pair_cases: Sequence[Case], cases_by_part: dict[str, list[Case]], contrasts: tuple[str, str], count: int
) -> list[str]:
    """Return what is wrong with the pairs beside unpaired training: their number, or a scan without its partner."""
    problems, subjects = [], {case.subject for case in pair_cases}
    if len(subjects) != count:
        problems.append(f"pairs: has {len(subjects)} subjects, and split.pairs is {count}; make them agree")
    for contrast in contrasts:
        trained = {_name(case) for case in cases_by_part.get(f"train.{contrast}", [])}
        if missing := {_name(case) for case in pair_cases} - trained:
            problems.append(f"pairs: not in train.{contrast} too: {_listed(missing)}")
    return problems


def _conflicts(
    cases_by_part: dict[str, list[Case]], contrasts: tuple[str, str], pairing: str, paired_subjects: Collection[str]
) -> list[str]:
    """Return what is wrong with the parts; unpaired training has `paired_subjects` in both contrasts."""
    empty = [part for part, cases in cases_by_part.items() if "." in part and not cases]
    problems = [f"{part}: empty; training needs both contrasts" for part in empty]
    subjects = {part: {case.subject for case in cases} for part, cases in cases_by_part.items()}
    first, second = (f"train.{contrast}" for contrast in contrasts)
    for part, other in combinations(cases_by_part, 2):
        shared = subjects[part] & subjects[other]
        if shared and (part, other) != (first, second):
            problems.append(f"{part} and {other}: both have {_listed(shared)}")
        elif (shared := shared - {*paired_subjects}) and pairing == "unpaired":
            problems.append(f"{part} and {other}: both have {_listed(shared)}, which split.pairing: unpaired forbids")
    if pairing == "paired" and first in cases_by_part and second in cases_by_part:
        for part, other in ((first, second), (second, first)):
            unpaired = {_name(case) for case in cases_by_part[part]} - {_name(case) for case in cases_by_part[other]}
            if unpaired:
                problems.append(f"{part}: not in {other} too, as split.pairing: paired needs: {_listed(unpaired)}")
    for part, cases in cases_by_part.items():
        reserved = {case.subject for case in cases if case.split == "test"}
        if reserved and part != "test":
            problems.append(f"{part}: the data sets these aside for testing: {_listed(reserved)}")
    return problems
