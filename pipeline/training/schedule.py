"""Length of a training, its learning rate and its progress."""

import logging
from bisect import bisect_left
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)
LEAST_RATE = 1e-3  # share of the initial learning rate below which weights hardly move
LEAST_SHARE = 0.1  # share of all steps that may have so low a rate
NOT_OF_TRAINING = "so these figures are not of the training"  # where what training began with was evaluated


@dataclass(frozen=True)
class Schedule:
    """Length of a training and intervals of its callbacks, in steps unless the name says otherwise."""

    steps_per_epoch: int
    constant_epochs: int
    decay_epochs: int
    batch_size: int
    log_every: int
    validate_every_epochs: int
    sample_every_epochs: int
    checkpoint_seconds: float
    max_bad_steps: int
    halve_every: int | None = None
    discriminator_warmup: int = 0  # first steps in which the generators' weights do not move
    validate_start: bool = False  # whether what training begins with, such as a lookup, may be the best

    @property
    def epochs(self) -> int:
        return self.constant_epochs + self.decay_epochs

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def learning_rate_factor(self, step: int) -> float:
        """Return 1 for the constant epochs, then a straight line that would reach 0 just after the last step.

        If `halve_every` is set, it is also halved after every `halve_every` steps.
        """
        constant = self.constant_epochs * self.steps_per_epoch
        factor = 1.0 if step < constant else (self.steps - step) / (self.steps - constant)
        return factor * 0.5 ** (step // self.halve_every) if self.halve_every else factor


@dataclass
class TrainerState:
    """Progress of a training; saved with every checkpoint."""

    step: int = 0  # steps made
    epochs: int = 0  # epochs finished, with their validation and pictures
    bad_steps: int = 0  # steps skipped for a loss that was not finite
    bad_in_a_row: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)  # in validation, by target contrast
    best_steps: dict[str, int] = field(default_factory=dict)  # when they were reached; 0: what training began with
    seconds: float = 0.0  # spent in training steps
    losses: dict[str, float] = field(default_factory=dict)  # the latest of each, for not every step has all of them


def warn_of_lost_rate(schedule: Schedule) -> None:
    """Warn if the learning rate is below `LEAST_RATE` of its initial value for over `LEAST_SHARE` of the steps.

    And if the discriminators' warm-up lasts as long as the training.
    """
    if 0 < schedule.steps <= schedule.discriminator_warmup:
        logger.warning(
            f"training.discriminator_warmup = {schedule.discriminator_warmup:,}: the training has {schedule.steps:,} "
            "steps, so its generators never move; lower it, or raise training.epochs"
        )
    # The first step with so low a rate, which never rises again.
    first_step = bisect_left(
        range(schedule.steps), True, key=lambda step: schedule.learning_rate_factor(step) < LEAST_RATE
    )
    idle = schedule.steps - first_step
    if idle > LEAST_SHARE * schedule.steps:
        logger.warning(
            f"the learning rate falls below a thousandth of what it begins with after step {first_step:,} of "
            f"{schedule.steps:,}; the other {idle / schedule.steps:.0%} would change next to nothing; raise "
            f"training.halve_every ({schedule.halve_every}), or train fewer steps (training.steps_per_epoch)"
        )
