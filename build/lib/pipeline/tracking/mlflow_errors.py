"""MLflow's errors in one line, and a check of the store's schema before MLflow migrates it without being asked."""

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from pipeline.tracking.mlflow_settings import sqlite_file, without_password


class OtherSchema(Exception):
    """The store's schema belongs to another version of MLflow; the message names which, and the remedy."""


def check_schema(uri: str) -> None:
    """Check the schema of an SQLite store before MLflow opens it: a migrated store may be unreadable for other users.

    Raises:
        OtherSchema: The schema is that of an older or a newer MLflow.
    """
    path = sqlite_file(uri)
    if path is None or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # no store yet, or another file: MLflow reports it
        return
    if row is not None and row[0] not in _revisions().get_heads():
        raise OtherSchema(_remedy(row[0], uri))


def _schema_remedy(text: str, uri: str | None) -> str | None:
    """Return the remedy where MLflow's message is about the schema, else None."""
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
    """Return an MLflow error as one line without passwords, with the remedy where there is one.

    Args:
        error: The error that MLflow raised.
        uri: Address of the store.
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
