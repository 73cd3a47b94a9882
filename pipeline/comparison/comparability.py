"""Whether runs may be compared: same data, split, preprocessing and protocol; differences are named."""

from collections.abc import Iterator, Sequence
from math import isclose

from pipeline.comparison.runs import FinishedRun, Settings
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, OWN
from pipeline.utils.console import shortlist
from pipeline.utils.errors import UserError

CLOSE = 1e-3  # relative tolerance for baselines computed with other versions of libraries

# Settings that decide what is measured, and on which images; other settings may differ between methods.
PREPROCESS = ("axis", "spacing_mm", "size", "n4", "scaling", "percentiles", "min_foreground", "coverage_mm")
EVALUATION = ("checkpoint", "register_pairs")

Difference = tuple[str, str, str]  # what differs, its value in the first run and in the other
REFUSAL = (
    "these runs cannot be compared, for their figures do not mean the same; leave out those that differ, or run them "
    "again on one data, split (split.file), preprocess and evaluation:"
)


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Refuse runs whose figures do not mean the same by a UserError that names every difference with both values.

    Each run is compared with the first, and then with the first of its kind: a paired bound trains on other images, and
    may differ in `split.pairing`.
    """
    problems = []
    for run in runs[1:]:
        first_of_kind = next(candidate for candidate in runs if candidate.is_bound == run.is_bound)
        problems += _problems(runs[0], run) or _problems(first_of_kind, run)
    if problems:
        raise UserError("\n  ".join([REFUSAL, *problems]))


def setting_differences(first: Settings, second: Settings) -> Iterator[tuple[str, object, object]]:
    """Yield (key, first value, second value) of the settings whose difference forbids a comparison."""
    if sorted(first["contrasts"]) != sorted(second["contrasts"]):
        yield "contrasts", list(first["contrasts"]), list(second["contrasts"])
    # The folder may have been moved, and a region that only one of the runs measures is left out of the comparison.
    data_keys = [name for name in {**first["data"], **second["data"]} if name not in ("folder", "regions")]
    for section, names in {"data": data_keys, "preprocess": PREPROCESS, "evaluation": EVALUATION}.items():
        for name in names:
            first_value, second_value = first[section].get(name), second[section].get(name)
            if first_value != second_value:
                yield f"{section}.{name}", first_value, second_value
    first_regions, second_regions = (settings["data"].get("regions", {}) for settings in (first, second))
    for name in first_regions.keys() & second_regions.keys():
        if first_regions[name] != second_regions[name]:
            yield f"data.regions.{name}", first_regions[name], second_regions[name]


def _problems(first: FinishedRun, run: FinishedRun) -> list[str]:
    """Return the differences that forbid a comparison of two runs; those that follow from others are left out."""
    settings = setting_differences(first.settings, run.settings)
    differences = [(key, repr(value), repr(run_value)) for key, value, run_value in settings]
    differences += _split_differences(first, run)
    if first.protocols[OWN] != run.protocols[OWN]:
        differences.append(("our own protocol", repr(first.protocols[OWN]), repr(run.protocols[OWN])))
    differences = differences or [*_scored_differences(first, run)] or [*_baseline_differences(first, run)][:1]
    return [f"{key}: {value} in {first.folder}, {run_value} in {run.folder}" for key, value, run_value in differences]


def _split_differences(first: FinishedRun, run: FinishedRun) -> Iterator[Difference]:
    for subset in ("validation", "test"):
        yield from _name_differences(f"{subset} subjects", first.split[subset], run.split[subset])
    # A bound trains on pairs, and pairs beside unpaired training are in both contrasts: on other images, both.
    if first.is_bound == run.is_bound and first.split["pairs"] == run.split["pairs"]:
        for contrast in first.settings["contrasts"]:
            names = (side.split["train"].get(contrast, []) for side in (first, run))
            yield from _name_differences(f"training {contrast} subjects", *names)


def _scored_differences(first: FinishedRun, run: FinishedRun) -> Iterator[Difference]:
    for contrasts in first.directions:
        names = (
            [name for values in side.by_scan.get((*contrasts, COPY), {}).values() for name in values]
            for side in (first, run)
        )
        yield from _name_differences(f"test subjects that could be scored, {' → '.join(contrasts)}", *names)


def _baseline_differences(first: FinishedRun, run: FinishedRun) -> Iterator[Difference]:
    """Yield baseline figures that differ: of the copied input or, with equal training subjects, of any baseline.

    Equal data, preprocessing and protocol give equal baselines, so a different figure means a different image.
    """
    same_training = first.split["train"] == run.split["train"]
    for contrasts in first.directions:
        # The context lookup's fit is left out: it may differ between releases.
        for system in (COPY, HISTOGRAM, LOOKUP) if same_training else (COPY,):
            first_figures, run_figures = (side.by_scan.get((*contrasts, system), {}) for side in (first, run))
            for column in (column for column in first_figures if column in run_figures):
                for subject, value in first_figures[column].items():
                    run_value = run_figures[column].get(subject, float("nan"))
                    both_nan = value != value and run_value != run_value
                    if not both_nan and not isclose(value, run_value, rel_tol=CLOSE, abs_tol=1e-6):
                        title = f"{system}, {' → '.join(contrasts)}, {column} of {subject} (so the images differ)"
                        yield title, f"{value:.4g}", f"{run_value:.4g}"


def _name_differences(title: str, first_names: Sequence[str], run_names: Sequence[str]) -> Iterator[Difference]:
    """Yield the names that only one of the runs has, if there are any."""
    first_only, run_only = ({*first_names} - {*run_names}), ({*run_names} - {*first_names})
    if first_only or run_only:
        texts = [f"{shortlist(sorted(side))} only" if side else "none of its own" for side in (first_only, run_only)]
        yield title, texts[0], texts[1]
