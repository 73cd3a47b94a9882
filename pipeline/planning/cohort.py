"""Names of the subjects of training, validation and test, for `--dry-run`."""

from collections.abc import Sequence
from textwrap import wrap

from pipeline.config.schema import Config
from pipeline.data.case import Case
from pipeline.data.splits import CohortSplit
from pipeline.utils.console import table

FEW = 4  # names in a line of the short form
WIDTH = 120  # characters


def subject_names(config: Config, split: CohortSplit, *, every: bool) -> str:
    """Return the names of the split's subjects as text.

    Args:
        config: Configuration of the run.
        split: Subjects of training, validation and test.
        every: Whether to print one line per subject, with its subset and contrasts. Otherwise each subset and contrast
            gets its first few names and the number of the others.
    """
    return _subject_table(config, split) if every else _subject_lists(config, split)


def _cases_by_subset(config: Config, split: CohortSplit) -> dict[str, list[Case]]:
    training = [case for contrast in config.contrasts for case in split.train[contrast]]
    return {"train": training, "validation": list(split.validation), "test": list(split.test)}


def _subject_table(config: Config, split: CohortSplit) -> str:
    rows = []
    for name, cases in _cases_by_subset(config, split).items():
        scanned = {(case.subject, case.contrast) for case in cases}
        for subject in _subjects(cases):
            rows.append((name, subject, " ".join(kind for kind in config.contrasts if (subject, kind) in scanned)))
    return table(["split", "subject", "contrasts"], rows)


def _subject_lists(config: Config, split: CohortSplit) -> str:
    lines, shortened = [], False
    for name, cases in _cases_by_subset(config, split).items():
        for contrast in config.contrasts:
            subjects = _subjects([case for case in cases if case.contrast == contrast])
            hidden = len(subjects) - FEW
            shortened |= hidden > 0
            names = ", ".join(subjects[:FEW]) + (f" and {hidden:,} more" if hidden > 0 else "")
            heading = f"{name} {contrast}"
            lines += wrap(f"{heading:<14} {names or 'none'}", WIDTH, subsequent_indent=15 * " ", break_long_words=False)
    return "\n".join([*lines, *(["(--verbose names every subject)"] if shortened else [])])


def _subjects(cases: Sequence[Case]) -> list[str]:
    return sorted({case.subject for case in cases})
