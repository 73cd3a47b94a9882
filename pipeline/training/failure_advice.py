"""What to do about a training that ran into numbers that are not finite, so that the run's folder takes the advice."""

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.training.trainer_state import TrainerState


def advice_after_not_finite(config: Config, folder: RunFolder, position: TrainerState) -> str:
    """Say what remains of a run whose losses or weights were not finite, what to change, and where.

    Without one good step no learning rate has had a say, and without a checkpoint the folder takes any settings.
    """
    narrow = config.training.precision != "float32"
    if position.bad_steps >= position.step:
        change = "use training.precision=float32" if narrow else "look at the data (pipeline.explore) and method's keys"
        advice = f"not one step succeeded, so the learning rate is not the cause; {change}"
    else:
        advice = "lower training.learning_rate" + (", or use training.precision=float32" if narrow else "")
    if not folder.has_checkpoint():
        return f"nothing is saved yet; {advice}: the same command with it begins anew"
    return (
        f"the last good checkpoint is kept ({folder.checkpoints.latest}); {advice}, in a new output: with "
        f"training.start_from={folder.path} it begins from these weights"
    )


def new_output_advice(folder: RunFolder) -> str:
    """Return what to add to advice about a setting that a run which has trained does not take in its own folder."""
    if not folder.has_checkpoint():
        return ""
    return f", in a new output: with training.start_from={folder.path} it begins from this run's weights"
