"""Subjects' names of two contrasts that nearly agree: perhaps one person under two names, in two parts of a split."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from pipeline.data.case import Case

SHORTEST_WORD = 5  # letters; shorter names differ by one letter for many reasons


def similar_ids(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[str, str]]:
    """Return pairs of subjects, each with one contrast only, whose names nearly agree; a subject is in one pair.

    Names nearly agree where, without the contrasts' names in them, they are equal but for case and punctuation; else
    where their numbers are the same without leading zeros (`P007` and `007B`); else, of names without any digit,
    where one has a single letter more than the other. A digit more or less tells people apart.

    Args:
        cases: The cohort.
        contrasts: The two contrasts' names.
    """
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    left, right = sorted(first - second), sorted(second - first)
    matched: list[tuple[str, str]] = []
    for agree in (_equal_letters_and_digits, _equal_numbers, _one_letter_more):
        taken = {name for pair in matched for name in pair}
        free = ([name for name in names if name not in taken] for names in (left, right))
        matched += agree(*free, contrasts)
    return sorted(matched)


def similar_ids_text(
    cases: Sequence[Case], contrasts: tuple[str, str], part_of: dict[str, str] | None = None
) -> str | None:
    """Return what to say of names that nearly agree; None where none do.

    Args:
        cases: The cohort.
        contrasts: The two contrasts' names.
        part_of: Subject -> the part of the split it is in, as far as it is in one.
    """
    similar = similar_ids(cases, contrasts)
    if not similar:
        return None
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    both, count = len(first & second), len(similar)
    have = f"{both} {'subject has' if both == 1 else 'subjects have'} both" if both else "no subject has both"
    one, other = (f"{len(only)}" for only in (first - second, second - first))
    names = f"1 name with {contrasts[0]} only (of {one}) nearly agrees"
    if count > 1:
        names = f"{count} names with {contrasts[0]} only (of {one}) nearly agree"
    text = (
        f"{have} {contrasts[0]} and {contrasts[1]}, and {names} with one with {contrasts[1]} only (of {other}), "
        f"such as {similar[0][0]} and {similar[0][1]}"
    )
    parts = [tuple((part_of or {}).get(name) for name in pair) for pair in similar]
    apart = sum(None not in pair and pair[0] != pair[1] for pair in parts)
    leak = f" (here {apart} would)" if apart else ""
    return (
        f"{text}; if they are the same people they count as no pair, and a person may train and be tested{leak}: give "
        "both contrasts' files one name for a subject"
    )


def _equal_letters_and_digits(
    left: Collection[str], right: Collection[str], contrasts: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    return _alike(
        {name: _essence(name, contrasts) for name in left}, {name: _essence(name, contrasts) for name in right}
    )


def _equal_numbers(
    left: Collection[str], right: Collection[str], contrasts: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    def numbers(name: str) -> tuple[str, ...]:
        return tuple(run.lstrip("0") or "0" for run in re.findall(r"\d+", _without_contrasts(name, contrasts)))

    return _alike({name: numbers(name) for name in left}, {name: numbers(name) for name in right})


def _one_letter_more(
    left: Collection[str], right: Collection[str], contrasts: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """Pair names without digits that become equal when one letter of the longer is left out."""

    def words(names: Collection[str]) -> dict[str, str]:
        essences = {name: _essence(name, contrasts) for name in names}
        return {
            name: essence
            for name, essence in essences.items()
            if len(essence) >= SHORTEST_WORD and not re.search(r"\d", essence)
        }

    def shortened(word: str) -> set[str]:
        return {word[:place] + word[place + 1 :] for place in range(len(word))}

    by_word, by_shortened = defaultdict(list), defaultdict(list)
    for name, word in words(right).items():
        by_word[word].append(name)
        for shorter in shortened(word):
            by_shortened[shorter].append(name)
    taken: set[str] = set()
    for name, word in words(left).items():
        near = [*by_shortened[word], *(other for shorter in shortened(word) for other in by_word[shorter])]
        partner = next((other for other in sorted(near) if other not in taken), None)
        if partner is not None:
            taken.add(partner)
            yield name, partner


def _alike(left: dict[str, object], right: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Pair names that have the same, not empty, key; where several share it, in order."""
    by_key = defaultdict(list)
    for name, key in right.items():
        by_key[key].append(name)
    for name, key in left.items():
        if key and by_key[key]:
            yield name, by_key[key].pop(0)


def _without_contrasts(name: str, contrasts: tuple[str, str]) -> str:
    """Return a name without a contrast's own that stands in it as a word, as in `smith_T1` and `T1w-smith`."""
    words = "|".join(re.escape(contrast) for contrast in contrasts)
    return re.sub(rf"(?i)(?<![a-z0-9])(?:{words})w?(?![a-z0-9])", "", name)


def _essence(name: str, contrasts: tuple[str, str]) -> str:
    """Return a name's letters and digits, small, without the contrasts' names."""
    return re.sub(r"[\W_]+", "", _without_contrasts(name, contrasts)).casefold()
