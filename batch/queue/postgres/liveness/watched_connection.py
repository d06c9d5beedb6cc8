"""A connection that is made when it is wanted first, and anew once it is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg

from batch.queue.postgres.connection_info import connect
from batch.queue.postgres.error_mapping import is_connection_lost, to_batch_error
from batch.queue.postgres.liveness.answer_watch import ANSWER_WATCH

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]


class WatchedConnection:
    """One connection for all threads of a process, in turn; none waits for a database that answers nobody."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        ANSWER_WATCH.add(self)

    @property
    def url(self) -> str:
        """The database's address."""
        return self._url

    @property
    def connection(self) -> Connection | None:
        """The one that statements are sent by at the moment."""
        return self._connection

    def run(self, work: Callable[[Connection], T], *, tries: int = 1) -> T:
        """Do something on it, up to `tries` times where the connection is lost in the middle. Raises StoreAway, and whatever
        else psycopg's errors stand for."""
        with self._lock:
            for tries_left in reversed(range(tries)):
                try:
                    if self._connection is None or self._connection.closed:
                        self._connection = connect(self._url)
                    return work(self._connection)
                except psycopg.Error as error:
                    is_lost = is_connection_lost(error)
                    if is_lost and self._connection is not None:
                        self._connection.close()
                    if tries_left == 0 or not is_lost:
                        raise to_batch_error(error) from error
        raise AssertionError("the last try returns or raises")

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
