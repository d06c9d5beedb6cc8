"""Workers and their leases in the SQLite file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from batch.errors import NotFound, WorkerDied
from batch.queue.full_text.search_tables import Statements
from batch.queue.jobs import Kind, State
from batch.queue.nodes import FORGET_NODE_AFTER_S, LEASE_S, SHOWN_NODES, Node, NodeOverview, Renewal
from batch.queue.reading.job_reader import JobReader
from batch.queue.selection.inbox_scope import WHOLE_DATABASE
from batch.queue.sqlite.database import Database
from batch.queue.sqlite.job_writer import JobTransaction

_NODE_COLUMNS = "id, kind, queue, status, model, build, version, info, error, home, pid, started_at"
_NODE_FIELDS = (*_NODE_COLUMNS.split(", "), "beat_age_s", "leases", "is_draining")
_HAS_INNER = (
    "exists (select 1 from claim inner_ where inner_.queue = c.queue and inner_.worker = c.worker and inner_.rowid > c.rowid "
    "and inner_.taken_at <> c.taken_at)"
)
"""Whether a claimed job only waited while a more urgent one ran inside it."""


class NodeRows(Database, JobReader):
    """The NodeStore Protocol. A home has its file to itself and one worker a kind, which the queue's lock file sees to."""

    is_shared = False
    inbox_scope = WHOLE_DATABASE
    lease_s = LEASE_S

    @property
    def front(self) -> str:
        """The service that jobs are accepted for; empty, as there is only one."""
        return self._front

    def hold(self, duties: Sequence[str]) -> dict[str, bool]:
        """All of the duties, as there is no other front."""
        return dict.fromkeys(duties, True)

    def release(self, duties: Sequence[str]) -> None:
        """Nobody else could have them."""

    def confirm(self, transaction: Statements, duty: str) -> None:
        """Nobody else could have it."""

    def silent_fronts(self, silence_s: float = 0.0) -> list[str]:
        """There are no others."""
        return []

    def forget_fronts(self, fronts: Iterable[str]) -> None:
        """There are no others."""

    def lease_keys(self) -> None:
        """Nothing: nobody else has the file."""
        return None

    def register(self, node: Node) -> None:
        """Write down what a worker is and how it is, and that it lives."""
        columns = [column.strip() for column in _NODE_COLUMNS.split(",")]
        values = [getattr(node, column) for column in columns]
        changes = ", ".join(f"{column}=excluded.{column}" for column in (*columns[1:], "beat"))
        with self.transaction() as transaction:
            transaction.execute(
                f"insert into node ({_NODE_COLUMNS}, beat) values ({','.join('?' * len(columns))},?) "
                f"on conflict (id) do update set {changes}",
                (*values, time.time()),
            )

    def leave(self, worker: str) -> None:
        """A worker has ended: its row goes, and with it what it was handed and never saw goes back into the queue."""
        with self.transaction() as transaction:
            transaction.execute("delete from node where id=?", (worker,))
            for (job,) in transaction.execute("select job from claim where worker=?", (worker,)).fetchall():
                transaction.put_back(job, count=False)

    def nodes(self) -> list[Node]:
        """All workers by kind and start, also those that have not been heard of for long."""
        rows = self.read(
            f"select {_NODE_COLUMNS}, max(0.0, ? - beat), (select count(*) from claim where worker = node.id), is_draining "
            "from node order by kind, started_at, id",
            (time.time(),),
        )
        return [_to_node(row) for row in rows]

    def overview(self, limit: int = SHOWN_NODES) -> NodeOverview | None:
        """None: the one worker of each queue is what the service tells of the model."""
        return None

    def workers_of(self, jobs: Sequence[str]) -> dict[str, str]:
        """None: there is only this machine."""
        return {}

    def renew(self, worker: str, leases: Sequence[tuple[str, int]], *, prefixes: str | None = None) -> Renewal:
        """A worker lives, and keeps its (job, token) leases for `LEASE_S` from now on. Nothing is written without leases, so
        that an idle home lets its disk sleep."""
        lost, cancelled = set(), set()
        if leases:
            with self.transaction() as transaction:
                now = time.time()
                transaction.execute("update node set beat=? where id=?", (now, worker))
                for job, token in leases:
                    if not transaction.execute(
                        "update claim set until=? where job=? and token=?", (now + LEASE_S, job, token)
                    ).rowcount:
                        lost.add(job)
                    elif transaction.execute("select cancel from job where id=?", (job,)).fetchone() == (1,):
                        cancelled.add(job)
        rows = self.read("select is_draining from node where id=?", (worker,))
        return Renewal(frozenset(lost), frozenset(cancelled), bool(rows and rows[0][0]), bool(rows))

    def drain(self, worker: str, on: bool = True) -> None:
        """Let a worker end what it has and take nothing new, or again. Raises NotFound."""
        with self.transaction() as transaction:
            if not transaction.execute("update node set is_draining=? where id=?", (on, worker)).rowcount:
                raise NotFound(f"There is no node {worker}: `batch nodes` lists them.")

    def recover(
        self, queue: str, worker: str, limit: int, last_death: str = "", *, predecessor: str = ""
    ) -> list[tuple[str, State]]:
        """Called by a queue's only worker before it takes anything: leftover claims are of workers that died.

        A job that took `limit` workers down is failed, the others go back; one that only waited while a more urgent one ran
        inside it is not blamed. `last_death`: a clause that says what ended the last worker. Returns (job, new state) of all.
        """
        if self.read("select 1 from node where queue=? and id<>? limit 1", (queue, worker)):
            with self.transaction() as transaction:
                transaction.execute("delete from node where queue=? and id<>?", (queue, worker))
        claims = self.read(f"select job, token, {_HAS_INNER} from claim c where queue=? and worker<>?", (queue, worker))
        return self._return_jobs(claims, limit, last_death)

    def reap(self, limit: int, *, batch: int = 100) -> list[tuple[str, State]]:
        """Put back up to `batch` jobs whose lease has run out, their attempt counted, and wake their queues; (job, new state)
        of all. A job that was taken `limit` times is failed, one that is to be cancelled is."""
        now = time.time()
        claims = self.read(f"select job, token, {_HAS_INNER} from claim c where until < ? limit ?", (now, batch))
        moved = self._return_jobs(claims, limit, "it was not heard of any more", before=now)
        if self.read("select 1 from node where beat < ? limit 1", (now - FORGET_NODE_AFTER_S,)):
            with self.transaction() as transaction:
                transaction.execute("delete from node where beat < ?", (now - FORGET_NODE_AFTER_S,))
        return moved

    def _return_jobs(
        self, claims: Sequence[tuple[str, int, bool]], limit: int, last_death: str, *, before: float | None = None
    ) -> list[tuple[str, State]]:
        """Each claim is looked at again in its transaction: it may be gone, or renewed where only those that ran out `before`
        count."""
        moved: list[tuple[str, State]] = []
        for job, token, has_inner in claims:
            with self.transaction(durable=True) as transaction:
                claim = transaction.execute("select until from claim where job=? and token=?", (job, token)).fetchone()
                if claim is not None and (before is None or claim[0] < before):
                    state = _return_job(transaction, job, limit, last_death, has_inner=bool(has_inner))
                    moved += [(job, state)] if state else []
        return moved


def _to_node(row: Sequence[Any]) -> Node:
    values = dict(zip(_NODE_FIELDS, row, strict=True))
    return Node(**values | {"kind": Kind(values["kind"]), "is_draining": bool(values["is_draining"])})


def _return_job(transaction: JobTransaction, job: str, limit: int, last_death: str, *, has_inner: bool) -> State | None:
    """End the claim of a worker that is gone; the job's new state, None where there is no such job."""
    row = transaction.execute("select attempts, cancel from job where id=?", (job,)).fetchone()
    if row is None:
        transaction.execute("delete from claim where job=?", (job,))
        return None
    if row[1]:
        transaction.end_claimed(job, State.CANCELLED)
        return State.CANCELLED
    if row[0] >= limit and not has_inner:
        cause = f" ({last_death})" if last_death else ""
        reason = WorkerDied(
            f"The worker process died {row[0]} times while it ran this job{cause}: it is set aside; "
            f"`batch retry {job}` tries it again."
        )
        transaction.end_claimed(job, State.FAILED, reason.record())
        return State.FAILED
    transaction.put_back(job, count=not has_inner)
    return State.QUEUED
