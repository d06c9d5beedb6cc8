"""The database's schema and its forward migrations, applied by sqlite-utils.

`VERSION` is mirrored in `PRAGMA user_version`, so that opening a current database costs one pragma and no import of
sqlite-utils (which would double the start-up time of `batch status`).
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from batch.errors import BatchError
from batch.queue import ledger_tables, pauses, search_tables
from batch.queue.batch_tables import FILES_AND_BATCHES
from batch.queue.response_tables import STORED_RESPONSES

if TYPE_CHECKING:
    from sqlite_utils.db import Database

VERSION = 8

# `task` is huey's own table, with AUTOINCREMENT (huey's strict_fifo): ids are never reused, so a message put back under
# its old id keeps its place in the line.
_FIRST = """
create table task (
  id integer not null primary key autoincrement, queue text not null, data blob not null,
  priority real not null default 0.0);
create index task_queue_priority_id on task (queue, priority desc, id);

create table job (
  id text primary key, kind text not null, task text not null, state text not null, origin text not null,
  priority integer not null, request text not null, result text, error text, progress text, source text, parent text,
  attempts integer not null default 0, cancel integer not null default 0, waited integer not null default 0,
  message integer, created_at real not null, started_at real, finished_at real);
create index job_kind_state on job (kind, state, id);
create index job_parent on job (parent) where parent is not null;

create table claim (
  job text primary key references job(id), queue text not null, data blob not null, priority real not null,
  message integer not null, taken_at real not null);

create table checkpoint (
  job text not null, step integer not null, data text not null, primary key (job, step)) without rowid;

create table blob (
  job text not null, sha256 text not null, role text not null, primary key (job, sha256, role)) without rowid;
create index blob_sha256 on blob (sha256);
create table orphan (sha256 text primary key) without rowid;

create table tally (
  kind text not null, origin text not null, priority integer not null, state text not null, n integer not null,
  primary key (kind, origin, priority, state)) without rowid;
create table daily (
  day text not null, kind text not null, state text not null, n integer not null, seconds real not null,
  waited real not null, primary key (day, kind, state)) without rowid;

create table service (name text primary key, value text not null) without rowid;

create trigger job_insert after insert on job begin
  insert into tally values (new.kind, new.origin, new.priority, new.state, 1)
    on conflict do update set n = n + 1;
end;
create trigger job_state after update of state on job when old.state <> new.state begin
  update tally set n = n - 1
    where kind = old.kind and origin = old.origin and priority = old.priority and state = old.state;
  insert into tally values (new.kind, new.origin, new.priority, new.state, 1)
    on conflict do update set n = n + 1;
end;
create trigger job_ended after update of state on job
  when old.state <> new.state and new.state in ('done', 'failed', 'cancelled') begin
  insert into daily values (date(new.finished_at, 'unixepoch', 'localtime'), new.kind, new.state, 1,
      coalesce(new.finished_at - new.started_at, 0), coalesce(new.started_at - new.created_at, 0))
    on conflict do update set n = n + 1, seconds = seconds + excluded.seconds, waited = waited + excluded.waited;
end;
create trigger job_delete after delete on job begin
  update tally set n = n - 1
    where kind = old.kind and origin = old.origin and priority = old.priority and state = old.state;
  delete from blob where job = old.id;
  delete from checkpoint where job = old.id;
end;
create trigger blob_delete after delete on blob begin
  insert or ignore into orphan values (old.sha256);
end;
"""

# What a caller's Idempotency-Key stands for: the jobs of the first request, in order, and a digest of that request.
_KEYS = """
create table idempotency (
  kind text not null, key text not null, place integer not null, fingerprint text not null, job text not null,
  primary key (kind, key, place)) without rowid;
create index idempotency_job on idempotency (job);
create trigger job_delete_key after delete on job begin
  delete from idempotency where job = old.id;
end;
"""


# Every list of jobs by model, state and door is a walk along this index, however many others there are.
_BY_ORIGIN = """
drop index job_kind_state;
create index job_kind_state_origin on job (kind, state, origin, id);
"""


class NewerDatabase(BatchError):
    """The database's schema is beyond what this code knows."""

    sentence = "The database was written by a newer batch."


def refuse_newer(path: Path, version: int) -> None:
    """Raise NewerDatabase where a database's `user_version` is beyond what this code knows."""
    if version > VERSION:
        raise NewerDatabase(
            f"{path} was written by a newer batch (schema {version}, this one knows {VERSION}): upgrade batch, "
            "or start in another home folder."
        )


def migrate(path: Path) -> None:
    """Bring the database at `path` to `VERSION`, creating it if need be; a current one costs one pragma."""
    with sqlite3.connect(path, timeout=30) as probe:
        found = probe.execute("pragma user_version").fetchone()[0]
    probe.close()
    if found == VERSION:
        return
    refuse_newer(path, found)
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

    migrations = Migrations("batch")

    @migrations(name="0001 jobs, queue, claims")
    def first(db: Database) -> None:
        _script(db, _FIRST)

    @migrations(name="0002 idempotency keys")
    def second(db: Database) -> None:
        _script(db, _KEYS)

    @migrations(name="0003 jobs by origin")
    def third(db: Database) -> None:
        _script(db, _BY_ORIGIN)

    @migrations(name="0004 files, uploads, batches")
    def fourth(db: Database) -> None:
        _script(db, FILES_AND_BATCHES)

    @migrations(name="0005 the folder's ledger")
    def fifth(db: Database) -> None:
        _script(db, ledger_tables.TABLES)
        ledger_tables.add_columns(db)

    @migrations(name="0006 pauses")
    def sixth(db: Database) -> None:
        _script(db, pauses.TABLE)

    @migrations(name="0007 responses, conversations")
    def seventh(db: Database) -> None:
        _script(db, STORED_RESPONSES)

    @migrations(name="0008 search index")
    def eighth(db: Database) -> None:
        _script(db, search_tables.TABLES)

    conn = sqlite3.connect(path, timeout=30, isolation_level=None)
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


def _script(db: Database, script: str) -> None:
    """sqlite3's own executescript commits first, which would break the migration's transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            db.execute(statement)
            statement = ""
