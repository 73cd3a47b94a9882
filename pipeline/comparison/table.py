"""A comparison as data: for each direction every method's figures, and its difference to the best run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, isnan
from statistics import fmean

from pipeline.comparison.columns import RANKING, badness, in_order, tested
from pipeline.comparison.runs import Contrasts, Figures, FinishedRun, subjects_by_scan
from pipeline.comparison.statistics import Difference, holm, paired_difference
from pipeline.metrics.names import COPY, HISTOGRAM, LOOKUP, MODEL
from pipeline.metrics.protocols import summarise
from pipeline.tracking.mlflow_run import flatten
from pipeline.training.history import extension_text, start_text

FEWEST_FOR_SIGNIFICANCE = 6  # subjects: 2/2⁶ is the first below 0.05
RUN, BOUND, BASELINE = "run", "paired bound", "baseline"
# Names, paths and settings that change no result; differences in them are not listed.
UNINTERESTING = (
    "name", "output", "data.folder", "split.file", "split.seed", "split.test", "split.validation", "tracking.",
    "preprocess.store", "preprocess.processes", "evaluation.", "threads", "device", "training.sample_",
    "training.checkpoint_minutes", "training.loader_workers", "training.log_every", "training.cuda_graph",
    "training.slices_on_device",
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """Mean and sample SD over `n` test subjects; one with several sessions counts once, with their mean."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Row:
    """One method in one direction.

    Attributes:
        label: Name of the run or the baseline.
        kind: "run", "paired bound" or "baseline".
        method: Name of the method, such as "cyclegan"; "" for a baseline.
        used_pairs: Whether it was trained or fitted on pairs; such rows cannot be the best run.
        values: Column -> figure.
        differences: Column -> difference to the best run; empty for that run itself.
        run: The finished run; None for a baseline.
    """

    label: str
    kind: str
    method: str
    used_pairs: bool
    values: Mapping[str, Value]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    run: FinishedRun | None = None


@dataclass(frozen=True)
class Direction:
    """All methods in one direction.

    Attributes:
        contrasts: Source and target contrast.
        columns: Columns "region/metric", in the order of display.
        rows: The runs, then the baselines.
        reference: Label of the best run by mean PSNR inside the head, to which all others are compared; a paired bound
            only if there are no other runs.
        leaders: Column -> label of the best row without pairs (of all rows if every run used pairs).
    """

    contrasts: Contrasts
    columns: list[str]
    rows: list[Row]
    reference: str
    leaders: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """A comparison of runs.

    Attributes:
        runs: The compared runs.
        directions: The table of each direction.
        settings: Setting in which the runs differ -> its value in each run.
        notes: Further remarks for readers.
    """

    runs: list[FinishedRun]
    directions: list[Direction]
    settings: Mapping[str, list[str]]
    notes: list[str]


def compare(runs: Sequence[FinishedRun]) -> Comparison:
    """Compare runs that passed `pipeline.comparison.comparability.require_comparable`."""
    directions = [
        _direction(scored_runs, contrasts)
        for contrasts in runs[0].directions
        if (scored_runs := [run for run in runs if _is_scored(run, contrasts)])
    ]
    notes = [*_sample_size_notes(runs[0], max(len(direction.rows) for direction in directions) - 1), *_run_notes(runs)]
    return Comparison(list(runs), directions, _differing_settings(runs), notes)


def _direction(runs: Sequence[FinishedRun], contrasts: Contrasts) -> Direction:
    """Return the table of one direction."""
    # Collect the figures of runs and baselines.
    rows = [
        Row(
            run.label,
            BOUND if run.is_bound else RUN,
            run.method,
            run.is_bound,
            _values(run, contrasts, MODEL),
            run=run,
        )
        for run in runs
    ]
    baseline_run = _baseline_run(runs)
    rows += [
        Row(system, BASELINE, "", system == LOOKUP, values)
        for system in (COPY, HISTOGRAM, LOOKUP)
        if (values := _values(baseline_run, contrasts, system))
    ]
    figures = [_figures(row.run or baseline_run, contrasts, MODEL if row.run else row.label) for row in rows]
    columns = in_order(
        column
        for column in set.intersection(*(set(row.values) for row in rows if row.run))
        if any(not isnan(row.values[column].mean) for row in rows if row.run)
    )

    # Find the best run, and compare all others with it.
    trained = [index for index, row in enumerate(rows) if row.run]
    rivals = [index for index in trained if not rows[index].used_pairs] or trained
    best = min(rivals, key=lambda index: _badness(rows[index], RANKING))
    differences = _differences(figures, best, columns)
    eligible = [row for row in rows if not row.used_pairs] if any(not rows[i].used_pairs for i in trained) else rows
    return Direction(
        contrasts,
        columns,
        [replace(row, differences=row_differences) for row, row_differences in zip(rows, differences, strict=True)],
        rows[best].label,
        {column: min(eligible, key=lambda row: _badness(row, column)).label for column in columns},
    )


def _is_scored(run: FinishedRun, contrasts: Contrasts) -> bool:
    """Whether a run's model was scored in a direction."""
    return RANKING in run.by_scan.get((*contrasts, MODEL), {})


def _baseline_run(runs: Sequence[FinishedRun]) -> FinishedRun:
    """Return the run whose baselines are shown: an unpaired one, since a paired bound may train on more subjects."""
    return next((run for run in runs if not run.is_bound), runs[0])


def _values(run: FinishedRun, contrasts: Contrasts, system: str) -> dict[str, Value]:
    """Return a system's mean and SD over subjects, by column."""
    columns = _by_subject(run, run.by_scan.get((*contrasts, system), {})).items()
    return {
        column: Value(*summarise([{column: value} for value in values.values()])[column]) for column, values in columns
    }


def _figures(run: FinishedRun, contrasts: Contrasts, system: str) -> Figures:
    """Return the values used for differences, by column and subject."""
    scans = run.by_scan.get((*contrasts, system), {})
    return _by_subject(
        run,
        {column: {scan: tested(column, value) for scan, value in values.items()} for column, values in scans.items()},
    )


def _by_subject(run: FinishedRun, figures: Figures) -> Figures:
    """Average figures over each subject's sessions, which are not independent.

    NaN figures are left out; a subject with no other figure gets NaN.
    """
    subject_of = dict(subjects_by_scan(run))
    averaged: Figures = {}
    for column, values in figures.items():
        grouped: dict[str, list[float]] = {}
        for scan, value in values.items():
            grouped.setdefault(subject_of.get(scan, scan), []).extend([] if isnan(value) else [value])
        averaged[column] = {
            subject: fmean(session_values) if session_values else float("nan")
            for subject, session_values in grouped.items()
        }
    return averaged


def _differences(figures: Sequence[Figures], best: int, columns: Sequence[str]) -> list[dict[str, Difference]]:
    """Return each row's differences to the best run; the p-values of a column are corrected as one family."""
    differences: list[dict[str, Difference]] = [{} for _ in figures]
    for column in columns:
        compared_rows = [index for index, row in enumerate(figures) if index != best and column in row]
        column_differences = [
            paired_difference(figures[index][column], figures[best][column]) for index in compared_rows
        ]
        corrected = holm([difference.p for difference in column_differences])
        for index, difference, p_holm in zip(compared_rows, column_differences, corrected, strict=True):
            differences[index][column] = replace(difference, p_holm=p_holm)
    return differences


def _badness(row: Row, column: str) -> float:
    value = row.values[column].mean if column in row.values else float("nan")
    return float("inf") if isnan(value) else badness(column, value)


def _differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Return the settings in which the runs differ; "—" for a method without such a setting."""
    settings = [flatten(run.config.model_dump(mode="json")) for run in runs]
    keys = dict.fromkeys(key for run_settings in settings for key in run_settings if not key.startswith(UNINTERESTING))
    values = {key: [run_settings.get(key, "—") for run_settings in settings] for key in keys}
    return {key: run_values for key, run_values in values.items() if len(set(run_values)) > 1}


def _sample_size_notes(run: FinishedRun, comparisons: int) -> list[str]:
    """Return notes on the limits of so few test subjects."""
    scans = [name for name, _ in subjects_by_scan(run)]
    subjects = len({subject for _, subject in subjects_by_scan(run)})
    notes = []
    if subjects < FEWEST_FOR_SIGNIFICANCE:
        notes.append(
            f"{subjects} test subject{'s' if subjects > 1 else ''}: an exact two-sided signed-rank p cannot fall below "
            "2/2ⁿ, so fewer than 6 pairs cannot reach 0.05; below 5 no p is given. Bootstrap intervals of so few "
            "subjects are too narrow."
        )
    elif (smallest := comparisons * 2 / 2**subjects) > 0.05:
        notes.append(
            f"{subjects} test subjects: corrected for {comparisons} comparisons, the lowest of the p-values cannot "
            f"fall below {smallest:.3f} ({comparisons} × 2/2ⁿ)."
        )
    if subjects < len(scans):
        notes.append(
            "Some subjects have several sessions: every mean, interval and test here takes each subject's mean, where "
            "the runs' own reports count sessions."
        )
    return notes


def _run_notes(runs: Sequence[FinishedRun]) -> list[str]:
    """Return notes on differences between the runs that affect the comparison."""
    notes = []
    hardware = dict.fromkeys(run.hardware for run in runs if run.hardware)
    if len(hardware) > 1:
        notes.append(f"The runs trained on different devices or settings ({'; '.join(hardware)}): compare no seconds.")
    unknown = [run.label for run in runs if not run.record]
    if unknown:
        notes.append(f"No run.json, so neither seconds nor parameters: {', '.join(unknown)}; run again to have them.")
    for run in runs:
        if warnings := run.record.get("warnings"):
            notes.append(
                f"{run.label} was warned of in training, and it still stood at the end: {'; '.join(warnings)}."
            )
        if start := run.record.get("started_from"):
            notes.append(f"{run.label} began from the weights of {start_text(start)}; its steps come on top.")
        for extension in run.record.get("extensions", []):
            notes.append(f"{run.label} was {extension_text(extension)}: not what so many epochs from the start give.")
    bounds = [run.label for run in runs if run.is_bound]
    if bounds and len(bounds) < len(runs):
        unpaired_run = _baseline_run(runs)
        cohorts = [f"{run.label} trained on {_cohort_text(run, unpaired_run)}" for run in runs if run.is_bound]
        notes.append(
            f"Paired bound: {'; '.join(cohorts)}. The others never saw pairs; a bound shows what pairs would be "
            f"worth, and takes no part in who is best. Baselines are those of {unpaired_run.label}."
        )
    return notes


def _cohort_text(bound: FinishedRun, other: FinishedRun) -> str:
    """Describe the training subjects of a bound relative to those of an unpaired run."""
    bound_subjects, other_subjects = (
        {name.partition("/")[0] for names in run.split["train"].values() for name in names} for run in (bound, other)
    )
    if bound_subjects == other_subjects:
        return "pairs of the same training subjects"
    shared = len(bound_subjects & other_subjects)
    count = f"{len(bound_subjects)} training subject{'s' if len(bound_subjects) > 1 else ''}"
    return f"pairs of {count}, {shared or 'none'} of them among the others' {len(other_subjects)}"


def is_known(value: Value | None) -> bool:
    """Whether a figure exists and is finite."""
    return value is not None and isfinite(value.mean)
