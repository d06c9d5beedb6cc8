"""Statements on payloads of a worker that has no rights on tables: functions for those of jobs that it has the lease of."""

from __future__ import annotations

from typing import Any

from batch.queue.postgres.payloads.payload_rows import Connection, PayloadObject, PayloadRows, new_key


class WorkerPayloadRows(PayloadRows):
    """A worker reads what its jobs need, and what was put in during the last minute, as a question's picture; it writes what
    its jobs bring forth."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def lock_present(self, conn: Connection, names: list[str]) -> set[str]:
        return {name for name in names if _value(conn, "select worker_lock_payload(%s, %s)", (self._secret, name))}

    def touch_staged(self, conn: Connection, sha256: str) -> set[int]:
        return set(_value(conn, "select worker_touch_parts(%s, %s)", (self._secret, sha256)))

    def put(self, conn: Connection, sha256: str, part: int, data: bytes) -> None:
        _value(conn, "select worker_write_payload(%s, %s, %s, %s)", (self._secret, sha256, part, data))

    def read(self, conn: Connection, sha256: str, part: int) -> bytes | None:
        data = _value(conn, "select worker_read_payload(%s, %s, %s)", (self._secret, sha256, part))
        return None if data is None else bytes(data)

    def mark_damaged(self, conn: Connection, sha256: str) -> None:
        _value(conn, "select worker_mark_damaged(%s, %s)", (self._secret, sha256))

    def begin_object(self, conn: Connection, sha256: str, place: str) -> PayloadObject:
        params = (self._secret, sha256, place, new_key(sha256))
        (row,) = conn.execute("select * from worker_begin_object(%s, %s, %s, %s)", params).fetchall()
        return PayloadObject(*row)

    def finish_object(self, conn: Connection, sha256: str, written: PayloadObject) -> bool:
        params = (self._secret, sha256, written.place, written.key)
        return bool(_value(conn, "select worker_finish_object(%s, %s, %s, %s)", params))

    def find_object(self, conn: Connection, sha256: str) -> PayloadObject | None:
        row = conn.execute("select * from worker_find_object(%s, %s)", (self._secret, sha256)).fetchone()
        return None if row is None else PayloadObject(*row)


def _value(conn: Connection, sql: str, params: tuple[Any, ...]) -> Any:
    row = conn.execute(sql.encode(), params).fetchone()
    return None if row is None else row[0]
