"""The schema's numbered migrations, forward only, one at a time whoever asks: an advisory lock stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from batch.errors import SettingsProblem
from batch.queue.sqlite.schema import NewerDatabase

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

MIGRATIONS = (
    "0001_tables.sql",
    "0002_triggers.sql",
    "0003_leases.sql",
    "0004_jobs_by_parent.sql",
    "0005_kept_bytes.sql",
    "0006_models.sql",
    "0007_fencing_tokens.sql",
    "0008_routing.sql",
)
"""Files in migrations/. A released one never changes; a new one goes to the end, and only adds what the version before can
ignore, as workers of both run side by side."""
VERSION = len(MIGRATIONS)
ADVISORY_CLASS = 7082110
"""First half of the advisory locks of this program; the second says what for: 1 migrations, 2 tables of modules, 3 counters."""
MIN_SERVER_VERSION = 130000


def read_version(conn: Connection) -> int:
    """A database's schema version; 0 for an empty one."""
    row = conn.execute("select to_regclass('batch_schema')").fetchone()
    if row is None or row[0] is None:
        return 0
    row = conn.execute("select coalesce(max(version), 0) from batch_schema").fetchone()
    return 0 if row is None else int(row[0])


def refuse_newer(version: int) -> None:
    """Raise NewerDatabase where a schema is beyond what this code knows."""
    if version > VERSION:
        raise NewerDatabase(
            f"The PostgreSQL database was written by a newer batch (schema {version}, this one knows {VERSION}): upgrade batch."
        )


def migrate(conn: Connection) -> None:
    """Bring a database to `VERSION`, whatever it holds. Raises NewerDatabase, SettingsProblem."""
    if conn.info.server_version < MIN_SERVER_VERSION:
        raise SettingsProblem("The database is PostgreSQL older than 13: upgrade it, or name another one.")
    if conn.info.parameter_status("server_encoding") != "UTF8":
        raise SettingsProblem("The database's encoding is not UTF8: make one with `createdb --encoding=UTF8 -T template0`.")
    refuse_newer(read_version(conn))
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(%s, 1)", (ADVISORY_CLASS,))
        version = read_version(conn)
        refuse_newer(version)
        if version == 0:
            conn.execute(
                "create table if not exists batch_schema (version integer primary key, applied_at timestamptz default now())"
            )
        for number, file in enumerate(MIGRATIONS[version:], version + 1):
            conn.execute((Path(__file__).parent / "migrations" / file).read_bytes())
            conn.execute("insert into batch_schema (version) values (%s)", (number,))
