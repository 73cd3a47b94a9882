"""A comparison as data: for each direction every method's figures, and its paired differences to the best run."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from statistics import fmean

import numpy as np
from scipy.stats import bootstrap, wilcoxon

from pipeline.comparison.notes import differing_settings, run_notes, sample_size_notes
from pipeline.comparison.runs import RANKING, Contrasts, Figures, FinishedRun
from pipeline.metrics import names
from pipeline.metrics.names import BASELINES, LOOKUP, MODEL, START
from pipeline.metrics.protocols import Summary, summarise

RUN, BOUND, BASELINE = "run", "paired bound", "baseline"
FEWEST = 5  # pairs for a test; the smallest exact two-sided p is 2/2^n, which falls below 0.05 with six
RESAMPLES, LEVEL, SEED = 10_000, 0.95, 0


@dataclass(frozen=True)
class Difference:
    """Difference between two methods over the `n` subjects that both have."""

    mean: float
    low: float  # 95 % bootstrap interval of the mean; NaN with fewer than two subjects
    high: float
    p: float | None  # of the two-sided Wilcoxon signed-rank test; None if too few subjects
    n: int
    p_holm: float | None = None  # corrected for the other comparisons of its family; see `holm`


@dataclass(frozen=True)
class Row:
    """One method in one direction: a run, or a baseline.

    Attributes:
        values: Column -> mean and SD over test subjects; one with several sessions counts once, with their mean.
        differences: Column -> difference to the best run; empty for that run itself.
    """

    label: str
    run: FinishedRun | None
    values: Mapping[str, Summary]
    differences: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """ "run", "paired bound" or "baseline"."""
        return BASELINE if self.run is None else BOUND if self.run.is_bound else RUN

    @property
    def title(self) -> str:
        """The method for readers; its label is for files."""
        return names.system_title(self.label) if self.run is None else self.label

    @property
    def used_pairs(self) -> bool:
        """Whether the method was trained or fitted on pairs, or on some; such rows cannot be the best run."""
        return self.label == LOOKUP if self.run is None else self.run.saw_pairs

    def badness(self, column: str) -> float:
        """Return a number that is lower for a better mean; infinite for none."""
        mean = self.values[column].mean if column in self.values else float("nan")
        return float("inf") if isnan(mean) else names.badness(metric_of(column), mean)


@dataclass(frozen=True)
class Direction:
    """All methods in one direction.

    Attributes:
        columns: Columns "region/metric", in the order of display.
        region_columns: Columns of the regions that the configurations name, which are not tested.
        rows: The runs, then the baselines.
        best: The best run by mean PSNR inside the head, to which all others are compared; a paired bound only if there
            are no other runs.
        leaders: Column -> label of the best row without pairs (of all rows if every run used pairs).
    """

    contrasts: Contrasts
    columns: list[str]
    rows: list[Row]
    best: Row
    leaders: Mapping[str, str]
    region_columns: Sequence[str] = ()


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs: the table of each direction, and remarks for readers."""

    runs: list[FinishedRun]
    directions: list[Direction]
    settings: Mapping[str, list[str]]  # setting in which the runs differ -> its value in each run
    notes: list[str]


def metric_of(column: str) -> str:
    """Return the metric of a column "region/metric"."""
    return column.rpartition("/")[2]


def region_of(column: str) -> str:
    """Return the region of a column "region/metric"."""
    return column.rpartition("/")[0]


def compare(runs: Sequence[FinishedRun]) -> Comparison:
    """Compare runs that passed `pipeline.comparison.comparability.require_comparable`."""
    directions = [
        _direction(scored_runs, contrasts)
        for contrasts in runs[0].directions
        if (scored_runs := [run for run in runs if RANKING in run.by_scan.get((*contrasts, MODEL), {})])
    ]
    comparisons = max(len(direction.rows) for direction in directions) - 1
    notes = [*sample_size_notes(runs[0], comparisons), *run_notes(runs)]
    return Comparison(list(runs), directions, differing_settings(runs), notes)


def _direction(runs: Sequence[FinishedRun], contrasts: Contrasts) -> Direction:
    """Return the table of one direction."""
    # Collect the figures of runs, and of the baselines of an unpaired one, since a bound may train on more subjects.
    figures = {run.label: _by_subject(run, contrasts, MODEL) for run in runs}
    baseline_run = next((run for run in runs if not run.is_bound), runs[0])
    baselines = {system: _by_subject(baseline_run, contrasts, system) for system in BASELINES}
    baselines |= _starts(runs, contrasts)
    figures |= {system: columns for system, columns in baselines.items() if columns}
    runs_by_label = {run.label: run for run in runs}
    rows = [Row(label, runs_by_label.get(label), _summaries(columns)) for label, columns in figures.items()]
    trained = [row for row in rows if row.run]
    shared = set.intersection(*(set(row.values) for row in trained))
    all_columns = in_order(column for column in shared if any(not isnan(row.values[column].mean) for row in trained))
    columns = [column for column in all_columns if not names.is_named(region_of(column))]

    # Find the best run, and compare all others with it.
    unpaired = [row for row in trained if not row.used_pairs]
    best = min(unpaired or trained, key=lambda row: row.badness(RANKING))
    differences = _differences(figures, best.label, columns)
    candidates = [row for row in rows if not row.used_pairs] if unpaired else rows
    return Direction(
        contrasts,
        columns,
        [replace(row, differences=differences[row.label]) for row in rows],
        best,
        {column: min(candidates, key=lambda row: row.badness(column)).label for column in columns},
        [column for column in all_columns if names.is_named(region_of(column))],
    )


def _starts(runs: Sequence[FinishedRun], contrasts: Contrasts) -> dict[str, Figures]:
    """Return the figures of what runs began with by a label that names them; a start that several share comes once."""
    labels: dict[str, list[str]] = {}
    figures: dict[str, Figures] = {}
    for run in runs:
        columns = _by_subject(run, contrasts, START)
        identity = json.dumps(columns, sort_keys=True)
        figures[identity] = columns
        labels.setdefault(identity, []).append(run.label)
    return {f"{', '.join(labels[identity])}, {START}": columns for identity, columns in figures.items()}


def in_order(columns: Iterable[str]) -> list[str]:
    """Return columns in the usual order of metrics; unknown ones come last, by name."""
    rank = {metric: index for index, metric in enumerate(names.HEADINGS)}
    return sorted(columns, key=lambda column: (rank.get(metric_of(column), len(rank)), column))


def _by_subject(run: FinishedRun, contrasts: Contrasts, system: str) -> Figures:
    """Average a system's figures over each subject's sessions, which are not independent.

    NaN figures are left out; a subject with no other figure gets NaN.
    """
    means: Figures = {}
    for column, values in run.by_scan.get((*contrasts, system), {}).items():
        sessions: dict[str, list[float]] = {}
        for scan, value in values.items():
            sessions.setdefault(run.subject_of.get(scan, scan), []).extend([] if isnan(value) else [value])
        means[column] = {subject: fmean(group) if group else float("nan") for subject, group in sessions.items()}
    return means


def _summaries(figures: Figures) -> dict[str, Summary]:
    return {
        column: summarise([{column: value} for value in values.values()])[column] for column, values in figures.items()
    }


# ── statistics ──────────────────────────────────────────────────────────────────────────────────────────────


def _differences(figures: Mapping[str, Figures], best: str, columns: Sequence[str]) -> dict[str, dict[str, Difference]]:
    """Return each method's differences to the best run; the p-values of a column are corrected as one family."""
    differences: dict[str, dict[str, Difference]] = {label: {} for label in figures}
    for column in columns:
        by_label = {
            label: paired_difference(metric_of(column), figures[label][column], figures[best][column])
            for label in figures
            if label != best and column in figures[label]
        }
        corrected = holm([difference.p for difference in by_label.values()])
        for (label, difference), p_holm in zip(by_label.items(), corrected, strict=True):
            differences[label][column] = replace(difference, p_holm=p_holm)
    return differences


def paired_difference(metric: str, figures: Mapping[str, float], reference: Mapping[str, float]) -> Difference:
    """Return the difference of a method's figures to reference figures, both by subject; only finite ones count.

    Of a metric that is best at 1, distances from 1 are compared.
    """
    shared = sorted(figures.keys() & reference.keys())
    pairs = np.array([(figures[subject], reference[subject]) for subject in shared]).reshape(-1, 2)
    pairs = np.abs(pairs - 1) if names.one_is_best(metric) else pairs
    pairs = pairs[np.isfinite(pairs).all(axis=1)]
    differences = pairs[:, 0] - pairs[:, 1]
    mean = float(differences.mean()) if len(differences) else float("nan")
    return Difference(mean, *bootstrap_interval(differences), p=wilcoxon_p(differences), n=len(differences))


def bootstrap_interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean of (n,) differences (Efron 1979): 95 %, over subjects.

    Subjects are drawn 10,000 times, always from the same seed. With few subjects such an interval is too narrow. NaN
    with fewer than two.
    """
    if len(differences) < 2:
        return float("nan"), float("nan")
    options = {"confidence_level": LEVEL, "n_resamples": RESAMPLES, "random_state": np.random.default_rng(SEED)}
    interval = bootstrap((differences,), np.mean, method="percentile", **options).confidence_interval
    return float(interval.low), float(interval.high)


def wilcoxon_p(differences: np.ndarray) -> float | None:
    """Return the two-sided p of Wilcoxon's signed-rank test (1945) that (n,) differences are symmetric about 0.

    Zeros are dropped, as Wilcoxon did; SciPy computes p exactly for up to 50 without ties. None with fewer than five
    that are not zero.
    """
    signed = differences[differences != 0]
    return float(wilcoxon(signed).pvalue) if len(signed) >= FEWEST else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected by Holm's step-down method (1979); None (no test) stays None and is not counted."""
    tests = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(tests):
        highest = max(highest, min(1.0, (len(tests) - rank) * p))
        corrected[index] = highest
    return corrected
