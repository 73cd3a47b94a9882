"""Artifacts of an MLflow store whose folder was moved: they are looked for beside the store, not at the old path.

An SQLite store records absolute paths, `…/mlruns/<experiment>/…`. After a project's folder was moved or copied, they
lead to its old place: to nothing, or to another project's files. All reading and writing passes through MLflow's
registry of artifact repositories, so that is where such paths are corrected.
"""

import logging
import os
from pathlib import Path

from pipeline.tracking.mlflow_settings import sqlite_file

logger = logging.getLogger(__name__)

ROOT = "mlruns"  # MLflow's own name for the folder of a store's files
_reported: set[Path] = set()


def use_files_beside_store() -> None:
    """Let MLflow look for artifacts beside its SQLite store first; other stores and custom locations are unchanged."""
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry as registry

    for scheme in ("", "file"):
        registry.register(scheme, _local_repository)


def _local_repository(artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None):
    import mlflow
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.utils.file_utils import local_file_uri_to_path

    store = sqlite_file(tracking_uri or mlflow.get_tracking_uri())
    recorded = Path(local_file_uri_to_path(artifact_uri))
    if store is not None and (folder := artifact_folder(store, recorded)) != recorded:
        _report_once(store, recorded, folder)
        artifact_uri = str(folder)
    return LocalArtifactRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)


def artifact_folder(store: Path, recorded: Path) -> Path:
    """Return the folder of the files that a store has recorded at a path.

    Args:
        store: The SQLite file.
        recorded: An absolute path. It is returned unchanged if it lies in the store's folder, or has no `mlruns` in it.
            Otherwise its end from `mlruns` on is taken relative to the store's folder. It is also unchanged if the
            experiment has no folder there and the recorded one is in use by this store, as for a store that is shared
            by commands in several folders: MLflow keeps the files of an experiment in the folder where the command
            that made it was started.
    """
    home = Path(os.path.realpath(store.parent))
    if home in Path(os.path.realpath(recorded)).parents or ROOT not in recorded.parts[:-1]:
        return recorded
    root_index = len(recorded.parts) - 1 - recorded.parts[::-1].index(ROOT)
    root, below = Path(*recorded.parts[: root_index + 1]), recorded.parts[root_index + 1 :]
    if not (home / ROOT / below[0]).is_dir():
        in_another_project = (root.parent / store.name).exists()
        started_there = root.parent.is_dir() and root.parent.samefile(os.curdir)
        if recorded.exists() or started_there or (root.is_dir() and not in_another_project):
            return recorded
    return home.joinpath(ROOT, *below)


def _report_once(store: Path, recorded: Path, used_folder: Path) -> None:
    recorded_root, used_root = (
        next(folder for folder in path.parents if folder.name == ROOT) for path in (recorded, used_folder)
    )
    if used_root not in _reported:
        _reported.add(used_root)
        logger.warning(
            f"{store} has recorded that its files are in {recorded_root}; it was moved, so those in {used_root} "
            "are used"
        )
