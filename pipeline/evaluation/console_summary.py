"""The last lines of a run on the console: what was done, and the paths of its results."""

from pipeline.runs.folder import RunFolder
from pipeline.training.schedule import TrainerState


def work_summary(position: TrainerState, steps_before: int, seconds: float) -> str:
    """Return a phrase on what the command did: trained and evaluated, or only evaluated an earlier training."""
    trained = position.step - steps_before
    if not trained:
        done = f"evaluated and reported in {seconds / 60:.1f} min"
        return f"nothing was left to train after step {position.step:,}; {done}"
    skipped = f", {position.bad_steps:,} of them skipped" if position.bad_steps else ""
    total = f" of {position.step:,}" if steps_before else ""
    return f"trained {trained:,}{total} steps{skipped} and evaluated in {seconds / 60:.1f} min"


def closing_lines(folder: RunFolder, mlflow_command: str, work: str) -> str:
    """Return the last lines of a run: what was done, the paths of its results and how to open them."""
    gifs = ", ".join(str(path) for path in sorted(folder.path.glob("training_*.gif")))
    volumes = "NIfTI, on each source's grid; open with any viewer" if any(folder.translated.glob("*.nii.gz")) else "PNG"
    translated = f"  translated  {folder.translated}/   ({volumes})"
    return "\n".join(
        [
            work,
            f"  report      {folder.report}   (open it in a browser)",
            f"  training    {gifs}",
            *([translated] if folder.translated.exists() else []),
            f"  MLflow      {mlflow_command}",
        ]
    )
