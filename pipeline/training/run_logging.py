"""What a run tells its record at the beginning: settings, and the data of each part."""

from collections.abc import Mapping

import torch

from pipeline.config.schema import Config
from pipeline.runs.folder import RunFolder
from pipeline.tracking.tracker import Tracker
from pipeline.training.sitting import Sitting


def open_tracker(config: Config, folder: RunFolder, state: Mapping | None, device: torch.device) -> Tracker:
    """Return the run's record, which goes on where the checkpoint `state` says."""
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


def log_inputs(sitting: Sitting) -> None:
    """Log configuration, split and the data of each part."""
    tracker, prepared = sitting.tracker, sitting.prepared
    for path in (sitting.folder.config, sitting.folder.split, sitting.folder.coverage):
        if path.exists():
            tracker.log_artifact(path)
    source = str(sitting.config.data.folder)
    for contrast, entries in prepared.stored.items():
        profile = {name: prepared.statistics[contrast][name] for name in ("slices", "low", "high")}
        tracker.log_dataset(contrast, "train", source, [entry.case.name for entry in entries], profile)
    if prepared.pairs:
        names = [case.name for pair in prepared.pairs for case in (pair[0].case, pair[1].case)]
        tracker.log_dataset("pairs", "train", source, names, {"slices": prepared.longest})
    for part in ("validation", "test"):
        tracker.log_dataset(part, part, source, [case.name for case in getattr(prepared.split, part)])
