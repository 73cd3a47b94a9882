"""Watching over training: verdicts become warnings on the terminal, tags of the run and a part of its report.

What has been warned of is read from metrics.jsonl, so that a resumed run goes on with it and a report can be written
at any time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path

import numpy as np

from pipeline.data.loader import SliceBank
from pipeline.metrics.baselines import histogram_quantiles
from pipeline.metrics.failure_detectors import Cohort, depth_layers, depth_profile, spread
from pipeline.tracking.metrics_file import read_metrics
from pipeline.training.failure_checks import FAILURE_CHECKS, CheckResult, check_failures
from pipeline.training.shift_checks import Shifts, check_shifts, shift_sentence, shifts_by_direction
from pipeline.utils.console import warn_below_bars
from transforms.intensity import foreground_mask
from transforms.slices import slices_with_a_fair_share

COHORT_SLICES = 160  # that stand for a contrast's training slices
EARLY = 0.1  # share of the epochs in which networks may do what they like


def cohort(bank: SliceBank, histogram: Sequence[float]) -> Cohort:
    """Return what the detectors know of a contrast.

    Args:
        bank: Its training slices, of which some, spread evenly, are looked at.
        histogram: Of their foreground over [-1, 1].
    """
    index = np.unique(np.linspace(0, len(bank) - 1, COHORT_SLICES).round().astype(int))
    slices = bank.gather(index)[:, 0].numpy()
    heads = np.stack([_head(one) for one in slices])
    kept = slices_with_a_fair_share(heads)
    slices, heads = slices[kept], heads[kept]
    return Cohort(
        depth_profile([(slices, depth_layers(heads))]), spread([(slices, heads)]), histogram_quantiles(histogram)
    )


def _head(image: np.ndarray) -> np.ndarray:
    """Return the foreground of an (S, S) slice; the store keeps none."""
    return foreground_mask(image[..., None])[..., 0] if np.ptp(image) > 0 else np.zeros(image.shape, bool)


@dataclass(frozen=True)
class TrainingWarning:
    """A detector that tripped, in one direction.

    Attributes:
        first: The verdict that first tripped.
        epoch: The epoch it came after.
        last: The latest verdict.
        cleared: The epoch after which the latest verdicts are good again; None while it stands.
    """

    first: CheckResult
    epoch: int
    last: CheckResult
    cleared: int | None = None

    @property
    def title(self) -> str:
        """The detector and the direction, for people."""
        return f"{FAILURE_CHECKS[self.first.name].title}, {self.first.direction.replace('_to_', ' → ')}"

    @property
    def observation(self) -> str:
        """What tripped it, and whether it still stands."""
        detector, first = FAILURE_CHECKS[self.first.name], self.first
        side = "below" if detector.below else "above"
        seen = f"{first.value:.2f}{detector.unit} after epoch {self.epoch}, {side} {first.threshold:g}{detector.unit}"
        cleared = f"; {self.last.value:.2f}{detector.unit}, cleared after epoch {self.cleared}"
        return seen if self.cleared is None else seen + cleared

    @property
    def meaning(self) -> str:
        """What a bad value says of the translation."""
        return FAILURE_CHECKS[self.first.name].meaning


Warnings = dict[tuple[str, str], TrainingWarning]  # by detector and direction, in the order in which they came


class FailureMonitor:
    """Judges every validation's metrics: warns when a detector first trips, and says when it first clears.

    Verdicts count after the first tenth of the epochs and from the second validation on: what networks do that have
    learnt next to nothing says nothing. The last validation always counts.

    Args:
        metrics_path: The run's metrics.jsonl; what it already holds has been warned of.
        epochs: Of the whole training.
        validate_every: Epochs from one validation to the next.
        pixel_mm: A pixel's side.
        tag: Sets tags of the run, for each warning one: "warning.mode_collapse.T1_to_T2".
    """

    def __init__(
        self,
        metrics_path: Path,
        *,
        epochs: int,
        validate_every: int,
        pixel_mm: float,
        tag: Callable[[Mapping[str, str]], object] = lambda tags: None,
    ):
        self.epochs, self.pixel_mm, self.tag = epochs, pixel_mm, tag
        self.from_epoch = min(epochs, max(2 * validate_every, ceil(EARLY * epochs)))
        self.warnings: Warnings = {}
        self.shift = ""  # what the latest validation measured, in a sentence
        self._shifts: dict[int, Shifts] = {}  # of the validations that count, by epoch
        records = read_metrics(metrics_path)[0] if metrics_path.exists() else []
        for record in records:
            if "epoch" in record:
                self._judge(record, int(record["epoch"]))
        self._told = {(key, warning.cleared is None) for key, warning in self.warnings.items()}

    def __call__(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Judge the validation after an epoch."""
        news = []
        for key in self._judge(metrics, epoch):
            warning = self.warnings[key]
            told = (key, warning.cleared is None)
            self.tag({f"warning.{'.'.join(key)}": warning.observation})
            if told not in self._told:
                self._told.add(told)
                news.append(warning)
        for name in dict.fromkeys(warning.first.name for warning in news if warning.cleared is None):
            standing = [warning for warning in news if warning.first.name == name and warning.cleared is None]
            text = "; ".join(f"{warning.title}: {warning.observation}" for warning in standing)
            warn_below_bars(f"warning: {text}: the translation {standing[0].meaning}; {standing[0].first.advice}")
        if cleared := [f"{warning.title}: {warning.observation}" for warning in news if warning.cleared is not None]:
            warn_below_bars("; ".join(cleared))

    def _judge(self, metrics: Mapping[str, float], epoch: int) -> list[tuple[str, str]]:
        """Bring the warnings up to date, and return which of them came, came back or were cleared."""
        self.shift, changed = shift_sentence(metrics), []
        if epoch < self.from_epoch:
            return changed
        earlier = {validated: shifts for validated, shifts in self._shifts.items() if validated < epoch}
        self._shifts = {**earlier, epoch: shifts_by_direction(metrics)}  # a resumed run validates some epochs again
        for verdict in [*check_failures(metrics, self.pixel_mm), *check_shifts(self._shifts, self.epochs)]:
            key = (verdict.name, verdict.direction)
            before = self.warnings.get(key)
            stood = before is not None and before.cleared is None
            if before is None and verdict.triggered:
                self.warnings[key] = TrainingWarning(verdict, epoch, verdict)
            elif before is not None:
                cleared = None if verdict.triggered else before.cleared or epoch
                self.warnings[key] = replace(before, last=verdict, cleared=cleared)
            if stood != verdict.triggered:
                changed.append(key)
        return changed
