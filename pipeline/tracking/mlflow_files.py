"""Where an MLflow store's files lie: beside the store wherever its folder was moved to, whatever path it recorded.

An SQLite store records absolute paths, `…/mlruns/<experiment>/…`. In a project's folder that was moved or copied they
lead to where the project was: to nothing, or to another project's files. MLflow's own table of artifact repositories
is where all reading and writing passes by, so that is where such paths are corrected.
"""

import os
from pathlib import Path

from pipeline.tracking.mlflow_settings import sqlite_file
from pipeline.utils.console import warn

ROOT = "mlruns"  # MLflow's own name for the folder of a store's files
_reported: set[Path] = set()


def use_files_beside_store() -> None:
    """Have MLflow look for files beside its SQLite store first; other stores' and the user's own places stay."""
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
    """Return where the files are, or go, that a store has recorded at a path.

    Args:
        store: The SQLite file.
        recorded: An absolute path. Within the store's folder, or without `mlruns` in it, it stays. Otherwise its end
            from `mlruns` on is looked for beside the store. It stays too where the experiment has no folder there and
            the recorded one is in use by this store: one that is shared by commands in several folders.
    """
    home = Path(os.path.realpath(store.parent))
    if home in Path(os.path.realpath(recorded)).parents or ROOT not in recorded.parts[:-1]:
        return recorded
    root_index = len(recorded.parts) - 1 - recorded.parts[::-1].index(ROOT)
    root, below = Path(*recorded.parts[: root_index + 1]), recorded.parts[root_index + 1 :]
    if not (home / ROOT / below[0]).is_dir():
        in_another_project = (root.parent / store.name).exists()
        if recorded.exists() or (root.is_dir() and not in_another_project):
            return recorded
    return home.joinpath(ROOT, *below)


def _report_once(store: Path, recorded: Path, used_folder: Path) -> None:
    recorded_root, used_root = (
        next(folder for folder in path.parents if folder.name == ROOT) for path in (recorded, used_folder)
    )
    if used_root not in _reported:
        _reported.add(used_root)
        warn(
            f"note: {store} has recorded that its files are in {recorded_root}; it was moved, so those in {used_root} "
            "are used"
        )
