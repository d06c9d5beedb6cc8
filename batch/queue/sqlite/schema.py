"""The schema's numbered migrations, forward only, applied by sqlite-utils.

The number of the last one is mirrored in `PRAGMA user_version`, so that opening a current database costs one pragma and
no import of sqlite-utils (which would double the start-up time of `batch status`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import BatchError

if TYPE_CHECKING:
    from sqlite_utils.db import Database

MIGRATIONS = {
    "0001 jobs, queue, claims": "0001_jobs_queue_claims.sql",
    "0002 idempotency keys": "0002_idempotency_keys.sql",
    "0003 jobs by origin": "0003_jobs_by_origin.sql",
    "0004 files, uploads, batches": "0004_files_and_batches.sql",
    "0005 the folder's ledger": "0005_folder.sql",
    "0006 pauses": "0006_pauses.sql",
    "0007 responses, conversations": "0007_responses.sql",
    "0008 search index": "0008_search.sql",
    "0009 leases": "0009_leases.sql",
    "0010 how texts were read": "0010_reading.sql",
    "0011 files that batches hold": "0011_held_files.sql",
    "0012 notifications": "0012_notifications.sql",
    "0013 stored bytes": "0013_stored_bytes.sql",
    "0014 nodes": "0014_nodes.sql",
    "0015 jobs by parent": "0015_jobs_by_parent.sql",
    "0016 kept bytes": "0016_kept_bytes.sql",
    "0017 models by name": "0017_models.sql",
    "0018 jobs by model": "0018_jobs_by_model.sql",
}
"""Files in migrations/ by the name that databases remember. A released one never changes; a new one goes to the end."""
VERSION = len(MIGRATIONS)
OPEN_TIMEOUT_S = 30


class NewerDatabase(BatchError):
    """The database's schema is beyond what this code knows."""

    sentence = "The database was written by a newer batch."


class OlderDatabase(BatchError):
    """The database belongs to a service of an older batch, which runs."""

    sentence = "The service that runs is of an older batch: stop it and start it again with this one."


def refuse_newer(path: Path, version: int) -> None:
    """Raise NewerDatabase where a database's `user_version` is beyond what this code knows."""
    if version > VERSION:
        raise NewerDatabase(
            f"{path} was written by a newer batch (schema {version}, this one knows {VERSION}): upgrade batch, "
            "or start in another home folder."
        )


def read_version(path: Path) -> int:
    """A database's schema version; 0 for an empty file."""
    with contextlib.closing(sqlite3.connect(path, timeout=OPEN_TIMEOUT_S)) as probe:
        return int(probe.execute("pragma user_version").fetchone()[0])


def migrate(path: Path) -> None:
    """Bring the database at `path` to `VERSION`, whatever it holds. Raises NewerDatabase."""
    refuse_newer(path, read_version(path))
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("batch")
    for name, file in MIGRATIONS.items():
        migrations(name=name)(_script(file))
    conn = sqlite3.connect(path, timeout=OPEN_TIMEOUT_S, isolation_level=None)
    # Page size and vacuum mode can only be chosen before the first table is written.
    conn.execute("pragma auto_vacuum=incremental")
    conn.execute("pragma journal_mode=wal")
    conn.execute("begin exclusive")  # another process may be migrating this very moment
    try:
        if conn.execute("pragma user_version").fetchone()[0] < VERSION:
            migrations.apply(Database(conn))
            conn.execute(f"pragma user_version={VERSION}")
        conn.execute("commit")
    except BaseException:
        with contextlib.suppress(sqlite3.OperationalError):  # a full disk has rolled it back already
            conn.execute("rollback")
        raise
    finally:
        conn.close()


def _script(file: str) -> Callable[[Database], None]:
    """What runs a migration's file; sqlite3's own executescript commits first, which would break the transaction."""

    def run(db: Database) -> None:
        statement = ""
        for line in (Path(__file__).parent / "migrations" / file).read_text("utf-8").splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                db.execute(statement)
                statement = ""

    return run
