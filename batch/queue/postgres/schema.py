"""The schema's numbered migrations, forward only, one at a time whoever asks: an advisory lock stands around them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from batch.errors import SettingsProblem
from batch.queue.sqlite.schema import NewerDatabase, OlderDatabase

if TYPE_CHECKING:
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
    "0009_roles.sql",
    "0010_jobs_by_model.sql",
    "0011_inboxes.sql",
    "0012_cheaper_leases.sql",
    "0013_notification_secrets.sql",
    "0014_worker_port.sql",
    "0015_payload_objects.sql",
)
"""Files in migrations/. A released one never changes; a new one goes to the end, and only adds what the version before can
ignore, as workers of both run side by side."""
VERSION = len(MIGRATIONS)
ADVISORY_CLASS = 7082110
"""First half of the advisory locks of this program; the second says what for: 1 migrations, 2 tables of modules, 3 counters,
4 the sweeper of payloads."""
MIN_SERVER_VERSION = 130000
_FUNCTIONS = Path(__file__).parent / "roles" / "worker_functions.sql"
"""Carried out after the migrations, whichever were due."""


def read_version(conn: Connection) -> int:
    """A database's schema version; 0 for an empty one, or one in which this role has no rights."""
    row = conn.execute(
        "select to_regproc('worker_schema_version') is not null, to_regclass('batch_schema') is not null"
    ).fetchone()
    assert row is not None
    if not row[1]:
        return 0
    query = "select worker_schema_version()" if row[0] else "select coalesce(max(version), 0) from batch_schema"
    try:
        row = conn.execute(query.encode()).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return 0
    return 0 if row is None else int(row[0])


def refuse_newer(version: int) -> None:
    """Raise NewerDatabase where a schema is beyond what this code knows."""
    if version > VERSION:
        raise NewerDatabase(
            f"The PostgreSQL database was written by a newer batch (schema {version}, this one knows {VERSION}): upgrade batch."
        )


def _owner(conn: Connection) -> str | None:
    """The role that owns the tables, if this one may act for it; in an empty database this one, if it may make tables."""
    row = conn.execute(
        "select case when pg_has_role(c.relowner, 'MEMBER') then c.relowner::regrole::text end "
        "from pg_class c where c.oid = to_regclass('batch_schema')"
    ).fetchone()
    if row is None:
        row = conn.execute(
            "select case when has_schema_privilege(current_schema(), 'CREATE') then quote_ident(current_user) end"
        ).fetchone()
    return None if row is None or row[0] is None else str(row[0])


def act_as_owner(conn: Connection) -> None:
    """Until the transaction's end, be the role that owns the tables. Raises OlderDatabase where this one may not."""
    owner = _owner(conn)
    if owner is None:
        version = read_version(conn)
        if version == VERSION:
            raise OlderDatabase(f"The role {conn.info.user} does not own the tables of the database: run this as their owner.")
        state = f"has schema {version}" if version else "has no tables for this role"
        raise OlderDatabase(
            f"The PostgreSQL database {state}, this batch needs {VERSION}, and the role {conn.info.user} may not change it: "
            "its owner must run `batch database migrate`, and `batch database grant` if this role has no rights yet."
        )
    conn.execute(b"set local role " + owner.encode())


def migrate(conn: Connection) -> None:
    """Bring a database to `VERSION`, whatever it holds. Raises NewerDatabase, OlderDatabase, SettingsProblem."""
    if conn.info.server_version < MIN_SERVER_VERSION:
        raise SettingsProblem("The database is PostgreSQL older than 13: upgrade it, or name another one.")
    if conn.info.parameter_status("server_encoding") != "UTF8":
        raise SettingsProblem("The database's encoding is not UTF8: make one with `createdb --encoding=UTF8 -T template0`.")
    version = read_version(conn)
    refuse_newer(version)
    if version == VERSION:
        return
    with conn.transaction():
        act_as_owner(conn)
        conn.execute("select pg_advisory_xact_lock(%s, 1)", (ADVISORY_CLASS,))
        version = read_version(conn)
        refuse_newer(version)
        if version == VERSION:  # another process was faster
            return
        if version == 0:
            conn.execute(
                "create table if not exists batch_schema (version integer primary key, applied_at timestamptz default now())"
            )
        for number, file in enumerate(MIGRATIONS[version:], version + 1):
            conn.execute((Path(__file__).parent / "migrations" / file).read_bytes())
            conn.execute("insert into batch_schema (version) values (%s)", (number,))
        conn.execute(_FUNCTIONS.read_bytes())
