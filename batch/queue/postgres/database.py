"""One connection to Postgres, made again when it breaks: queries, transactions and their durability."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psycopg

from batch import fail_points
from batch.queue.postgres import schema
from batch.queue.postgres.connection_info import check_address, connect, lease_of
from batch.queue.postgres.error_mapping import is_connection_lost, to_batch_error
from batch.queue.postgres.job_transaction import PostgresTransaction
from batch.queue.postgres.liveness.answer_watch import ANSWER_WATCH
from batch.queue.postgres.payloads.payload_rows import PayloadRows
from batch.queue.postgres.payloads.payload_writer import PayloadWriter
from batch.queue.postgres.portable_sql import to_parameters, to_psycopg
from batch.queue.selection.inbox_scope import InboxScope
from batch.queue.store import StoreAway

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

logger = logging.getLogger("batch.queue")

_FIRST_PAUSE_S = 0.1
_MAX_PAUSE_S = 2.0
"""Between two tries to reach a database that is away; whoever asks meanwhile is told so at once."""
_FRESH_S = 1.0
"""A connection that was used so lately counts as whole."""
_FOLD_INTERVAL_S = 1.0
_FOLDED_AT_ONCE = 20_000

_BEGIN = b"begin"
_NOT_DURABLE = b"; set local synchronous_commit = off"
"""Never without `local`: it would stay with a connection that a pooler gives to another client."""
_ALONE = f"; select pg_advisory_xact_lock({schema.ADVISORY_CLASS}, 2)".encode()
"""Transactions on tables of modules read, decide and write: one at a time, as in SQLite."""


class PostgresDatabase:
    """Methods may be called from any thread, one at a time."""

    _fold = "select fold_state_changes(?)"

    def __init__(
        self, url: str, *, home: Path, front: str = "", inbox: str = "", readonly: bool = False, create: bool = True
    ) -> None:
        """`front`: the service that this connection accepts jobs for. `inbox`: the id of its inbox, where that is not the
        front's own."""
        check_address(url)
        self._url = url
        self.lease_s = lease_of(url)
        """How many seconds a lease lasts unless it is renewed."""
        self._home = home
        self._front = front
        self._payloads = PayloadWriter(self._payload_rows(), home / ".batch" / "spool")
        self.inbox_scope = InboxScope(inbox or front)
        self.submitted: Callable[[set[str]], None] = lambda queues: None
        self._lock = threading.RLock()
        self._conn: Connection | None = None
        self._is_in_transaction = False
        self._pause_s = 0.0
        self._next_try_at = 0.0
        self._next_fold_at = 0.0
        self._used_at = 0.0
        self._has_connected = False
        self._reconnected_at: float | None = None
        """Since when, after a break, the database answers again: another server may be the primary by now."""
        ANSWER_WATCH.add(self)
        conn = self._connected()
        try:
            if create and not readonly:
                schema.migrate(conn)
            else:
                schema.refuse_newer(schema.read_version(conn))
        except psycopg.Error as error:
            self.close()
            raise to_batch_error(error) from error
        except BaseException:
            self.close()
            raise

    def _payload_rows(self) -> PayloadRows:
        return PayloadRows()

    @property
    def home(self) -> Path:
        """The home folder that it was opened for."""
        return self._home

    @property
    def front(self) -> str:
        """The service that jobs are accepted for."""
        return self._front

    @property
    def is_shared(self) -> bool:
        """Whether workers of other machines may hold leases."""
        return True

    @property
    def url(self) -> str:
        """The database's address."""
        return self._url

    @property
    def connection(self) -> Connection | None:
        """The one that statements are sent by at the moment."""
        return self._conn

    def check(self) -> None:
        """Whether the database answers; it looks after its own pages. Raises StoreAway, DamagedDatabase."""
        self.read("select 1")

    def close(self) -> None:
        with self._lock:
            if self._conn is not None:
                self._conn.close()
                self._conn = None

    def _connected(self) -> Connection:
        """The connection, made anew where it broke. Raises StoreAway, at once where the last try was a moment ago."""
        if self._conn is not None and not self._conn.closed:
            return self._conn
        if time.monotonic() < self._next_try_at:
            raise StoreAway()
        self.close()
        try:
            self._conn = connect(self._url)
            self._conn.add_notice_handler(_log_warning)
        except psycopg.Error as error:
            self._pause_s = min(_MAX_PAUSE_S, max(_FIRST_PAUSE_S, self._pause_s * 2))
            self._next_try_at = time.monotonic() + self._pause_s
            raise to_batch_error(error) from error
        if self._pause_s:
            logger.warning("the database answers again")
        if self._has_connected:
            self._reconnected_at = time.monotonic()
        self._has_connected = True
        self._pause_s = self._next_try_at = 0.0
        return self._conn

    def _with_connection(self, work: Callable[[Connection], T]) -> T:
        """Do what changes nothing, or what may be done twice; once more where the connection turns out to be broken."""
        with self._lock:
            for is_last in (self._is_in_transaction, True):
                try:
                    return work(self._connected())
                except psycopg.Error as error:
                    if is_last or not is_connection_lost(error):
                        raise to_batch_error(error) from error
                    logger.warning("the connection to the database broke: %s", to_batch_error(error))
                    self.close()
        raise AssertionError("the last try returns or raises")

    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Rows of a query. Raises StoreAway, DamagedDatabase."""
        query, values = to_psycopg(sql), to_parameters(params)
        return self._with_connection(lambda conn: conn.execute(query, values).fetchall())

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[PostgresTransaction]:
        """One write transaction on tables of modules, of which one at a time goes on in the whole database. `durable`: on the
        database's disk before it returns.

        Raises DiskFull and StoreAway; nothing is kept then, unless the connection broke in the very moment of the commit.
        """
        with self._begun(durable=durable, alone=True) as transaction:
            yield transaction

    def _run_alone(self, sql: str, params: Sequence[Any], *, durable: bool) -> list[Any]:
        """Rows of one statement that is a transaction of its own: a third of the round trips of one that is begun. A statement
        that is not to be `durable` says so itself."""
        with self._lock:
            conn = self._conn
            if conn is None or conn.closed or time.monotonic() - self._used_at > _FRESH_S:
                # The connection may be broken, which a `begin` finds out without anything being done twice.
                with self._begun(durable=durable) as transaction:
                    return transaction.execute(sql, params).fetchall()
            try:
                rows = conn.execute(to_psycopg(sql), to_parameters(params)).fetchall()
            except psycopg.Error as error:
                raise to_batch_error(error) from error
            self._used_at = time.monotonic()
            self._fold_if_due()
            return rows

    @contextlib.contextmanager
    def _begun(self, *, durable: bool, alone: bool = False) -> Iterator[PostgresTransaction]:
        begin = _BEGIN + (b"" if durable else _NOT_DURABLE) + (_ALONE if alone else b"")
        with self._lock:
            conn = self._with_connection(lambda conn: self._begin(conn, begin))
            self._is_in_transaction = True
            try:
                yield (transaction := PostgresTransaction(conn, self._front, self._payloads))
                conn.execute(b"commit")
            except psycopg.Error as error:
                self._roll_back(conn)
                raise to_batch_error(error) from error
            except BaseException:
                self._roll_back(conn)
                raise
            finally:
                self._is_in_transaction = False
            self._used_at = time.monotonic()
            self._fold_if_due()
        if transaction.queues:
            fail_points.reach("committed")
            self.submitted(transaction.queues)

    @staticmethod
    def _begin(conn: Connection, begin: bytes) -> Connection:
        conn.execute(begin)
        return conn

    @staticmethod
    def _roll_back(conn: Connection) -> None:
        if not conn.closed:
            with contextlib.suppress(psycopg.Error):  # the first error says more
                conn.execute(b"rollback")

    def _fold_if_due(self) -> None:
        """Add up what changed lately: every second one of all processes does."""
        if time.monotonic() < self._next_fold_at:
            return
        self._next_fold_at = time.monotonic() + _FOLD_INTERVAL_S
        conn = self._conn
        if conn is None or conn.closed:
            return
        try:
            conn.execute(_BEGIN + _NOT_DURABLE)
            conn.execute(to_psycopg(self._fold), (_FOLDED_AT_ONCE,))
            conn.execute(b"commit")
        except psycopg.Error as error:
            self._roll_back(conn)
            logger.debug("counters are added up later: %s", error)


def _log_warning(notice: psycopg.errors.Diagnostic) -> None:
    """What a function of ours found odd."""
    if notice.severity_nonlocalized == "WARNING":
        logger.error("%s", notice.message_primary)
