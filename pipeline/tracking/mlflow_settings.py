"""MLflow's settings; the address, the schema and the files of its store; its errors in one line."""

import logging
import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline.utils.errors import first_line, without_password

if TYPE_CHECKING:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

REQUEST_TIMEOUT_S = 4
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_TIMEOUT_S),
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a repeated request can log a point twice; the tracker reconnects instead
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",  # the jitter draws from Python's global random numbers
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "GIT_PYTHON_REFRESH": "quiet",
}
ARTIFACT_ROOT = "mlruns"  # MLflow's own name for the folder of a store's files


def configure_mlflow() -> None:
    """Make MLflow quiet and quick to fail, unless the user has set it otherwise; call before `import mlflow`."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "urllib3", "git", "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    """Set environment variables within the block."""
    saved_values = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(saved_values)


@contextmanager
def request_timeout(seconds: float) -> Iterator[None]:
    """Extend the timeout of requests by so many seconds within the block, unless the user has set a timeout."""
    if os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT") != str(REQUEST_TIMEOUT_S):
        yield
        return
    with environment_variables(MLFLOW_HTTP_REQUEST_TIMEOUT=str(REQUEST_TIMEOUT_S + round(seconds))):
        yield


# ── The store's address ─────────────────────────────────────────────────────────────────────────────────────


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for other stores."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def short_reason(error: BaseException) -> str:
    """Return an MLflow error as one line without passwords."""
    if "failed with exception" in str(error):  # the connection's own error is at the root, behind four layers of URLs
        while cause := error.__cause__ or error.__context__:
            error = cause
    return without_password(first_line(error)[:300])


# ── Opening the store ───────────────────────────────────────────────────────────────────────────────────────


def store_lock(uri: str) -> AbstractContextManager[None]:
    """Return a lock of an SQLite store, to open it with: two processes that create its tables disturb each other.

    Nothing is locked for other stores, or on Windows.
    """
    from mlflow.utils.file_utils import ExclusiveFileLock

    path = sqlite_file(uri)
    if os.name == "nt" or path is None or not path.parent.is_dir():
        return nullcontext()
    return ExclusiveFileLock(f"{path}.lock")


def check_schema(uri: str) -> None:
    """Check the schema of an SQLite store before MLflow opens it: a migrated store may be unreadable for other users.

    Raises:
        RuntimeError: The schema is that of an older or a newer MLflow; the message names the remedy.
    """
    path = sqlite_file(uri)
    if path is None or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # no store yet, or another file: MLflow reports it
        return
    from mlflow.store.db.utils import _get_latest_schema_revision

    if row is not None and row[0] != _get_latest_schema_revision():
        raise RuntimeError(
            "its schema is that of another release of MLflow; update mlflow, or back up the store and run "
            f"`mlflow db upgrade {shlex.quote(uri)}`"
        )


# ── The store's files ───────────────────────────────────────────────────────────────────────────────────────


def use_files_beside_store() -> None:
    """Let MLflow look for artifacts beside its SQLite store first; other stores and custom locations are unchanged.

    An SQLite store records absolute paths, `…/mlruns/<experiment>/…`. After a project's folder was moved or copied,
    they lead to nothing, or to another project's files. All reading and writing passes through MLflow's registry of
    artifact repositories, so that is where such paths are corrected.
    """
    from mlflow.store.artifact.artifact_repository_registry import _artifact_repository_registry as registry

    for scheme in ("", "file"):
        registry.register(scheme, _local_repository)


def _local_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> "LocalArtifactRepository":
    import mlflow
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository
    from mlflow.utils.file_utils import local_file_uri_to_path

    store = sqlite_file(tracking_uri or mlflow.get_tracking_uri())
    if store is not None:
        artifact_uri = str(artifact_folder(store, Path(local_file_uri_to_path(artifact_uri))))
    return LocalArtifactRepository(artifact_uri, tracking_uri=tracking_uri, registry_uri=registry_uri)


def artifact_folder(store: Path, recorded: Path) -> Path:
    """Return the folder of the files that an SQLite store has recorded at an absolute path, `…/mlruns/<experiment>/…`.

    It is returned unchanged, unless the store's folder has an `mlruns` with files of that experiment: then its end
    from `mlruns` on is looked for there.
    """
    _, root, path = str(recorded).rpartition(f"/{ARTIFACT_ROOT}/")
    folder = store.parent.resolve() / ARTIFACT_ROOT
    return folder / path if root and (folder / Path(path).parts[0]).is_dir() else recorded
