"""Parallel evaluation of test subjects: workers read, this process translates, workers score and draw.

Results are collected in the subjects' order, so they are the same for any number of workers. Few subjects are in memory
at a time.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.data.case import Case
from pipeline.data.pairs import PairReader, PreparedScan, View
from pipeline.evaluation.scores import Scores, SubjectScore
from pipeline.utils.console import ProgressBar
from pipeline.utils.errors import DiskFull, Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool

logger = logging.getLogger(__name__)

READ_AHEAD = 3  # subjects: reading a pair takes a tenth of the time of scoring it, and 0.2 GB until it is scored
PRELOAD = ["transforms.monai_transforms", "pipeline.evaluation.evaluate"]

Pair = tuple[Case, Case]


@dataclass(frozen=True)
class Translation:
    """A test scan and its translation, which scoring and callbacks share.

    Attributes:
        case: The source's case.
        to: The target contrast.
        scan: The source, prepared for the network.
        slices: (N, H, W) in [-1, 1], the translated slices, still padded.
        view: The real target on the source's grid; None where there is none.
    """

    case: Case
    to: str
    scan: PreparedScan
    slices: np.ndarray
    view: View | None = None


class EvaluationCallback(Protocol):
    """Draws or writes translations: the slow part in a worker process, the state in this one."""

    def job(self, translation: Translation) -> Callable[[Translation], object] | None:
        """Return a picklable function that a worker calls with the translation; None to leave it out."""

    def take(self, case: Case, result: object) -> None:
        """Take the function's result, in the order of the translations."""


# A subject's name, the reason why it could not be read, and functions that wait for its results.
PendingSubject = tuple[str, str | None, list[Callable[[], object]]]
# By the name of a callback: the result of its job, or the reason why it failed.
_CallbackResults = dict[str, tuple[object, str | None]]


def read_pair(reader: PairReader, pair: Pair) -> tuple[View, View, np.ndarray] | str:
    """Return `PairReader.read` of a pair, or the reason why it cannot be used. Runs in a worker."""
    try:
        return reader.read(pair)
    except DiskFull:  # no fault of the pair's: a report without it would pass for a whole one
        raise
    except UserError as error:
        return str(error)


def read_scan(reader: PairReader, case: Case) -> PreparedScan | str:
    """Return `PairReader.scan` of an image, or the reason why it cannot be used. Runs in a worker."""
    try:
        return reader.scan(case.path)
    except UserError as error:
        return str(error)


def submit(
    workers: WorkerPool,
    score: Callable[[Translation], list[SubjectScore]],
    translation: Translation,
    callbacks: Mapping[str, EvaluationCallback],
) -> Callable[[], object]:
    """Have a worker score a translation and run the callbacks' jobs; return a function that waits for the result."""
    jobs = {name: job for name, callback in callbacks.items() if (job := callback.job(translation)) is not None}
    return workers.submit(_score_and_run_callbacks, score, jobs, translation)


def _score_and_run_callbacks(
    score: Callable[[Translation], list[SubjectScore]],
    jobs: Mapping[str, Callable[[Translation], object]],
    translation: Translation,
) -> tuple[Case, list[SubjectScore], _CallbackResults]:
    results: _CallbackResults = {}
    for name, job in jobs.items():
        try:
            results[name] = job(translation), None
        except (UserError, Stopped):
            raise
        except Exception as error:  # a failed picture must not cost the scores
            results[name] = None, first_cause(error)
    return translation.case, score(translation), results


def collect(
    scores: Scores,
    pending_subjects: Iterator[PendingSubject],
    callbacks: Mapping[str, EvaluationCallback],
    workers: WorkerPool,
    bar: ProgressBar,
) -> None:
    """Collect the results in `scores` and `callbacks`, subject by subject, while workers score the next ones."""
    waiting: deque[PendingSubject] = deque()

    def take_next() -> None:
        name, reason, jobs = waiting.popleft()
        if reason is not None:
            scores.failures[name] = reason
            logger.warning(f"{name}: {reason}; left out of the evaluation")
        for job in jobs:
            case, scored, results = job()
            scores.subjects += scored
            for product, (result, failure) in results.items():
                if failure is None:
                    callbacks[product].take(case, result)
                else:
                    logger.warning(f"{case.path}: left out of the {product} ({failure}); its scores stand")
        bar.update()

    with bar:
        for subject in pending_subjects:
            waiting.append(subject)
            while sum(len(jobs) for _, _, jobs in waiting) > (workers.processes if workers.processes > 1 else 0):
                take_next()
        while waiting:
            take_next()
