"""A new database from what can be read of a damaged one and of its newest backup."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batch.errors import DiskFull
from batch.model_kind import queue_of
from batch.queue.jobs import State
from batch.queue.messages import message_for
from batch.queue.sqlite import schema

_ROWS_AT_ONCE = 200
_LEFT_OUT = (
    "tally",
    "model_tally",
    "file_tally",
    "entry",
    "entry_source",
    "passage",
    "vector",
    "passage_removed",
    "search_meta",
    "stored_bytes",
    "notification_event",
    "notification_delivery",
)
"""Counters, which triggers fill as rows come in, notifications, which would be sent again, and the search index, which is built
again from results."""
_FILES = ("", "-wal", "-shm")
"""What belongs to a database, by what follows its name."""


@dataclass(frozen=True, slots=True)
class Repair:
    """What came of it."""

    aside: Path
    """Folder with the damaged files."""
    jobs: int
    """Jobs in the new database."""
    from_backup: int
    """Of these, jobs that only the backup held."""
    queued_again: int
    """Jobs that had been running or whose message was lost."""
    incomplete: tuple[str, ...]
    """Tables of which rows could not be read."""


def repair(path: Path, backup: Path) -> Repair:
    """Put the damaged database aside and build it anew; nobody may have it open. Raises DiskFull, with all as it was."""
    aside = path.parent / f"damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    aside.mkdir(mode=0o700)
    for ending in _FILES:
        with contextlib.suppress(FileNotFoundError):
            os.replace(f"{path}{ending}", aside / f"{path.name}{ending}")
    try:
        return _build(path, backup, aside)
    except BaseException as error:
        # The next start must not take what was begun here for the whole.
        for ending in _FILES:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{path}{ending}")
            with contextlib.suppress(FileNotFoundError):
                os.replace(aside / f"{path.name}{ending}", f"{path}{ending}")
        aside.rmdir()
        if isinstance(error, sqlite3.Error):
            raise DiskFull(
                f"The database {path} could not be built anew and is as it was ({error}): make room on its disk and run "
                "`batch repair` again."
            ) from error
        raise


def _build(path: Path, backup: Path, aside: Path) -> Repair:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    schema.migrate(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as target:
        target.execute("begin")
        incomplete = _copy(aside / path.name, target)
        rows = _count(target, "job")
        incomplete += _copy(backup, target)
        queued_again = _mend(target)
        jobs = _count(target, "job")
        target.execute("commit")
    return Repair(aside, jobs, jobs - rows, queued_again, tuple(dict.fromkeys(incomplete)))


def _count(conn: sqlite3.Connection, table: str) -> int:
    return int(conn.execute(f"select count(*) from {table}").fetchone()[0])


def _copy(source: Path, target: sqlite3.Connection) -> list[str]:
    """Copy every row that can be read and is not there yet; the tables that could not be read to their end."""
    incomplete: list[str] = []
    if not source.exists():
        return incomplete
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as conn:
        for table, key in _tables(target):
            info = target.execute(f"pragma table_info({table})").fetchall()
            columns = [row[1] for row in info]
            if key == "rowid ?" and not any(row[5] and row[2] == "integer" for row in info):
                columns.insert(0, "rowid")  # by which a row without a key of its own is known again
            try:
                there = {"rowid", *(row[1] for row in conn.execute(f"pragma table_info({table})"))}
            except sqlite3.DatabaseError:
                incomplete.append(table)
                continue
            if len(there) == 1:
                continue  # an older schema, which had no such table
            names = [f'"{column}"' for column in columns if column in there]
            shared, marks = ", ".join(names), ",".join("?" * len(names))
            for order in ("asc", "desc"):  # from both ends, as a damaged page stops a walk
                try:
                    for rows in _slices(conn, f"select {shared} from {table} order by {key.replace('?', order)}"):
                        target.executemany(f"insert or ignore into {table} ({shared}) values ({marks})", rows)
                    break
                except sqlite3.DatabaseError as error:
                    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
                        raise  # it is the new one that takes no more
                    incomplete.append(table)
    return incomplete


def _tables(conn: sqlite3.Connection) -> Iterator[tuple[str, str]]:
    """(table, order) of all that holds rows of its own; the order has a question mark for its direction."""
    rows = conn.execute("select name, sql from sqlite_master where type='table' and name not like 'sqlite_%'").fetchall()
    virtual = [name for name, sql in rows if sql.lower().startswith("create virtual")]
    for name, sql in rows:
        if name in _LEFT_OUT or name.startswith("_") or name in virtual or any(name.startswith(f"{v}_") for v in virtual):
            continue
        keys = [row[1] for row in conn.execute(f"pragma table_info({name})") if row[5]]
        yield name, ", ".join(f'"{key}" ?' for key in keys) if "without rowid" in sql.lower() else "rowid ?"


def _slices(conn: sqlite3.Connection, query: str) -> Iterator[Sequence[Any]]:
    cursor = conn.execute(query)
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        yield rows


def _mend(conn: sqlite3.Connection) -> int:
    """Make jobs, messages and claims fit each other; how many jobs wait again that ran, or had lost their message."""
    conn.execute("delete from claim where job not in (select id from job where state='running')")
    conn.execute("delete from task where queue<>'set aside' and id not in (select message from job where state='queued')")
    lost = conn.execute(
        "select id, kind, model, priority from job where state='running' and id not in (select job from claim) "
        "or state='queued' and (message is null or message not in (select id from task)) order by id"
    ).fetchall()
    for job, kind, model, priority in lost:
        message = conn.execute(
            "insert into task (queue, data, priority) values (?,?,?)", (queue_of(kind, model), message_for(job), priority)
        ).lastrowid
        conn.execute("update job set state=?, message=?, started_at=null where id=?", (State.QUEUED, message, job))
    return len(lost)
