"""A write transaction in Postgres: statements of modules, and jobs that are accepted together with them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import psycopg

from batch import fail_points
from batch.queue.jobs import Draft
from batch.queue.postgres.payloads.payload_writer import PayloadWriter
from batch.queue.postgres.portable_sql import to_parameters, to_psycopg

_SUBMIT = """
with known as (select 1 from job where id = ?),
  message as (insert into task (queue, job, priority, holder, held_until)
    select ?, ?, ?, cast(? as text), clock_timestamp() + make_interval(secs => ?)
    where not exists (select 1 from known) returning id)
insert into job (id, kind, task, state, origin, priority, request, source, parent, waited, message, created_at, front, model)
select ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, message.id, unix_now(), ?, ? from message"""


class PostgresTransaction:
    """Statements that commit together; made by `PostgresDatabase.transaction`."""

    def __init__(self, conn: psycopg.Connection[tuple[Any, ...]], front: str, payloads: PayloadWriter) -> None:
        self._conn = conn
        self._front = front
        self._payloads = payloads
        self.queues: set[str] = set()
        """Queues that got a message, whose workers are woken after the commit."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        """Run a statement."""
        return self._conn.execute(to_psycopg(sql), to_parameters(params))

    def execute_many(self, sql: str, params: Sequence[Sequence[Any]]) -> None:
        """Run a statement once for every row of parameters."""
        if params:
            with self._conn.cursor() as cursor:
                cursor.executemany(to_psycopg(sql), [to_parameters(row) for row in params])

    def submit(self, draft: Draft) -> None:
        """Accept a job, its row and its message together; nothing when a job of its id is there, as a submit whose answer was
        lost may come again."""
        from batch.payloads.json_text import encode  # here, as `batch status` submits nothing

        fail_points.reach("spooled")
        kind, priority = draft.kind, int(draft.priority)
        added = self.execute(
            _SUBMIT,
            (
                draft.id,
                draft.queue,
                draft.id,
                float(priority),
                draft.holder or None,
                draft.hold_s if draft.holder else None,
                draft.id,
                kind,
                draft.task,
                draft.origin,
                priority,
                encode(draft.payload).decode(),
                draft.source,
                draft.parent,
                draft.waited,
                self._front,
                draft.model,
            ),
        ).rowcount
        if not added:
            return
        self.queues.add(draft.queue)
        if draft.blobs:
            self.hold(draft.id, draft.blobs, "request")

    def hold(self, owner: str, names: Collection[str], role: str) -> None:
        """Tie payloads to the row with the id `owner`; those that only the home's folder has are committed with it. Raises
        Unavailable where the bytes are gone."""
        self.hold_bytes(names)
        self.execute_many("insert into blob values (?,?,?) on conflict do nothing", [(owner, sha256, role) for sha256 in names])

    def hold_bytes(self, names: Collection[str]) -> None:
        """Have payloads in the database when this commits. Raises Unavailable where the bytes are gone."""
        self._payloads.hold(self._conn, names)
