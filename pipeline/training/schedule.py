"""Builds a training schedule, and warns if its learning rate vanishes long before the last step."""

import logging

from pipeline.config.schema import Training
from pipeline.training.loop import Schedule

logger = logging.getLogger(__name__)

LEAST_RATE = 1e-3  # share of the initial learning rate below which weights hardly move
LEAST_SHARE = 0.1  # share of all steps that may have so low a rate


def schedule_of(training: Training, slices: int) -> Schedule:
    """Return the schedule of a training.

    Args:
        training: The configuration's training section.
        slices: Number of slices of the contrast with more of them, or number of pairs.
    """
    return Schedule(
        steps_per_epoch=training.steps_per_epoch or -(-slices // training.batch_size),
        constant_epochs=training.epochs,
        decay_epochs=training.decay_epochs,
        batch_size=training.batch_size,
        loader_workers=training.loader_workers,
        log_every=training.log_every,
        validate_every_epochs=training.validate_every,
        sample_every_epochs=training.sample_every,
        checkpoint_seconds=60 * training.checkpoint_minutes,
        max_bad_steps=training.max_bad_steps,
        halve_every=training.halve_every,
    )


def warn_of_lost_rate(schedule: Schedule) -> None:
    """Warn if the learning rate is below `LEAST_RATE` of its initial value for over `LEAST_SHARE` of the steps."""
    low, high = 0, schedule.steps
    while low < high:  # binary search for the first step with so low a rate, which never rises again
        middle = (low + high) // 2
        if schedule.learning_rate_factor(middle) < LEAST_RATE:
            high = middle
        else:
            low = middle + 1
    idle = schedule.steps - low
    if idle > LEAST_SHARE * schedule.steps:
        logger.warning(
            f"the learning rate falls below a thousandth of what it begins with after step {low:,} of "
            f"{schedule.steps:,}; the other {idle / schedule.steps:.0%} would change next to nothing; raise "
            f"training.halve_every ({schedule.halve_every}), or train fewer steps (training.steps_per_epoch)"
        )
