"""Similar subject names in two contrasts: perhaps one person under two names, in two parts of a split."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence

from pipeline.data.case import Case

MIN_WORD_LENGTH = 5  # letters; shorter names of different people often differ by one letter


def similar_ids(cases: Sequence[Case], contrasts: tuple[str, str]) -> list[tuple[str, str]]:
    """Return pairs of subjects, each with one contrast only, whose names nearly agree; a subject is in one pair.

    The contrasts' names within subject names are ignored. Names nearly agree if they are equal but for case and
    punctuation; else if their numbers are equal but for leading zeros (`P007` and `007B`); else, for names without
    digits, if one has a single letter more than the other. One digit more or less tells people apart.

    Args:
        cases: The cohort.
        contrasts: The two contrasts' names.
    """
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    first_names, second_names = sorted(first - second), sorted(second - first)
    matches: list[tuple[str, str]] = []
    for matching_pairs in (_equal_letters_and_digits, _equal_numbers, _one_letter_more):
        matched_names = {name for pair in matches for name in pair}
        unmatched = ([name for name in names if name not in matched_names] for names in (first_names, second_names))
        matches += matching_pairs(*unmatched, contrasts)
    return sorted(matches)


def similar_ids_text(
    cases: Sequence[Case], contrasts: tuple[str, str], part_of: dict[str, str] | None = None
) -> str | None:
    """Return a warning about names that nearly agree, or None where none do.

    Args:
        cases: The cohort.
        contrasts: The two contrasts' names.
        part_of: Subject -> its part of the split, for the subjects that are in one.
    """
    similar = similar_ids(cases, contrasts)
    if not similar:
        return None
    first, second = ({case.subject for case in cases if case.contrast == contrast} for contrast in contrasts)
    both_count, count = len(first & second), len(similar)
    overlap = f"{both_count} {'subject has' if both_count == 1 else 'subjects have'} both"
    if both_count == 0:
        overlap = "no subject has both"
    first_count, second_count = (f"{len(subjects)}" for subjects in (first - second, second - first))
    match_text = f"1 name with {contrasts[0]} only (of {first_count}) nearly agrees"
    if count > 1:
        match_text = f"{count} names with {contrasts[0]} only (of {first_count}) nearly agree"
    summary = (
        f"{overlap} {contrasts[0]} and {contrasts[1]}, and {match_text} with one with {contrasts[1]} only "
        f"(of {second_count}), such as {similar[0][0]} and {similar[0][1]}"
    )
    split_parts = [tuple((part_of or {}).get(name) for name in pair) for pair in similar]
    leak_count = sum(None not in pair and pair[0] != pair[1] for pair in split_parts)
    leak = f" (here {leak_count} would)" if leak_count else ""
    return (
        f"{summary}; if they are the same people they count as no pair, and a person may train and be tested{leak}: "
        "give both contrasts' files one name for a subject"
    )


def _equal_letters_and_digits(
    left: Collection[str], right: Collection[str], contrasts: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    return _pairs_of_equal_keys(
        {name: _letters_and_digits(name, contrasts) for name in left},
        {name: _letters_and_digits(name, contrasts) for name in right},
    )


def _equal_numbers(
    left: Collection[str], right: Collection[str], contrasts: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    def numbers(name: str) -> tuple[str, ...]:
        return tuple(run.lstrip("0") or "0" for run in re.findall(r"\d+", _without_contrasts(name, contrasts)))

    return _pairs_of_equal_keys({name: numbers(name) for name in left}, {name: numbers(name) for name in right})


def _one_letter_more(
    left: Collection[str], right: Collection[str], contrasts: tuple[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield pairs of names without digits that become equal when one letter of the longer is left out."""

    def words(names: Collection[str]) -> dict[str, str]:
        letters = {name: _letters_and_digits(name, contrasts) for name in names}
        return {
            name: word for name, word in letters.items() if len(word) >= MIN_WORD_LENGTH and not re.search(r"\d", word)
        }

    def shortened(word: str) -> set[str]:
        return {word[:index] + word[index + 1 :] for index in range(len(word))}

    by_word, by_shortened = defaultdict(list), defaultdict(list)
    for name, word in words(right).items():
        by_word[word].append(name)
        for shorter in shortened(word):
            by_shortened[shorter].append(name)
    matched_names: set[str] = set()
    for name, word in words(left).items():
        candidates = [*by_shortened[word], *(other for shorter in shortened(word) for other in by_word[shorter])]
        partner = next((other for other in sorted(candidates) if other not in matched_names), None)
        if partner is not None:
            matched_names.add(partner)
            yield name, partner


def _pairs_of_equal_keys(left: dict[str, object], right: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Yield pairs of names with the same key that is not empty; several names of one key are paired in order."""
    by_key = defaultdict(list)
    for name, key in right.items():
        by_key[key].append(name)
    for name, key in left.items():
        if key and by_key[key]:
            yield name, by_key[key].pop(0)


def _without_contrasts(name: str, contrasts: tuple[str, str]) -> str:
    """Return a name without the contrasts' names that are words of it, as in `smith_T1` and `T1w-smith`."""
    words = "|".join(re.escape(contrast) for contrast in contrasts)
    return re.sub(rf"(?i)(?<![a-z0-9])(?:{words})w?(?![a-z0-9])", "", name)


def _letters_and_digits(name: str, contrasts: tuple[str, str]) -> str:
    """Return a name's letters and digits in lower case, without the contrasts' names."""
    return re.sub(r"[\W_]+", "", _without_contrasts(name, contrasts)).casefold()
