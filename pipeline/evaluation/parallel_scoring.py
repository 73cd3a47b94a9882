"""Test subjects on their way through an evaluation: workers read, this process translates, workers score and draw.

What a subject gives is taken in order, so the result is the same for any number of workers, and few subjects are held
in memory at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pipeline.data.case import Case
from pipeline.data.pairs import PairReader, PreparedScan, View
from pipeline.evaluation.scores import Scores, SubjectScore
from pipeline.utils.console import ProgressBar, warn
from pipeline.utils.errors import Stopped, UserError, first_cause
from pipeline.utils.workers import WorkerPool

READ_AHEAD = 3  # subjects: a pair takes a tenth of the time to read that it takes to score, and 0.2 GB to wait
PRELOAD = ["transforms.slice_chain", "pipeline.evaluation.evaluate"]

Pair = tuple[Case, Case]


@dataclass(frozen=True)
class Translation:
    """A test scan and what the model made of it: whoever wants to draw or to keep it need not make it again.

    Attributes:
        case: The source.
        to: The target contrast.
        scan: The source as the network took it.
        slices: (N, H, W) in [-1, 1], translated, still padded.
        view: The real target on the source's grid, None where there is none.
    """

    case: Case
    to: str
    scan: PreparedScan
    slices: np.ndarray
    view: View | None = None


class EvaluationCallback(Protocol):
    """Draws or writes translations: what takes long in a worker process, what it remembers in this one."""

    def job(self, translation: Translation) -> Callable[[Translation], object] | None:
        """Return what a worker is to call with the translation, of a module; None where it is not wanted."""

    def take(self, case: Case, result: object) -> None:
        """Take what the job returned, in the order of the translations."""


PendingSubject = tuple[
    str, str | None, list[Callable[[], object]]
]  # a subject, why it was not read, what waits for results
_CallbackResults = dict[
    str, tuple[object, str | None]
]  # by what a keeper makes: what its job returned, or why it failed


def read_pair(reader: PairReader, pair: Pair) -> tuple[View, View, np.ndarray] | str:
    """Return what `PairReader.read` does, or the reason why a pair cannot be used: in a worker, where one is free."""
    try:
        return reader.read(pair)
    except UserError as error:
        return str(error)


def read_scan(reader: PairReader, case: Case) -> PreparedScan | str:
    """Return what `PairReader.scan` does, or the reason why an image cannot be used."""
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
    """Have a worker score and keep a translation, which travels there once."""
    jobs = {name: job for name, keeper in callbacks.items() if (job := keeper.job(translation)) is not None}
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
        except Exception as error:  # whatever a picture runs into, the scores are what the evaluation is for
            results[name] = None, first_cause(error)
    return translation.case, score(translation), results


def collect(
    scores: Scores,
    pending_subjects: Iterator[PendingSubject],
    callbacks: Mapping[str, EvaluationCallback],
    workers: WorkerPool,
    bar: ProgressBar,
) -> None:
    """Take the results in, subject by subject, while workers are at the next ones."""
    waiting: deque[PendingSubject] = deque()

    def take_next() -> None:
        name, reason, jobs = waiting.popleft()
        if reason is not None:
            scores.failures[name] = reason
            warn(f"warning: {name}: {reason}; left out of the evaluation")
        for job in jobs:
            case, scored, results = job()
            scores.subjects += scored
            for product, (result, failure) in results.items():
                if failure is None:
                    callbacks[product].take(case, result)
                else:
                    warn(f"warning: {case.path}: left out of the {product} ({failure}); its scores stand")
        bar.update()

    with bar:
        for subject in pending_subjects:
            waiting.append(subject)
            while sum(len(jobs) for _, _, jobs in waiting) > (workers.processes if workers.processes > 1 else 0):
                take_next()
        while waiting:
            take_next()
