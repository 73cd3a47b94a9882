"""Advice for a training that stopped at losses or weights that are not finite."""

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.training.schedule import TrainerState


def advice_after_not_finite(config: Config, folder: RunFolder, position: TrainerState) -> str:
    """Return what is saved of a run whose losses or weights were not finite, what to change, and where.

    If no step succeeded, the learning rate is not the cause. Without a checkpoint the run's folder accepts any
    settings.
    """
    half_precision = config.training.precision != "float32"
    if position.bad_steps >= position.step:
        change = (
            "use training.precision=float32"
            if half_precision
            else "look at the data (pipeline.explore) and method's keys"
        )
        advice = f"not one step succeeded, so the learning rate is not the cause; {change}"
    else:
        advice = "lower training.learning_rate" + (", or use training.precision=float32" if half_precision else "")
    if not folder.has_checkpoint():
        return f"nothing is saved yet; {advice}: the same command with it begins anew"
    return (
        f"the last good checkpoint is kept ({folder.checkpoints.latest}); {advice}, in a new output: with "
        f"training.start_from={folder.path} it begins from these weights"
    )


def new_output_advice(folder: RunFolder) -> str:
    """Return how to change a setting that a trained run's folder no longer accepts; "" before it has trained."""
    if not folder.has_checkpoint():
        return ""
    return f", in a new output: with training.start_from={folder.path} it begins from this run's weights"
