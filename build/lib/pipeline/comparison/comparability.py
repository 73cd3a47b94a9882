"""Whether runs may be compared: same data, split, preprocessing and protocol; differences are named."""

from collections.abc import Iterator, Sequence
from math import isclose

from pipeline.comparison.columns import in_order
from pipeline.comparison.runs import FinishedRun
from pipeline.config.schema import Config
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, OWN
from pipeline.utils.errors import UserError

SHOWN_NAMES = 5
CLOSE = 1e-3  # relative tolerance for baselines computed with other versions of libraries

# Settings that decide what is measured, and on which images; other settings may differ between methods.
PREPROCESS = ("axis", "spacing_mm", "size", "n4", "scaling", "percentiles", "min_foreground", "coverage_mm")
EVALUATION = ("checkpoint", "register_pairs")


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose figures do not mean the same.

    `split.pairing` may differ if validation and test subjects are the same, since a paired bound needs it.

    Raises:
        UserError: Names, for every run that differs from the first, the differences with both values.
    """
    first, *others = runs
    problems = [
        f"{setting}: {other_value} in {reference.folder}, {run_value} in {run.folder}"
        for run in others
        for reference, setting, other_value, run_value in _reference_differences(first, _first_of_kind(runs, run), run)
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
    """Yield (key, first value, second value) of the settings whose difference forbids a comparison."""
    if sorted(first.contrasts) != sorted(second.contrasts):
        yield "contrasts", list(first.contrasts), list(second.contrasts)
    first_values, second_values = first.data.model_dump(mode="json"), second.data.model_dump(mode="json")
    for name in dict.fromkeys([*first_values, *second_values]):
        if name != "folder" and first_values.get(name) != second_values.get(name):  # the data may have been moved
            yield f"data.{name}", first_values.get(name), second_values.get(name)
    for section, names in (("preprocess", PREPROCESS), ("evaluation", EVALUATION)):
        first_values, second_values = (getattr(config, section).model_dump(mode="json") for config in (first, second))
        yield from (
            (f"{section}.{name}", first_values[name], second_values[name])
            for name in names
            if first_values[name] != second_values[name]
        )


def _first_of_kind(runs: Sequence[FinishedRun], run: FinishedRun) -> FinishedRun:
    """Return the first run of the same kind: paired bound or not."""
    return next(candidate for candidate in runs if candidate.is_bound == run.is_bound)


def _reference_differences(
    first: FinishedRun, alike: FinishedRun, run: FinishedRun
) -> list[tuple[FinishedRun, str, str, str]]:
    """Return the differences of a run from the first run or, if there are none, from the first run of its kind.

    Training subjects can be compared between runs of one kind only, since a paired bound trains on other images.

    Returns:
        (reference run, name of the difference, value of the reference, value of this run).
    """
    differences = [(first, *difference) for difference in _differences(first, run)]
    if differences or alike is first or alike is run:
        return differences
    return [(alike, *difference) for difference in _differences(alike, run)]


def _differences(first: FinishedRun, run: FinishedRun) -> list[tuple[str, str, str]]:
    """Return the differences that forbid a comparison of two runs; those that follow from others are left out."""
    differences = [
        (key, repr(first_value), repr(run_value))
        for key, first_value, run_value in config_differences(first.config, run.config)
    ]
    differences += _split_differences(first, run)
    if first.protocols[OWN] != run.protocols[OWN]:
        differences.append(("our own protocol", f"{first.protocols[OWN]!r}", f"{run.protocols[OWN]!r}"))
    return differences or [*_scored_differences(first, run)] or [*_baseline_differences(first, run)]


def _split_differences(first: FinishedRun, run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    subject_lists = [(title, first.split[title], run.split[title]) for title in ("validation", "test")]
    if first.is_bound == run.is_bound:  # a bound trains on pairs, so on other images
        subject_lists += [
            (f"training {contrast}", first.split["train"].get(contrast, []), run.split["train"].get(contrast, []))
            for contrast in first.config.contrasts
        ]
    yield from (
        _name_differences(f"{title} subjects", set(first_subjects), set(run_subjects))
        for title, first_subjects, run_subjects in subject_lists
        if {*first_subjects} ^ {*run_subjects}
    )


def _scored_differences(first: FinishedRun, run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    for contrasts in first.directions:
        first_subjects, run_subjects = (
            set().union(*(values for values in scored_run.by_scan.get((*contrasts, COPY), {}).values()))
            for scored_run in (first, run)
        )
        if first_subjects != run_subjects:
            yield _name_differences(
                f"test subjects that could be scored, {' → '.join(contrasts)}", first_subjects, run_subjects
            )


def _baseline_differences(first: FinishedRun, run: FinishedRun) -> Iterator[tuple[str, str, str]]:
    """Yield the first baseline figure that differs: of the copied input or, with equal training subjects, of any one.

    Equal data, preprocessing and protocol give equal baselines, so a different figure means a different image.
    """
    same_training = first.split["train"] == run.split["train"]
    for contrasts in first.directions:
        for system in (COPY, HISTOGRAM, LOOKUP) if same_training else (COPY,):
            first_figures, run_figures = (
                scored_run.by_scan.get((*contrasts, system), {}) for scored_run in (first, run)
            )
            for column in in_order(first_figures.keys() & run_figures.keys()):
                for subject, value in first_figures[column].items():
                    run_value = run_figures[column].get(subject, float("nan"))
                    if not _same(value, run_value):
                        title = f"{system}, {' → '.join(contrasts)}, {column} of {subject} (so the images differ)"
                        yield title, f"{value:.4g}", f"{run_value:.4g}"
                        return


def _same(first: float, second: float) -> bool:
    return isclose(first, second, rel_tol=CLOSE, abs_tol=1e-6) or (first != first and second != second)  # both NaN


def _name_differences(title: str, first_names: set[str], run_names: set[str]) -> tuple[str, str, str]:
    """Return a title and the names that only one of the runs has, as texts."""
    return title, _exclusive_names(first_names - run_names), _exclusive_names(run_names - first_names)


def _exclusive_names(names: set[str]) -> str:
    listed = ", ".join(sorted(names)[:SHOWN_NAMES])
    remainder = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return f"{listed}{remainder} only" if names else "none of its own"
