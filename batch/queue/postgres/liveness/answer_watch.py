"""Ends the wait for a database that takes statements and answers none, as one behind a frozen pooler does: the line is whole
then, and keepalives are answered."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus

from batch.queue.postgres.connection_info import connect

logger = logging.getLogger("batch.queue")

PATIENCE_S = 10.0
"""After so long without an answer the database is asked, on another connection, whether it is there at all."""
LOOK_INTERVAL_S = 1.0

_Connection = psycopg.Connection[tuple[Any, ...]]


class Watched(Protocol):
    """What waits for answers."""

    @property
    def url(self) -> str:
        """The database's address."""
        ...

    @property
    def connection(self) -> _Connection | None:
        """The one that statements are sent by at the moment."""
        ...


class AnswerWatch:
    """One a process, with a thread of its own from the first database on. A statement may take as long as it needs, as long as
    the database answers others."""

    def __init__(self) -> None:
        self._watched: weakref.WeakSet[Watched] = weakref.WeakSet()
        self._waiting_since: weakref.WeakKeyDictionary[_Connection, float] = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()
        self._pid = 0

    def add(self, watched: Watched) -> None:
        """Look after a database until it is gone."""
        with self._lock:
            self._watched.add(watched)
            if self._pid != os.getpid():  # threads do not outlive a fork
                self._pid = os.getpid()
                threading.Thread(target=self._watch, name="answers", daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_INTERVAL_S)
            with self._lock:
                watched = list(self._watched)
            for one in watched:
                try:
                    self._look(one)
                except Exception:
                    logger.exception("a connection to the database could not be looked at")
            del watched

    def _look(self, watched: Watched) -> None:
        conn = watched.connection
        if conn is None or conn.closed or conn.pgconn.transaction_status != TransactionStatus.ACTIVE:
            if conn is not None:
                self._waiting_since.pop(conn, None)
            return
        if time.monotonic() - self._waiting_since.setdefault(conn, time.monotonic()) < PATIENCE_S:
            return
        self._waiting_since.pop(conn, None)
        if _answers(watched.url) or watched.connection is not conn:
            return
        logger.error("the database has not answered for %.0f s: its connection is given up", PATIENCE_S)
        with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(conn.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)


def _answers(url: str) -> bool:
    """Whether the database, or what stands before it, says anything: also that it has no room."""
    try:
        with contextlib.closing(connect(url)) as conn:
            conn.execute("select 1")
        return True
    except psycopg.Error as error:
        return bool(error.sqlstate) or "FATAL" in str(error)


ANSWER_WATCH = AnswerWatch()
