"""Whether runs may stand in one table: same data, split, preprocessing and protocol, or each difference by name."""

from collections.abc import Iterator, Sequence
from math import isclose

from pipeline.comparison.columns import in_order
from pipeline.comparison.runs import FinishedRun
from pipeline.config.schema import Config
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, OWN
from pipeline.utils.errors import UserError

SHOWN_NAMES = 5
CLOSE = 1e-3  # relative: what libraries of another version may change in a baseline

# Settings that decide what is measured, or on what; the others are the method's own business.
PREPROCESS = ("axis", "spacing_mm", "size", "n4", "scaling", "percentiles", "min_foreground", "coverage_mm")
EVALUATION = ("checkpoint", "register_pairs")


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose figures do not mean the same.

    `split.pairing` may differ where validation and test subjects do not, for a paired bound needs it.

    Raises:
        UserError: naming, for every run that differs from the first, what differs, with both values.
    """
    first, *others = runs
    problems = [
        f"{what}: {there} in {other.folder}, {here} in {run.folder}"
        for run in others
        for other, what, there, here in _from_the_others(first, _first_alike(runs, run), run)
    ]
    if problems:
        raise UserError(
            "\n  ".join(
                [
                    "these runs cannot be compared, for their figures do not mean the same; leave out those that "
                    "differ, or run them again on one data, split (split.file), preprocess and evaluation:",
                    *problems,
                ]
            )
        )


def config_differences(first: Config, second: Config) -> Iterator[tuple[str, object, object]]:
    """Yield (key, value there, value here) of the settings that forbid a comparison, as far as settings show it."""
    if sorted(first.contrasts) != sorted(second.contrasts):
        yield "contrasts", list(first.contrasts), list(second.contrasts)
    there, here = first.data.model_dump(mode="json"), second.data.model_dump(mode="json")
    for name in dict.fromkeys([*there, *here]):
        if name != "folder" and there.get(name) != here.get(name):  # the same data may have been moved
            yield f"data.{name}", there.get(name), here.get(name)
    for section, names in (("preprocess", PREPROCESS), ("evaluation", EVALUATION)):
        there, here = (getattr(config, section).model_dump(mode="json") for config in (first, second))
        yield from ((f"{section}.{name}", there[name], here[name]) for name in names if there[name] != here[name])


def _first_alike(runs: Sequence[FinishedRun], run: FinishedRun) -> FinishedRun:
    """Return the first run that is a paired bound, or none, as this one is."""
    return next(one for one in runs if one.is_bound == run.is_bound)


def _from_the_others(
    first: FinishedRun, alike: FinishedRun, run: FinishedRun
) -> list[tuple[FinishedRun, str, str, str]]:
    """Return what sets a run apart from the first of all and, if nothing does, from the first of its kind.

    A bound trains on other images than the rest, so that it can vouch for no run's training subjects but a bound's.
    """
    found = [(first, *difference) for difference in _differences(first, run)]
    if found or alike is first or alike is run:
        return found
    return [(alike, *difference) for difference in _differences(alike, run)]


def _differences(first: FinishedRun, run: FinishedRun) -> list[tuple[str, str, str]]:
    """Return what forbids to compare two runs; what follows from another difference is left out."""
    found = [(key, repr(there), repr(here)) for key, there, here in config_differences(first.config, run.config)]
    found += _split_differences(first, run)
    if first.protocols[OWN] != run.protocols[OWN]:
        found.append(("our own protocol", f"{first.protocols[OWN]!r}", f"{run.protocols[OWN]!r}"))
    return found or [*_scored_differences(first, run)] or [*_baseline_differences(first, run)]


def _split_differences(first: FinishedRun, run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    parts = [(part, first.split[part], run.split[part]) for part in ("validation", "test")]
    if first.is_bound == run.is_bound:  # a bound trains on pairs, and so on other images
        parts += [
            (f"training {contrast}", first.split["train"].get(contrast, []), run.split["train"].get(contrast, []))
            for contrast in first.config.contrasts
        ]
    yield from (_names(f"{part} subjects", set(there), set(here)) for part, there, here in parts if {*there} ^ {*here})


def _scored_differences(first: FinishedRun, run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    for contrasts in first.directions:
        there, here = (
            set().union(*(values for values in one.by_scan.get((*contrasts, COPY), {}).values()))
            for one in (first, run)
        )
        if there != here:
            yield _names(f"test subjects that could be scored, {' → '.join(contrasts)}", there, here)


def _baseline_differences(first: FinishedRun, run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    """Yield baselines whose figures disagree: the input as it is, and where the training subjects are the same, all.

    Equal data, preprocessing and protocol give equal baselines, so another figure betrays another image.
    """
    same_training = first.split["train"] == run.split["train"]
    for contrasts in first.directions:
        for system in (COPY, HISTOGRAM, LOOKUP) if same_training else (COPY,):
            there, here = (one.by_scan.get((*contrasts, system), {}) for one in (first, run))
            for column in in_order(there.keys() & here.keys()):
                for subject, value in there[column].items():
                    other = here[column].get(subject, float("nan"))
                    if not _same(value, other):
                        title = f"{system}, {' → '.join(contrasts)}, {column} of {subject} (so the images differ)"
                        yield title, f"{value:.4g}", f"{other:.4g}"
                        return


def _same(first: float, second: float) -> bool:
    return isclose(first, second, rel_tol=CLOSE, abs_tol=1e-6) or (first != first and second != second)  # both NaN


def _names(what: str, there: set[str], here: set[str]) -> tuple[str, str, str]:
    """Return the names that only one side has."""
    return what, _only(there - here), _only(here - there)


def _only(names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:SHOWN_NAMES])
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{listed}{more} only" if names else "none of its own"
