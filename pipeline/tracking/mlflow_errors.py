"""What is wrong with a store, in one line; and whether its tables are those of the installed MLflow, which would
migrate some older ones without being asked."""

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from pipeline.tracking.mlflow_settings import sqlite_file, without_password


class OtherSchema(Exception):
    """The tables are those of another MLflow; the message names which, and the remedy."""


def check_schema(uri: str) -> None:
    """Look into an SQLite store before MLflow does: whoever else uses it may not have the MLflow to read it migrated.

    Raises:
        OtherSchema: it is of an older or a newer MLflow.
    """
    path = sqlite_file(uri)
    if path is None or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # no store yet, or none at all: MLflow says so
        return
    if row is not None and row[0] not in _revisions().get_heads():
        raise OtherSchema(_remedy(row[0], uri))


def _schema_remedy(text: str, uri: str | None) -> str | None:
    """Return the remedy where MLflow's own message complains of the schema, else None."""
    if "database schema" not in text and "Can't locate revision" not in text:
        return None
    match = re.search(r"(?:found version |identified by ')(\w+)", text)
    return _remedy(match[1] if match else "", uri)


def _remedy(revision: str, uri: str | None) -> str:
    if any(known_revision.revision == revision for known_revision in _revisions().walk_revisions()):
        store = shlex.quote(without_password(uri or "URI"))
        return f"its schema is that of an older MLflow; back it up, then run `mlflow db upgrade {store}`"
    return "its schema is that of a newer MLflow than the one installed here; update mlflow"


def _revisions():
    from alembic.script import ScriptDirectory
    from mlflow.store import db_migrations

    return ScriptDirectory(str(Path(db_migrations.__path__[0])))


def short_reason(error: BaseException, uri: str | None = None) -> str:
    """Return what went wrong in MLflow as one line without passwords, with the remedy where there is one.

    Args:
        error: What MLflow raised.
        uri: The store that was asked.
    """
    text = str(error)
    if isinstance(error, OtherSchema):
        return text
    if remedy := _schema_remedy(text, uri):
        return remedy
    if "failed with exception" in text:  # the connection's own error is at the root, behind four layers of URLs
        while error.__cause__ or error.__context__:
            error = error.__cause__ or error.__context__
    return without_password((str(error).splitlines() or [type(error).__name__])[0][:200])
