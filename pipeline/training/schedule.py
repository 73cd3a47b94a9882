"""From a configuration to a schedule, and whether its learning rate lasts as long as its steps."""

from pipeline.config.schema import Training
from pipeline.training.loop import Schedule
from pipeline.utils.console import warn

LEAST_RATE = 1e-3  # of the initial one: below it, weights hardly move
LEAST_SHARE = 0.1  # of all steps: as many may follow with so low a rate


def schedule_of(training: Training, slices: int) -> Schedule:
    """Return how long and how often to train.

    Args:
        training: The configuration's section.
        slices: How many there are of the contrast with more, or how many pairs.
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
    """Warn of a learning rate that is below `LEAST_RATE` of itself with over `LEAST_SHARE` of the steps to come."""
    low, high = 0, schedule.steps
    while low < high:  # the first step with so low a rate, for it never rises again
        middle = (low + high) // 2
        if schedule.learning_rate_factor(middle) < LEAST_RATE:
            high = middle
        else:
            low = middle + 1
    idle = schedule.steps - low
    if idle > LEAST_SHARE * schedule.steps:
        warn(
            f"warning: the learning rate falls below a thousandth of what it begins with after step {low:,} of "
            f"{schedule.steps:,}; the other {idle / schedule.steps:.0%} would change next to nothing; raise "
            f"training.halve_every ({schedule.halve_every}), or train fewer steps (training.steps_per_epoch)"
        )
