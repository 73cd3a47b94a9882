"""Failure checks during training: their results become warnings on the terminal, tags and a section of the report.

Earlier results are read from metrics.jsonl, so that a resumed run continues with them and a report can be written at
any time.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from pipeline.data.loader import SliceBank
from pipeline.metrics.baselines import histogram_quantiles
from pipeline.metrics.failure_detectors import Cohort, depth_layers, depth_profile, spread
from pipeline.tracking.metrics_file import read_metrics
from pipeline.training.discriminator_record import (
    DiscriminatorRecord,
    check_discriminators,
    gaining_directions,
    scores_by_direction,
)
from pipeline.training.failure_checks import GAIN_ADVICE, START_ADVICE, CheckResult, check_failures, check_shifts
from pipeline.training.shifts import Shifts, shift_sentence, shifts_by_direction
from transforms.intensity import foreground_mask
from transforms.slices import evenly_spread, well_filled_slices

logger = logging.getLogger(__name__)

COHORT_SLICES = 160  # sample of a contrast's training slices
EARLY = 0.1  # share of the epochs, at the beginning, in which nothing is checked


def cohort(bank: SliceBank, histogram: Sequence[float]) -> Cohort:
    """Return the statistics of a contrast's training slices that the detectors compare with.

    An evenly spread sample is read; `histogram` is of all slices' foreground over [-1, 1].
    """
    slices = bank.gather(evenly_spread(len(bank), COHORT_SLICES).tolist())[:, 0].numpy()
    heads = np.stack([_head(image) for image in slices])
    usable = well_filled_slices(heads)
    slices, heads = slices[usable], heads[usable]
    return Cohort(
        depth_profile([(slices, depth_layers(heads))]), spread([(slices, heads)]), histogram_quantiles(histogram)
    )


def _head(image: np.ndarray) -> np.ndarray:
    """Return the foreground of an (S, S) slice; the slice cache keeps none."""
    return foreground_mask(image[..., None])[..., 0] if np.ptp(image) > 0 else np.zeros(image.shape, bool)


@dataclass(frozen=True)
class TrainingWarning:
    """A check that was triggered, in one direction."""

    first: CheckResult  # that triggered it
    epoch: int  # after which that was
    last: CheckResult  # the latest one
    cleared_epoch: int | None = None  # since which results are good again; None while the warning stands
    from_start: bool = False  # whether what training began with, and is held near, has it, too

    @property
    def title(self) -> str:
        """The title of the check, and the direction."""
        return f"{self.first.check.title}, {self.first.direction.replace('_to_', ' → ')}"

    @property
    def observation(self) -> str:
        """The value that triggered it, and whether the warning still stands."""
        check, first = self.first.check, self.first
        side = "below" if first.value < first.threshold else "above"
        details = f" ({first.details})" if first.details else ""
        text = (
            f"{first.value:.2f}{check.unit}{details} after epoch {self.epoch}, {side} {first.threshold:g}{check.unit}"
        )
        ending = f"; {self.last.value:.2f}{check.unit}, cleared after epoch {self.cleared_epoch}"
        return text if self.cleared_epoch is None else text + ending

    @property
    def advice(self) -> str:
        """What to do."""
        return START_ADVICE if self.from_start else self.first.check.advice

    def __str__(self) -> str:
        return f"{self.title}: {self.observation}"


Warnings = dict[tuple[str, str], TrainingWarning]  # by check and direction, in order of appearance


class FailureMonitor:
    """Checks the metrics of every validation: warns when a check is first triggered, and reports when it first clears.

    Results count after the first tenth of the epochs and from the second validation on, for networks that have learnt
    next to nothing show nothing. The last validation always counts.

    Args:
        metrics_path: The run's metrics.jsonl; its earlier results are not warned of again.
        epochs: Number of epochs of the whole training.
        validate_every: Epochs from one validation to the next.
        held_near_start: Whether a loss holds translations near what training begins with.
        discriminators: Record of the discriminators' losses, which takes those of metrics.jsonl.
        tag: Sets tags of the run; "warnings" holds all of them.
    """

    def __init__(
        self,
        metrics_path: Path,
        *,
        epochs: int,
        validate_every: int,
        held_near_start: bool,
        discriminators: DiscriminatorRecord,
        tag: Callable[[Mapping[str, str]], object],
    ):
        self.epochs, self.tag, self.discriminators = epochs, tag, discriminators
        self.from_epoch = min(epochs, max(2 * validate_every, ceil(EARLY * epochs)))
        self.warnings: Warnings = {}
        self.held_near_start = held_near_start
        self._start: set[tuple[str, str, float]] = set()  # name, direction and limit of what the start has, too
        self.shift = ""  # the shifts of the latest validation, in a sentence
        self._shifts: dict[int, Shifts] = {}  # of the validations that count, by epoch
        self._scores: dict[int, dict[str, float]] = {}  # of all validations, by epoch and direction
        records = read_metrics(metrics_path)[0] if metrics_path.exists() else []
        for record in records:
            discriminators.record(record)
            if "epoch" in record:
                self._update_warnings(record, int(record["epoch"]))
        self._reported = {(key, warning.cleared_epoch is None) for key, warning in self.warnings.items()}

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Check the validation after an epoch."""
        # Collect warnings that are new, or newly cleared; each is reported once.
        changed_keys, changed = self._update_warnings(metrics, epoch), []
        for key in changed_keys:
            warning = self.warnings[key]
            notice = (key, warning.cleared_epoch is None)
            if notice not in self._reported:
                self._reported.add(notice)
                changed.append(warning)
        if changed_keys:
            self.tag({"warnings": "; ".join(map(str, self.warnings.values()))})
        # Report them, both directions of a check together.
        standing = [warning for warning in changed if warning.cleared_epoch is None]
        for kind in dict.fromkeys((warning.first.check.meaning, warning.advice) for warning in standing):
            group = [warning for warning in standing if (warning.first.check.meaning, warning.advice) == kind]
            text, (meaning, advice) = "; ".join(map(str, group)), kind
            logger.warning(f"{text}: the translation {meaning}; {advice}")
        if cleared := [str(warning) for warning in changed if warning.cleared_epoch is not None]:
            logger.info("; ".join(cleared))

    def _update_warnings(self, metrics: Mapping[str, float], epoch: int) -> list[tuple[str, str]]:
        """Update the warnings; return the keys of those that were triggered, triggered again or cleared."""
        self.shift = shift_sentence(metrics)
        changed: list[tuple[str, str]] = []
        # A resumed run validates some epochs again.
        self._scores = {validated: scores for validated, scores in self._scores.items() if validated < epoch}
        self._scores[epoch] = scores_by_direction(metrics)
        if epoch == 0 and self.held_near_start:
            results = [result for result in check_failures(metrics) if result.triggered]
            self._start = {result.limit for result in results if result.check.advice == GAIN_ADVICE}
        if epoch < self.from_epoch:
            return changed
        self._shifts = {validated: shifts for validated, shifts in self._shifts.items() if validated < epoch}
        self._shifts[epoch] = shifts_by_direction(metrics)
        results = check_failures(metrics) + check_shifts(self._shifts, self.epochs)
        for result in results + check_discriminators(metrics, gaining_directions(self._scores)):
            key = (result.name, result.direction)
            previous = self.warnings.get(key)
            was_active = previous is not None and previous.cleared_epoch is None
            if previous is None and result.triggered:
                self.warnings[key] = TrainingWarning(result, epoch, result, from_start=result.limit in self._start)
            elif previous is not None:
                cleared = None if result.triggered else previous.cleared_epoch or epoch
                self.warnings[key] = replace(previous, last=result, cleared_epoch=cleared)
            if was_active != result.triggered:
                changed.append(key)
        return changed
