"""Remarks on a comparison for its readers: too few subjects, unequal conditions, settings that differ."""

from collections.abc import Sequence

from pipeline.comparison.runs import FinishedRun
from pipeline.tracking.mlflow_run import flatten
from pipeline.training.resume import extension_text, pairs_text, start_text
from pipeline.training.schedule import NOT_OF_TRAINING

FEWEST_FOR_SIGNIFICANCE = 6  # subjects: 2/2⁶ is the first below 0.05
# Names, paths and settings that change no result; differences in them are not listed.
UNINTERESTING = (
    "name", "output", "data.folder", "split.file", "split.seed", "split.test", "split.validation", "tracking.",
    "preprocess.store", "preprocess.processes", "evaluation.", "threads", "device", "training.sample_",
    "training.checkpoint_minutes", "training.log_every", "training.cuda_graph",
    "training.slices_on_device",
)  # fmt: skip


def differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Return the settings in which the runs differ; "—" for a method without such a setting."""
    settings = [flatten(run.settings) for run in runs]
    keys = dict.fromkeys(key for run_settings in settings for key in run_settings if not key.startswith(UNINTERESTING))
    values = {key: [run_settings.get(key, "—") for run_settings in settings] for key in keys}
    return {key: run_values for key, run_values in values.items() if len(set(run_values)) > 1}


def sample_size_notes(run: FinishedRun, comparisons: int) -> list[str]:
    """Return notes on the limits of so few test subjects."""
    subjects = len(set(run.subject_of.values()))
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
    if subjects < len(run.subject_of):
        notes.append(
            "Some subjects have several sessions: every mean, interval and test here takes each subject's mean, where "
            "the runs' own reports count sessions."
        )
    return notes


def run_notes(runs: Sequence[FinishedRun]) -> list[str]:
    """Return notes on differences between the runs that affect the comparison."""
    notes = []
    hardware = dict.fromkeys(run.hardware for run in runs if run.hardware)
    if len(hardware) > 1:
        notes.append(f"The runs trained on different devices or settings ({'; '.join(hardware)}): compare no seconds.")
    for run in runs:
        if warnings := run.record.get("warnings"):
            notes.append(
                f"{run.label} was warned of in training, and it still stood at the end: {'; '.join(warnings)}."
            )
        notes += [f"{run.label}, {note}." for note in run.score_notes if NOT_OF_TRAINING in note]
        if start := run.record.get("started_from"):
            notes.append(f"{run.label} began from the weights of {start_text(start)}; its steps come on top.")
        if pairs := run.split["pairs"]:
            notes.append(f"{run.label} was shown {pairs_text(pairs)}; an unpaired method sees none.")
        for extension in run.record.get("extensions", []):
            notes.append(f"{run.label} was {extension_text(extension)}: not what so many epochs from the start give.")
    bounds, unpaired = ([run for run in runs if run.is_bound is is_bound] for is_bound in (True, False))
    if bounds and unpaired:
        counts = "; ".join(f"{run.label} trained on pairs of {_training_subjects(run)} subjects" for run in bounds)
        has_pairs = any(run.split["pairs"] for run in unpaired)
        statement = "saw no pairs but those named above" if has_pairs else "never saw pairs"
        notes.append(
            f"Paired bound: {counts}. The others {statement} (those of {unpaired[0].label}: "
            f"{_training_subjects(unpaired[0])} subjects); a bound takes no part in who is best. Baselines are those "
            f"of {unpaired[0].label}."
        )
    return notes


def _training_subjects(run: FinishedRun) -> int:
    """Return the number of subjects that a run trained on, in either contrast."""
    return len({name.partition("/")[0] for names in run.split["train"].values() for name in names})
