"""Leases of workers that died or fell silent: they run out by the database's clock, and their jobs go back."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from batch.errors import WorkerDied
from batch.queue.jobs import State
from batch.queue.postgres.node_rows import PostgresNodes
from batch.queue.reading.job_rows import to_json

SILENT = " (it was not heard of any more)"


def death_record(cause: str) -> str:
    """The error of a job that took its workers down, as JSON; the database puts in its {job} and {attempts}."""
    reason = WorkerDied(
        f"The worker process died {{attempts}} times while it ran this job{cause}: it is set aside; "
        "`batch retry {job}` tries it again."
    )
    return to_json(reason.record())


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
        error = death_record(f" ({last_death})" if last_death else "")
        return self._give_back("recover_leases(?, ?, ?, ?, ?)", (queue, worker, predecessor, limit, error))

    def reap(self, limit: int, *, batch: int = 100) -> list[tuple[str, State]]:
        """Give back up to `batch` jobs whose leases ran out; one that took `limit` workers down is failed."""
        self.forget_silent_nodes()
        if self._is_newly_connected() or not self.read("select 1 from claim where until < clock_timestamp() limit 1"):
            return []
        return self._give_back("reap_leases(?, ?, ?, ?)", (limit, batch, self._grace_s, death_record(SILENT)))

    def _is_newly_connected(self) -> bool:
        """Whether the database may be another server since a moment: after a failover, too, all leases get their length once
        more."""
        return self._reconnected_at is not None and time.monotonic() - self._reconnected_at < self._grace_s

    def _give_back(self, function: str, params: Iterable[Any]) -> list[tuple[str, State]]:
        with self._begun(durable=True) as transaction:
            rows = transaction.execute(f"select job, state, queue from {function}", tuple(params)).fetchall()
            transaction.queues |= {queue for *_, queue in rows if queue is not None}
        return [(job, State(state)) for job, state, _ in rows]
