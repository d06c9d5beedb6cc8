"""Who may take part in a move of a PostgreSQL database, and what it refuses in one sentence."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from batch.errors import BatchError, Conflict, Forbidden
from batch.queue.postgres import schema
from batch.queue.postgres.connection_info import connect
from batch.queue.postgres.error_mapping import to_batch_error
from batch.queue.sqlite.schema import OlderDatabase
from batch.queue.transfer.postgres_aside import has_schema

Connection = psycopg.Connection[tuple[Any, ...]]

_OTHERS_END_S = 10.0
"""So long a program that ends may still be connected."""
_OTHERS = (
    "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() "
    "and (application_name = 'batch' or application_name is null)"
)


def owner_of(conn: Connection) -> bytes:
    """The role that owns the tables, quoted. Raises Forbidden where the address's may not act for it."""
    with conn.transaction():
        try:
            schema.act_as_owner(conn)
        except OlderDatabase:
            raise Forbidden(
                f"The role {conn.info.user} does not own the tables: name the role that made them, or a member of it."
            ) from None
        row = conn.execute(b"select quote_ident(current_user)").fetchone()
    assert row is not None
    return str(row[0]).encode()


def refuse_others(url: str) -> None:
    """Raise Conflict where programs of batch are connected to the database, unless they end soon."""
    with postgres_errors(), connect(url) as conn:
        refuse_connected(conn)


def is_aside(url: str, name: str) -> bool:
    """Whether the tables of a database were put aside under that name."""
    with postgres_errors(), connect(url) as conn:
        return has_schema(conn, name)


def refuse_connected(conn: Connection) -> None:
    """Raise Conflict where programs of batch have other connections to the same database, unless they end soon."""
    deadline = time.monotonic() + _OTHERS_END_S
    while True:
        row = conn.execute(_OTHERS.encode()).fetchone()
        others = int(row[0]) if row else 0
        if not others:
            return
        if time.monotonic() > deadline:
            raise Conflict(
                f"Other programs use the database ({others} connections of services, workers or commands): stop them all and "
                "try again."
            )
        time.sleep(0.2)


@contextlib.contextmanager
def postgres_errors() -> Iterator[None]:
    """What PostgreSQL refuses is said in one sentence."""
    try:
        yield
    except psycopg.Error as error:
        translated = to_batch_error(error)
        if translated is not error:
            raise translated from error
        reason = " ".join(str(error).split("\n")[0].split())[:300]
        raise BatchError(f"PostgreSQL refused a step of the move ({reason}).") from error
