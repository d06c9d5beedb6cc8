"""Leases of workers that died or fell silent: they run out by the database's clock, and their jobs go back."""

from __future__ import annotations

import time
from typing import Any

from batch.errors import WorkerDied
from batch.queue.jobs import State
from batch.queue.postgres.job_transaction import PostgresTransaction
from batch.queue.postgres.node_rows import PostgresNodes
from batch.queue.reading.job_rows import to_json

_CLAIMS = (
    "select c.job, c.token, exists (select 1 from claim i where i.worker = c.worker and i.queue = c.queue "
    "and i.token > c.token and i.taken_at <> c.taken_at) from claim c where "
)
"""(job, token, whether it only waited while a more urgent job ran inside it)."""
_RUN_OUT = (
    "c.until < clock_timestamp() and clock_timestamp() > pg_postmaster_start_time() + make_interval(secs => ?) "
    "order by c.until limit ? for update of c skip locked"
)
"""After a restart of the database nobody could renew a lease: all get their length once more."""


class PostgresLeases(PostgresNodes):
    """What becomes of jobs whose worker is gone."""

    @property
    def _grace_s(self) -> float:
        """For so long after a restart or a failover nothing is given back."""
        return self.lease_s

    def recover(
        self, queue: str, worker: str, limit: int, last_death: str = "", *, predecessor: str = ""
    ) -> list[tuple[str, State]]:
        """Called by a worker before it takes anything: the leases of `predecessor`, in whose place it is, go back.

        A job that took `limit` workers down is failed; one that only waited while a more urgent one ran inside it is not
        blamed. `last_death`: a clause that says what ended the last worker. Returns (job, new state) of all.
        """
        cause = f" ({last_death})" if last_death else ""
        with self._begun(durable=True) as transaction:
            claims = transaction.execute(
                _CLAIMS + "c.queue=? and c.worker=? and c.worker<>? for update of c", (queue, predecessor, worker)
            ).fetchall()
            moved = _give_back(transaction, claims, limit, cause)
            # Only now: what it was decides which workers its jobs are kept for.
            transaction.execute("delete from node where id = ? and id <> ?", (predecessor, worker))
            return moved

    def reap(self, limit: int, *, batch: int = 100) -> list[tuple[str, State]]:
        """Give back up to `batch` jobs whose leases ran out; one that took `limit` workers down is failed."""
        self.forget_silent_nodes()
        if self._reconnected_at is not None and time.monotonic() - self._reconnected_at < self._grace_s:
            return []  # after a failover, too, all leases get their length once more
        if not self.read("select 1 from claim where until < clock_timestamp() limit 1"):
            return []
        with self._begun(durable=True) as transaction:
            claims = transaction.execute(_CLAIMS + _RUN_OUT, (self._grace_s, batch)).fetchall()
            return _give_back(transaction, claims, limit, " (it was not heard of any more)")


def _give_back(
    transaction: PostgresTransaction, claims: list[tuple[Any, ...]], limit: int, cause: str
) -> list[tuple[str, State]]:
    moved: list[tuple[str, State]] = []
    for job, token, has_inner in claims:
        row = transaction.execute(
            "select attempts, cancel from job where id=? and state='running' for update", (job,)
        ).fetchone()
        if row is None:
            transaction.execute("delete from claim where job=? and token=?", (job, token))
        elif row[1]:
            transaction.execute("select end_job(?, ?, 'cancelled', null, null)", (job, token))
            moved.append((job, State.CANCELLED))
        elif row[0] >= limit and not has_inner:
            reason = WorkerDied(
                f"The worker process died {row[0]} times while it ran this job{cause}: it is set aside; "
                f"`batch retry {job}` tries it again."
            )
            transaction.execute("select end_job(?, ?, 'failed', null, ?)", (job, token, to_json(reason.record())))
            moved.append((job, State.FAILED))
        else:
            queue_row = transaction.execute("select put_back_job(?, ?, ?)", (job, token, not has_inner)).fetchone()
            if queue_row is not None and queue_row[0] is not None:
                transaction.queues.add(queue_row[0])
            moved.append((job, State.QUEUED))
    return moved
