"""What a run logs at its beginning: configuration, split and datasets."""

from collections.abc import Mapping

import torch

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.tracking.tracker import Tracker
from pipeline.training.run_context import RunContext


def open_tracker(config: Config, folder: RunFolder, state: Mapping | None, device: torch.device) -> Tracker:
    """Return the run's tracker, which continues at the step of the checkpoint `state`."""
    return Tracker(
        folder.path,
        experiment=config.tracking.experiment,
        run_name=config.tracking.run_name or config.name,
        params=config.model_dump(mode="json"),
        step=None if state is None else state["position"]["step"],
        run_id=None if state is None else state["mlflow_run_id"],
        tags={"data": config.data.source, "method": config.method.type, "device": str(device)},
        mlflow=config.tracking.mlflow,
    )


def log_inputs(context: RunContext) -> None:
    """Log configuration, split and the datasets of training, validation and test."""
    tracker, prepared = context.tracker, context.prepared
    for path in (context.folder.config, context.folder.split, context.folder.coverage):
        if path.exists():
            tracker.log_artifact(path)
    source = str(context.config.data.folder)
    for contrast, entries in prepared.stored.items():
        profile = {name: getattr(prepared.statistics[contrast], name) for name in ("slices", "low", "high")}
        tracker.log_dataset(contrast, "train", source, [entry.case.name for entry in entries], profile)
    if prepared.pairs:
        case_names = [case.name for pair in prepared.pairs for case in pair.cases]
        tracker.log_dataset("pairs", "train", source, case_names, {"slices": prepared.longest})
    for subset in ("validation", "test"):
        tracker.log_dataset(subset, subset, source, [case.name for case in getattr(prepared.split, subset)])
