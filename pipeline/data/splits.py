"""Dividing a cohort by subject into training, validation and test."""

import hashlib
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pipeline.data.case import Case, pairs
from pipeline.utils.errors import UserError


@dataclass(frozen=True)
class CohortSplit:
    """Who trains, who validates, who tests; no subject is in two of these.

    Attributes:
        train: Contrast -> its training cases. Unpaired: no subject in both. Paired: case i of both belong together.
        validation: Cases of the validation subjects, of both contrasts where they have both.
        test: Cases of the test subjects, likewise.
    """

    train: dict[str, tuple[Case, ...]]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


def make_split(
    cases: Sequence[Case],
    contrasts: tuple[str, str],
    *,
    validation: int | float,
    test: int | float,
    seed: int,
    pairing: str,
) -> CohortSplit:
    """Divide the subjects; a function of their names, contrasts and the seed alone.

    Validation and test are drawn from the subjects that have a pair (both contrasts in one session), else from those
    that have both contrasts at all, else from each contrast's subjects separately. The rest train.

    Args:
        cases: The cohort; others than of the two contrasts are left out. Where some have `split="test"`, their
            subjects are the test set, and none is drawn for it.
        contrasts: The two contrasts' names.
        validation: How many subjects validate: an int counts them, a float is the share of those drawn from.
        test: How many test, likewise.
        seed: Chooses who is drawn.
        pairing: "unpaired" gives each training subject to one contrast, so that both have equally many as far as
            possible; "paired" trains with the subjects that have a pair.

    Raises:
        UserError: too few subjects; gives the numbers, what is needed and the keys to change.
    """
    cases = sorted((case for case in cases if case.contrast in contrasts), key=_key)
    _require_both(cases, contrasts)
    aside = {case.subject for case in cases if case.split == "test"}
    rest = [case for case in cases if case.subject not in aside]
    counts = {"validation": validation} if aside else {"test": test, "validation": validation}
    drawn = {"test": aside, "validation": set()}
    for pool, kind in _pools(rest, contrasts):
        for part, subjects in _draw(pool, kind, counts, seed).items():
            drawn[part] |= subjects
    remaining = [case for case in rest if case.subject not in drawn["test"] | drawn["validation"]]
    train = _paired(remaining, contrasts) if pairing == "paired" else _unpaired(remaining, contrasts, seed)
    _require_training(train, rest, contrasts, {part: len(drawn[part]) for part in counts}, pairing)
    return CohortSplit(train, _of(cases, drawn["validation"]), _of(cases, drawn["test"]))


def _key(case: Case) -> tuple[str, str, str]:
    return case.subject, case.session, case.contrast


def _of(cases: Iterable[Case], subjects: Collection[str]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.subject in subjects)


def _subjects(cases: Iterable[Case], contrast: str) -> set[str]:
    return {case.subject for case in cases if case.contrast == contrast}


def _shuffled(subjects: Collection[str], seed: int) -> list[str]:
    """Return subjects in an order that the seed chooses and that another subject more or less does not change."""
    return sorted(subjects, key=lambda subject: hashlib.sha256(f"{seed}/{subject}".encode()).digest())


def _pools(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[set[str], str]]:
    """Return the groups of subjects to draw from, each with its description."""
    first, second = (_subjects(cases, contrast) for contrast in contrasts)
    both = {one.subject for one, _ in pairs(cases, contrasts)} or first & second
    if both:
        return [(both, f"with both {contrasts[0]} and {contrasts[1]}")]
    return [(first, f"with {contrasts[0]}"), (second, f"with {contrasts[1]}")]


def _draw(pool: set[str], kind: str, counts: dict[str, int | float], seed: int) -> dict[str, set[str]]:
    wanted = {part: _count(amount, len(pool)) for part, amount in counts.items()}
    if sum(wanted.values()) > len(pool):
        needs = " + ".join(f"split.{part} {counts[part]} ({number})" for part, number in wanted.items())
        raise UserError(
            f"{needs} need {sum(wanted.values())} subjects {kind}, but there are {len(pool)}; "
            f"lower {' or '.join(f'split.{part}' for part in wanted)}, or add subjects"
        )
    order = iter(_shuffled(pool, seed))
    return {part: {next(order) for _ in range(number)} for part, number in wanted.items()}


def _count(amount: int | float, available: int) -> int:
    """Return an int as it is; a share as a number of subjects, rounded, at least one unless the share is zero."""
    if isinstance(amount, int):
        return amount
    return max(1, math.floor(amount * available + 0.5)) if amount > 0 else 0


def _paired(cases: Sequence[Case], contrasts: tuple[str, str]) -> dict[str, tuple[Case, ...]]:
    found = pairs(cases, contrasts)
    return {contrast: tuple(pair[side] for pair in found) for side, contrast in enumerate(contrasts)}


def _unpaired(cases: Sequence[Case], contrasts: tuple[str, str], seed: int) -> dict[str, tuple[Case, ...]]:
    """Give each subject to one contrast: those with one to that, the others so that the sides even out."""
    first, second = (_subjects(cases, contrast) for contrast in contrasts)
    both = _shuffled(first & second, seed)
    to_first = min(max(math.ceil(len(first | second) / 2) - len(first - second), 0), len(both))
    sides = ((first - second) | set(both[:to_first]), (second - first) | set(both[to_first:]))
    return {
        contrast: _of((case for case in cases if case.contrast == contrast), side)
        for contrast, side in zip(contrasts, sides, strict=True)
    }


def _require_both(cases: Sequence[Case], contrasts: tuple[str, str]) -> None:
    for contrast in contrasts:
        if not any(case.contrast == contrast for case in cases):
            raise UserError(f"the data has no {contrast} image; correct contrasts or data, both contrasts are needed")


def _require_training(
    train: dict[str, tuple[Case, ...]],
    cases: Sequence[Case],
    contrasts: tuple[str, str],
    drawn: dict[str, int],
    pairing: str,
) -> None:
    """Raise unless every contrast has someone to train with."""
    if all(train.values()):
        return
    first, second = (_subjects(cases, contrast) for contrast in contrasts)
    need = (
        f"paired training needs one with both {contrasts[0]} and {contrasts[1]}"
        if pairing == "paired"
        else f"unpaired training needs one for {contrasts[0]} and another for {contrasts[1]}"
    )
    taken = " and ".join(f"{part} takes {number}" for part, number in sorted(drawn.items(), reverse=True))
    remedies = f"lower {' or '.join(f'split.{part}' for part in sorted(drawn, reverse=True))}, or add subjects"
    if pairing == "unpaired" and pairs(cases, contrasts):
        remedies += ", or set split.pairing: paired"
    raise UserError(
        f"of {len(first | second)} subjects ({len(first - second)} with {contrasts[0]} only, "
        f"{len(second - first)} with {contrasts[1]} only, {len(first & second)} with both) {taken}, "
        f"which leaves too few: {need}; {remedies}"
    )
