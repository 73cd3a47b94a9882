"""Dividing a cohort by subject into training, validation and test."""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from pipeline.data.case import Case, pairs
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class CohortSplit:
    """Training, validation and test cases; no subject is in two of these three parts."""

    # contrast -> its training cases. Unpaired: no subject is in both, but those of `pairs`. Paired: case i of the first
    # contrast and case i of the second are a pair.
    train: dict[str, tuple[Case, ...]]
    validation: tuple[Case, ...]  # cases of the validation subjects, of both contrasts where they have both
    test: tuple[Case, ...]  # cases of the test subjects, likewise
    # training cases whose subjects are in both contrasts though training is unpaired: its pairs
    pairs: tuple[Case, ...] = ()


def make_split(
    cases: Sequence[Case],
    contrasts: tuple[str, str],
    *,
    validation: int | float,
    test: int | float,
    seed: int,
    pairing: str,
    pairs_beside: int = 0,
) -> CohortSplit:
    """Divide the subjects; a function of their names, contrasts and the seed alone.

    Validation and test subjects are drawn from those that have a pair (both contrasts in one session); if there are
    none, from those that have both contrasts; else from each contrast's subjects separately. The rest train.
    `validation` and `test` are numbers of subjects as an int, or as a float their share of the subjects drawn from.

    Cases of other contrasts are left out. Where some have `split="test"`, their subjects are the test set, and no
    others are drawn. Pairing "unpaired" assigns each training subject to one contrast, in numbers as equal as possible,
    but for `pairs_beside` subjects, who are in both, as pairs; "paired" trains with the subjects that have a pair.

    UserError: too few subjects; the message gives the numbers, the need and the keys to change.
    """
    cases = sorted(case for case in cases if case.contrast in contrasts)
    for contrast in contrasts:
        if not any(case.contrast == contrast for case in cases):
            raise UserError(f"the data has no {contrast} image; correct contrasts or data, both contrasts are needed")
    reserved = {case.subject for case in cases if case.split == "test"}
    available = [case for case in cases if case.subject not in reserved]

    # Draw validation and test subjects.
    counts = {"validation": validation} if reserved else {"test": test, "validation": validation}
    chosen = {"test": reserved, "validation": set()}
    for pool, kind in _subject_pools(available, contrasts):
        for part, subjects in _draw_subjects(pool, kind, counts, seed).items():
            chosen[part] |= subjects

    # The remaining subjects train.
    remaining = [case for case in available if case.subject not in chosen["test"] | chosen["validation"]]
    paired_cases: tuple[Case, ...] = ()
    if pairing == "paired":
        case_pairs = pairs(remaining, contrasts)
        train = {contrast: tuple(pair[side] for pair in case_pairs) for side, contrast in enumerate(contrasts)}
    else:
        paired_subjects = _subjects_of_pairs(remaining, contrasts, pairs_beside, seed)
        train = _unpaired_training(remaining, contrasts, seed, paired_subjects)
        paired_cases = _cases_of_subjects(sorted(chain(*pairs(remaining, contrasts))), paired_subjects)
    _require_training_subjects(train, available, contrasts, {part: len(chosen[part]) for part in counts}, pairing)
    validation_cases, test_cases = (_cases_of_subjects(cases, chosen[part]) for part in ("validation", "test"))
    return CohortSplit(train, validation_cases, test_cases, paired_cases)


def _cases_of_subjects(cases: Iterable[Case], subjects: Collection[str]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.subject in subjects)


def _subjects(cases: Iterable[Case], contrast: str) -> set[str]:
    return {case.subject for case in cases if case.contrast == contrast}


def _shuffled(subjects: Collection[str], seed: int) -> list[str]:
    """Return subjects shuffled by the seed, in an order that added or removed subjects do not change."""
    return sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed}/{subject}".encode()).digest())


def _subject_pools(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[set[str], str]]:
    """Return the groups of subjects to draw from, each with its description for messages."""
    first, second = (_subjects(cases, contrast) for contrast in contrasts)
    both = {case.subject for case, _ in pairs(cases, contrasts)} or first & second
    if both:
        return [(both, f"with both {contrasts[0]} and {contrasts[1]}")]
    return [(first, f"with {contrasts[0]}"), (second, f"with {contrasts[1]}")]


def _draw_subjects(pool: set[str], kind: str, counts: dict[str, int | float], seed: int) -> dict[str, set[str]]:
    numbers = {part: _subject_count(amount, len(pool)) for part, amount in counts.items()}
    if sum(numbers.values()) > len(pool):
        requirement = " + ".join(f"split.{part} {counts[part]} ({number})" for part, number in numbers.items())
        raise UserError(
            f"{requirement} need {sum(numbers.values())} subjects {kind}, but there are {len(pool)}; "
            f"lower {' or '.join(f'split.{part}' for part in numbers)}, or add subjects"
        )
    order = iter(_shuffled(pool, seed))
    return {part: {next(order) for _ in range(number)} for part, number in numbers.items()}


def _subject_count(amount: int | float, available: int) -> int:
    """Return an int unchanged, and a share as a rounded number of subjects, at least one unless the share is zero."""
    if isinstance(amount, int):
        return amount
    return max(1, math.floor(amount * available + 0.5)) if amount > 0 else 0


def _subjects_of_pairs(cases: Sequence[Case], contrasts: tuple[str, str], count: int, seed: int) -> set[str]:
    """Draw as many subjects among those that have a pair; UserError if there are fewer."""
    candidates = {first.subject for first, _ in pairs(cases, contrasts)}
    if count > len(candidates):
        first, second = contrasts
        raise UserError(
            f"split.pairs = {count}: only {len(candidates)} training subjects have {first} and {second} in one "
            "session; lower split.pairs, split.validation or split.test, or add subjects"
        )
    return set(_shuffled(candidates, seed)[:count])


def _unpaired_training(
    cases: Sequence[Case], contrasts: tuple[str, str], seed: int, paired_subjects: Collection[str]
) -> dict[str, tuple[Case, ...]]:
    """Assign each subject to one contrast, those with both so that the contrasts get equal numbers if possible.

    The subjects of pairs are in both.
    """
    first, second = (_subjects(cases, contrast) - {*paired_subjects} for contrast in contrasts)
    both = _shuffled(first & second, seed)
    to_first = min(max(math.ceil(len(first | second) / 2) - len(first - second), 0), len(both))
    sides = ((first - second) | set(both[:to_first]), (second - first) | set(both[to_first:]))
    return {
        contrast: _cases_of_subjects((case for case in cases if case.contrast == contrast), side | {*paired_subjects})
        for contrast, side in zip(contrasts, sides, strict=True)
    }


def _require_training_subjects(
    train: dict[str, tuple[Case, ...]],
    cases: Sequence[Case],
    contrasts: tuple[str, str],
    counts: dict[str, int],
    pairing: str,
) -> None:
    """Raise UserError unless every contrast has a training subject."""
    if all(train.values()):
        return
    first, second = (_subjects(cases, contrast) for contrast in contrasts)
    need = f"both {contrasts[0]} and {contrasts[1]}" if pairing == "paired" else "each contrast of its own"
    usage = " and ".join(f"{part} takes {number}" for part, number in sorted(counts.items(), reverse=True))
    raise UserError(
        f"of {len(first | second)} subjects ({len(first - second)} with {contrasts[0]} only, "
        f"{len(second - first)} with {contrasts[1]} only, {len(first & second)} with both) {usage}, which leaves too "
        f"few: {pairing} training needs one with {need}; lower split.validation or split.test, add subjects, or change "
        "split.pairing"
    )
