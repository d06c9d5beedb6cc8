"""The payloads of a worker that has no rights on tables: those of jobs that it has the lease of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg

from batch.queue.postgres.shared_spool import MAX_CACHE_BYTES, SharedSpool


class WorkerSpool(SharedSpool):
    """A SharedSpool by functions that a worker's role may call: it reads what its jobs need, and what was put in during the
    last minute, as a question's picture; it writes what its jobs bring forth."""

    def __init__(self, folder: Path, url: str, secret: str, *, max_cache_bytes: int = MAX_CACHE_BYTES) -> None:
        super().__init__(folder, url, max_cache_bytes=max_cache_bytes)
        self._secret = secret

    def _touch(self, conn: psycopg.Connection[tuple[Any, ...]], sha256: str) -> bool:
        return bool(_value(conn, "select worker_touch_payload(%s, %s)", (self._secret, sha256)))

    def _write_part(self, conn: psycopg.Connection[tuple[Any, ...]], sha256: str, part: int, data: bytes) -> None:
        _value(conn, "select worker_write_payload(%s, %s, %s, %s)", (self._secret, sha256, part, data))

    def _read_part(self, conn: psycopg.Connection[tuple[Any, ...]], sha256: str, part: int) -> bytes | None:
        data = _value(conn, "select worker_read_payload(%s, %s, %s)", (self._secret, sha256, part))
        return None if data is None else bytes(data)


def _value(conn: psycopg.Connection[tuple[Any, ...]], sql: str, params: tuple[Any, ...]) -> Any:
    row = conn.execute(sql.encode(), params).fetchone()
    return None if row is None else row[0]
