"""A worker's half of the store, by functions that its role may call: it has no rights on tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batch.queue.jobs import JobProgress, State
from batch.queue.nodes import FORGET_NODE_AFTER_S, Node, Renewal, WorkerSecret
from batch.queue.postgres.job_transaction import PostgresTransaction
from batch.queue.postgres.leases import SILENT, death_record
from batch.queue.postgres.node_rows import node_columns, to_renewal
from batch.queue.postgres.payloads.payload_rows import PayloadRows
from batch.queue.postgres.postgres_store import SOON, PostgresStore, ending_columns, ending_row, taking
from batch.queue.postgres.roles.worker_payload_rows import WorkerPayloadRows
from batch.queue.reading.job_rows import to_json
from batch.queue.store import Ending, Lease, LeaseLost

_END = "select worker_end(?, cast(? as text[]), cast(? as bigint[]), cast(? as text[]), cast(? as text[]), cast(? as text[]))"
_END_ONE = (
    "select worker_end(?, array[cast(? as text)], array[cast(? as bigint)], array[cast(? as text)], array[cast(? as text)], "
    "array[cast(? as text)])"
)
"""Nearly all end alone: to write five arrays would cost more than the rest of the call."""


class WorkerStore(PostgresStore):
    """What a worker needs of a store. Each call shows the worker's secret, of which others know a hash alone: its id. What is
    inherited works where the role has rights on tables too."""

    _fold = "select worker_fold(?)"
    _taking = taking("worker_take", "key")

    def __init__(self, url: str, secret: WorkerSecret, *, home: Path, front: str = "") -> None:
        self._secret = secret
        super().__init__(url, home=home, front=front)

    def _payload_rows(self) -> PayloadRows:
        return WorkerPayloadRows(self._secret.own)

    # -- the way of a job

    def _shown_as(self, worker: str) -> str:
        return self._secret.own

    def end(self, endings: Sequence[Ending], *, durable: bool = False) -> list[bool]:
        """End leased jobs in one transaction; of each whether it was running under its lease until now."""
        ends, values = (_END_ONE, ending_row(endings[0])) if len(endings) == 1 else (_END, ending_columns(endings))
        sql = ends if durable else f"{SOON} select e.* from soon cross join lateral ({ends}) as e"
        rows = self._run_alone(sql, (self._secret.own, *values), durable=durable)
        return [bool(row[0]) for row in rows]

    def put_back(self, lease: Lease, *, count: bool, durable: bool = True) -> None:
        """Return a leased job to its old place in the line; `count=False` takes the attempt back too."""
        with self._begun(durable=durable) as transaction:
            params = (self._secret.own, lease.job.id, lease.token, count)
            ((queue,),) = transaction.execute("select worker_put_back(?, ?, ?, ?)", params).fetchall()
            if queue is not None:
                transaction.queues.add(queue)

    def progress(self, lease: Lease, progress: JobProgress) -> None:
        """Write down how far a job is."""
        self._call("worker_progress", lease, to_json(asdict(progress)), durable=False)

    def checkpoint(self, lease: Lease, step: int, data: str) -> None:
        """Write a finished step of a job durably, as JSON text. Raises LeaseLost."""
        if not self._call("worker_checkpoint", lease, step, data, durable=True):
            raise LeaseLost(f"Job {lease.job.id} was given to another worker meanwhile.")

    def checkpoints(self, lease: Lease) -> list[str]:
        """The finished steps of a leased job in order, as JSON texts."""
        params = (self._secret.own, lease.job.id, lease.token)
        return [row[0] for row in self.read("select * from worker_checkpoints(?, ?, ?)", params)]

    def refer(self, lease: Lease, sha256: str) -> None:
        """Tie a result's spool file to its job. Raises LeaseLost."""
        with self._begun(durable=False) as transaction:
            if not self._call_in(transaction, "worker_refer", lease, sha256):
                raise LeaseLost(f"Job {lease.job.id} was given to another worker meanwhile.")
            transaction.hold_bytes([sha256])

    def _call(self, function: str, lease: Lease, *params: Any, durable: bool) -> Any:
        with self._begun(durable=durable) as transaction:
            return self._call_in(transaction, function, lease, *params)

    def _call_in(self, transaction: PostgresTransaction, function: str, lease: Lease, *params: Any) -> Any:
        marks = ", ".join("?" * (3 + len(params)))
        values = (self._secret.own, lease.job.id, lease.token, *params)
        ((value,),) = transaction.execute(f"select {function}({marks})", values).fetchall()
        return value

    def cancelled(self, job: str) -> bool:
        """Whether somebody wants a job stopped."""
        return bool(self.read("select worker_cancelled(?)", (job,))[0][0])

    # -- its leases and its row

    def recover(
        self, queue: str, worker: str, limit: int, last_death: str = "", *, predecessor: str = ""
    ) -> list[tuple[str, State]]:
        """Give back the leases of the worker whose secret this one found in its lock."""
        if not self._secret.predecessor:
            return []
        error = death_record(f" ({last_death})" if last_death else "")
        params = (self._secret.own, queue, self._secret.predecessor, limit, error)
        return self._give_back("worker_recover(?, ?, ?, ?, ?)", params)

    def reap(self, limit: int, *, batch: int = 100) -> list[tuple[str, State]]:
        """Give back up to `batch` jobs whose leases ran out; one that took `limit` workers down is failed."""
        if self._is_newly_connected():
            return []
        params = (limit, batch, self._grace_s, FORGET_NODE_AFTER_S, death_record(SILENT))
        return self._give_back("worker_reap(?, ?, ?, ?, ?)", params)

    def register(self, node: Node) -> None:
        """Write down what this worker is and how it is, and that it lives."""
        fields: Mapping[str, object] = node_columns(node)
        with self._begun(durable=False) as transaction:
            transaction.execute("select worker_register(?, cast(? as jsonb))", (self._secret.own, to_json(fields)))

    def leave(self, worker: str) -> None:
        """This worker has ended: its row goes."""
        with self._begun(durable=False) as transaction:
            transaction.execute("select worker_leave(?)", (self._secret.own,))

    def renew(self, worker: str, leases: Sequence[tuple[str, int]], *, prefixes: str | None = None) -> Renewal:
        """This worker lives, and keeps its (job, token) leases for `lease_s` from now on. `prefixes`: what its prompt cache
        holds by now, where that has changed."""
        jobs, tokens = [job for job, _ in leases], [token for _, token in leases]
        with self._begun(durable=False) as transaction:
            sql = "select * from worker_renew(?, cast(? as text[]), cast(? as bigint[]), ?, ?)"
            (row,) = transaction.execute(sql, (self._secret.own, jobs, tokens, self.lease_s, prefixes)).fetchall()
        return to_renewal(jobs, row)
