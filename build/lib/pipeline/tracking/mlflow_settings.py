"""MLflow's settings, and the address of its store."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

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


def configure_mlflow() -> None:
    """Make MLflow quiet and quick to fail, unless the user has set it otherwise; call before `import mlflow`."""
    import logging

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("alembic", "urllib3", "git"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@contextmanager
def request_timeout(seconds: float) -> Iterator[None]:
    """Extend the timeout of requests by so many seconds within the block, unless the user has set a timeout."""
    name, default = "MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_S)
    if os.environ.get(name) != default:
        yield
        return
    os.environ[name] = str(REQUEST_TIMEOUT_S + round(seconds))
    try:
        yield
    finally:
        os.environ[name] = default


@contextmanager
def store_lock(uri: str) -> Iterator[None]:
    """Lock an SQLite store while the block opens it, since two processes that create its tables disturb each other.

    Nothing is locked for other stores, or where the system has no file locks.
    """
    path = sqlite_file(uri)
    if fcntl is None or path is None or not path.parent.is_dir():
        yield
        return
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store; None for other stores."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def is_remote(uri: str) -> bool:
    """Whether the store is a server on the network."""
    return urlsplit(uri).scheme not in ("sqlite", "file", "")


def without_password(uri: str) -> str:
    """Return a URI without its user name and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)
