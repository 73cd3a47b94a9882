"""Search for settings by Optuna: trials of a study that SQLite keeps, scored by validation."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.sweeping.sweep_jobs import PRUNED, SweepJob
from pipeline.utils.errors import EXIT_DONE, UserError, missing_package

logger = logging.getLogger(__name__)

STUDY = "sweep"
QUESTION = "question"  # the study's attribute that says what is searched
STARTUP_TRIALS, WARMUP_VALIDATIONS = 5, 2  # none is stopped early before so many are done, and it has had so many

Values = dict[str, float | int]


@dataclass(frozen=True)
class SearchRange:
    """The values of one setting that a search may propose, both ends among them."""

    key: str
    low: float
    high: float
    is_log: bool  # small and large values alike
    is_whole: bool

    def ends(self) -> tuple[str, str]:
        """Return the overrides of both ends."""
        low, high = (int(end) if self.is_whole else end for end in (self.low, self.high))
        return f"{self.key}={low}", f"{self.key}={high}"


def parse_range(text: str, is_whole: Callable[[str], bool]) -> SearchRange:
    """Return the range that `key=low..high` or `key=low..high:log` stands for; `is_whole` says which keys are whole.

    Raises:
        UserError: The text is no such range.
    """
    key, _, values = text.partition("=")
    ends, _, scale = values.partition(":")
    try:
        low, high = map(float, ends.split(".."))
        if not (key and scale in ("", "log") and math.isfinite(low) and math.isfinite(high)):
            raise ValueError
    except ValueError:
        raise UserError(f"--range {text}: is written key=low..high or key=low..high:log") from None
    if low >= high:
        raise UserError(f"--range {text}: the lower end comes first")
    if scale and low <= 0:
        raise UserError(f"--range {text}: a logarithmic range begins above 0")
    if is_whole(key) and not (low.is_integer() and high.is_integer()):
        raise UserError(f"--range {text}: {key} takes whole numbers")
    return SearchRange(key, low, high, bool(scale), is_whole(key))


class Search:
    """A study in a file: the same command goes on with it.

    Every proposal has a random state of its own, from its number: trials told alike are followed by the same proposals,
    in one session or several. A trial whose run failed stays open, and the next session does it again.
    `configuration` is a fingerprint of all beside the ranges that decides a trial's score.

    Raises:
        UserError: Optuna is not installed, or the file is that of another search.
    """

    def __init__(self, path: Path, ranges: Sequence[SearchRange], configuration: str):
        try:
            import optuna
            from sqlalchemy import URL
        except ImportError as error:
            raise missing_package("--search", "search", error) from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna = optuna
        self._distributions: dict[str, Any] = {
            item.key: optuna.distributions.IntDistribution(int(item.low), int(item.high), log=item.is_log)
            if item.is_whole
            else optuna.distributions.FloatDistribution(item.low, item.high, log=item.is_log)
            for item in ranges
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        address = URL.create("sqlite", database=str(path.absolute())).render_as_string()
        try:
            pruner = optuna.pruners.MedianPruner(STARTUP_TRIALS, WARMUP_VALIDATIONS + 1)
            self._study = optuna.create_study(
                storage=address, pruner=pruner, study_name=STUDY, direction="maximize", load_if_exists=True
            )
            question = {"ranges": sorted(map(repr, ranges)), "configuration": configuration}
            saved_question = self._study.user_attrs.get(QUESTION)
        except Exception as error:  # SQLAlchemy's, of a file that is no database or has another release's tables
            raise UserError(f"{path}: cannot be read ({error}); move it away to search anew") from error
        if saved_question is None:
            self._study.set_user_attr(QUESTION, question)
        elif saved_question != question:
            raise UserError(f"{path}: holds a search of another configuration or other ranges; choose another -o")

    def trials(self) -> dict[int, Values]:
        """Return the values of all trials by number."""
        return {trial.number: dict(trial.params) for trial in self._study.get_trials(deepcopy=False)}

    def scores(self) -> dict[int, float]:
        """Return the scores of the trials that have one, by number."""
        return {trial.number: trial.value for trial in self._in_state("COMPLETE")}

    def pending(self) -> list[int]:
        """Return the trials that were proposed and not told."""
        return [trial.number for trial in self._in_state("RUNNING")]

    def stopped_early(self) -> list[int]:
        """Return the trials that were stopped early."""
        return [trial.number for trial in self._in_state("PRUNED")]

    def propose(self) -> int:
        """Propose another trial; returns its number."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = self._optuna.samplers.TPESampler(seed=number)
        return self._study.ask(self._distributions).number

    def tell(self, number: int, score: float) -> None:
        """Record a trial's score; one that is no number marks it as failed for good."""
        if math.isfinite(score):
            self._study.tell(number, score)
        else:
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL)

    def is_behind(self, number: int, scores: Sequence[float]) -> bool:
        """Whether the best of a trial's validations so far is below the median of earlier trials' after as many.

        (Optuna's MedianPruner, after Golovin et al. 2017, "Google Vizier".)
        """
        return bool(scores) and bool(self.report(number, scores).should_prune())

    def report(self, number: int, scores: Sequence[float]) -> Any:
        """Record the best of a trial's validations after each of them; returns Optuna's trial."""
        known = self._study.get_trials(deepcopy=False)[number]
        trial = self._optuna.trial.Trial(self._study, known._trial_id)
        for count in range(1, len(scores) + 1):
            if count not in known.intermediate_values:
                trial.report(max(scores[:count]), count)
        return trial

    def prune(self, number: int) -> None:
        """Record that a trial was stopped early."""
        self._study.tell(number, state=self._optuna.trial.TrialState.PRUNED)

    def _in_state(self, state: str) -> list[Any]:
        states = (self._optuna.trial.TrialState[state],)
        return self._study.get_trials(deepcopy=False, states=states)


def search_settings(
    search: Search,
    total: int,
    at_once: int,
    job_of: Callable[[int, Values], SweepJob],
    work: Callable[[Sequence[SweepJob], Callable[[SweepJob], bool]], None],
) -> list[SweepJob]:
    """Do trials, so many at once, until there are `total`; return the jobs of all that ran to their end.

    `job_of` makes a run of a trial's number and values; where it raises UserError, for they go together with no
    configuration, the trial is left out. `work` does those jobs that have no exit code, may stop one early of which the
    function it is given is true, and what it raises is raised.
    """
    jobs = {number: job_of(number, search.trials()[number]) for number in search.scores()}
    for job in jobs.values():
        job.code = EXIT_DONE
    session_trials: set[int] = set()
    while True:
        # What an earlier session left comes first, then proposals from all that is known.
        batch = [number for number in search.pending() if number not in session_trials][:at_once]
        if not batch:
            batch = [search.propose() for _ in range(min(at_once, total - len(search.trials())))]
        if not batch:
            return [jobs[number] for number in sorted(jobs)]
        session_trials |= set(batch)
        for number in batch:
            try:
                jobs[number] = job_of(number, search.trials()[number])
            except UserError as error:
                logger.warning(f"trial {number} is left out: {error}")
                search.tell(number, math.nan)
        numbers = [number for number in batch if number in jobs]
        number_of = {jobs[number].name: number for number in numbers}
        work(
            [jobs[number] for number in numbers],
            lambda job: search.is_behind(number_of[job.name], validation_scores(job.folder)),  # noqa: B023
        )
        for number in numbers:
            if jobs[number].code == EXIT_DONE:
                # Those since the last look, too: what later trials are judged by must not depend on when one looked.
                search.report(number, validation_scores(jobs[number].folder))
                search.tell(number, best_score(jobs[number].folder))
            elif jobs[number].ending == PRUNED:
                search.prune(number)
                del jobs[number]


def validation_scores(folder: Path) -> list[float]:
    """Return the scores of a run's validations so far, the mean over both directions, those that are numbers."""
    from pipeline.runs.folder import RunFolder
    from pipeline.tracking.metrics_file import read_metrics

    try:
        records, _ = read_metrics(RunFolder(folder).metrics)
    except OSError:  # it has not begun
        return []
    scores = [record["validation/score"] for record in records if "validation/score" in record]
    return [score for score in scores if math.isfinite(score)]


def best_score(folder: Path) -> float:
    """Return the validation score of a run's `best.pt`, the mean over both directions; NaN without one.

    Each direction's is that of the translator which `best.pt` holds: `validation/score` of the epoch if one validation
    chose both.
    """
    from pipeline.runs.checkpoint import load_checkpoint
    from pipeline.runs.folder import RunFolder

    try:
        scores = load_checkpoint(RunFolder(folder).checkpoints.best)["position"]["best_scores"].values()
        return sum(scores) / len(scores)
    except (UserError, LookupError, ArithmeticError) as error:
        logger.warning(f"{folder}: has no validation score ({error})")
        return math.nan
