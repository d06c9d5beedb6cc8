"""What a write transaction does with jobs, messages and claims."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from batch import fail_points
from batch.model_kind import kind_of
from batch.queue.jobs import Draft, Job, State
from batch.queue.messages import job_named_in, message_for
from batch.queue.nodes import LEASE_S
from batch.queue.reading.job_rows import COLUMNS, to_job, to_json
from batch.queue.selection.pauses import open_ranges
from batch.queue.store import Ending, Lease, LeaseLost

_INSERT = (
    "insert into job (id, kind, task, state, origin, priority, request, source, parent, waited, message, created_at, front, "
    "model, attempts, started_at, token) values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)"
)


class JobTransaction:
    """Statements that commit together; made by `Database.transaction`."""

    def __init__(self, conn: sqlite3.Connection, front: str) -> None:
        self._conn = conn
        self._front = front
        self.queues: set[str] = set()
        """Queues that got a message, whose workers are woken after the commit."""

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        """Run a statement."""
        return self._conn.execute(sql, params)

    def execute_many(self, sql: str, params: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for every row of parameters."""
        self._conn.executemany(sql, params)

    def submit(self, draft: Draft) -> None:
        """Job row and message, together; a job whose id is there already is let be."""
        fail_points.reach("spooled")
        message = self.enqueue(draft.queue, draft.id, draft.priority)
        is_new = self._conn.execute(f"{_INSERT} on conflict (id) do nothing", self._values(draft, message)).rowcount
        if not is_new:
            self._conn.execute("delete from task where id=?", (message,))
        if draft.blobs:
            self.hold(draft.id, draft.blobs, "request")

    def submit_leased(self, draft: Draft, worker: str, told: Collection[str] = ()) -> Lease | None:
        """Accept a job that its worker has at once, with no message in between; None, and nothing done, unless the worker is
        there with its model loaded, holds no job of the queue, and no other job waits in it. `told`: jobs that it has ended
        and not written down, which do not count."""
        queue = draft.queue
        others = f" and job not in ({','.join('?' * len(told))})" if told else ""
        message = self._conn.execute(
            # Ids of messages are given once: should the job be put back, nobody has its place in the line.
            "update sqlite_sequence set seq=seq+1 where name='task' "
            "and exists (select 1 from node where id=? and status='ready' and not is_draining) "
            f"and not exists (select 1 from claim where queue=?{others}) and not exists (select 1 from task where queue=?) "
            "and not exists (select 1 from pause where kind=? and priority=?) returning seq",
            (worker, queue, *told, queue, draft.kind, int(draft.priority)),
        ).fetchone()
        if message is None:
            return None
        fail_points.reach("spooled")
        token = time.time_ns()
        row = self._conn.execute(f"{_INSERT} returning {COLUMNS}", self._values(draft, message[0], token)).fetchone()
        self._claim(job := to_job(row), message_for(draft.id), draft.priority, message[0], worker, token, token / 1e9)
        if draft.blobs:
            self.hold(draft.id, draft.blobs, "request")
        return Lease(job, token, self._front)

    def _values(self, draft: Draft, message: int, token: int = 0) -> tuple[Any, ...]:
        """What `_INSERT` takes: of a queued job, or with a `token` of one that is running under that lease."""
        from batch.payloads.json_text import encode  # here, as `batch status` submits nothing

        now = token / 1e9 if token else time.time()
        return (
            draft.id,
            draft.kind,
            draft.task,
            State.RUNNING if token else State.QUEUED,
            draft.origin,
            int(draft.priority),
            encode(draft.payload).decode(),
            draft.source,
            draft.parent,
            draft.waited,
            message,
            now,
            self._front,
            draft.model,
            int(token > 0),
            now if token else None,
            token,
        )

    def hold(self, owner: str, names: Collection[str], role: str) -> None:
        """Tie payloads in the spool to the row with the id `owner`: they stay as long as it."""
        self.execute_many("insert or ignore into blob values (?,?,?)", [(owner, sha256, role) for sha256 in names])

    def enqueue(self, queue: str, job: str, priority: float, message: int | None = None) -> int:
        """Put a job's message into a queue, at its old place when that is known; returns the message's id."""
        self.queues.add(queue)
        cursor = self._conn.execute(
            "insert into task (id, queue, data, priority) values (?,?,?,?)", (message, queue, message_for(job), priority)
        )
        return int(cursor.lastrowid or 0)

    def next_messages(self, queue: str, above: float, limit: int) -> list[tuple[int, Any, float]]:
        """(id, data, priority) of a queue's first messages above a priority, but for classes that are paused."""
        rows = self._conn.execute(
            "select id, data, priority, exists (select 1 from pause where kind=?) from task where queue=? and priority>? "
            "order by priority desc, id limit ?",
            (kind := kind_of(queue), queue, above, limit),
        ).fetchall()
        if not rows or not rows[0][3]:  # one statement tells, nearly always
            return [row[:3] for row in rows]
        messages: list[tuple[int, Any, float]] = []
        paused = [row[0] for row in self._conn.execute("select priority from pause where kind=?", (kind,)).fetchall()]
        for bounds in open_ranges(above, paused):
            messages += self._conn.execute(
                "select id, data, priority from task where queue=? and priority>? and priority<? "
                "order by priority desc, id limit ?",
                (queue, *bounds, limit - len(messages)),
            ).fetchall()
            if len(messages) >= limit:
                break
        return messages

    def lease(self, queue: str, worker: str, message: tuple[int, Any, float], batch_mate: Lease | None = None) -> Lease | None:
        """Turn a message into a claim, and its job into a running one; None, and nothing done, when it names no queued
        job (with `batch_mate`: none of that job's task that is tried for the first time)."""
        id, data, priority = message
        token = time.time_ns()
        condition, params = "", []
        if batch_mate is not None:
            condition, params = " and task=? and attempts=0", [batch_mate.job.task]
        # Never before it was created: the clock may have been set back.
        row = self._conn.execute(
            "update job set state='running', attempts=attempts+1, started_at=max(?, created_at), progress=null, token=? "
            f"where id=? and message=? and state='queued'{condition} returning {COLUMNS}, front",
            (token / 1e9, token, job_named_in(data), id, *params),
        ).fetchone()
        if row is None:
            return None
        job = to_job(row[:-1])
        self._conn.execute("delete from task where id=?", (id,))
        # The claims of batch mates share their time, by which `recover` tells them from jobs that wait for inner ones.
        taken_at = batch_mate.job.started_at if batch_mate else job.started_at
        self._claim(job, data, priority, id, worker, token, taken_at)
        return Lease(job, token, row[-1])

    def _claim(
        self, job: Job, data: Any, priority: float, message: int, worker: str, token: int, taken_at: float | None
    ) -> None:
        self._conn.execute(
            "insert or replace into claim (job, queue, data, priority, message, taken_at, worker, token, until) "
            "values (?,?,?,?,?,?,?,?,?)",
            (job.id, job.queue, data, priority, message, taken_at, worker, token, token / 1e9 + LEASE_S),
        )

    def end(self, ending: Ending) -> bool:
        """End a leased job and drop its claim; False, and nothing done, when it was not running under this lease any more."""
        lease, state = ending.lease, ending.state
        changed = self._conn.execute(
            "update job set state=?, result=?, error=?, finished_at=max(?, started_at), message=null "
            "where id=? and token=? and state='running'",
            (
                state,
                ending.result,
                None if ending.error is None else to_json(ending.error),
                time.time(),
                lease.job.id,
                lease.token,
            ),
        ).rowcount
        if changed:
            self.release(lease.job.id, state)
        return bool(changed)

    def release(self, job: str, state: State) -> None:
        """Drop the claim on a job that has ended, and what only its run needed."""
        self._conn.execute("delete from claim where job=?", (job,))
        if state is State.DONE:
            # A failed or cancelled job keeps its payload and its checkpoints, as it may be retried.
            self._conn.execute("delete from blob where job=? and role='request'", (job,))
            self._conn.execute("delete from checkpoint where job=?", (job,))

    def end_claimed(self, job: str, state: State, error: Mapping[str, Any] | None = None) -> None:
        """End a running job whose worker is gone."""
        self._conn.execute(
            "update job set state=?, error=?, finished_at=max(?, started_at), message=null where id=? and state='running'",
            (state, None if error is None else to_json(error), time.time(), job),
        )
        self.release(job, state)

    def put_back(self, job: str, *, count: bool) -> None:
        """A claimed job returns to its old place in the line; `count=False` takes the attempt back too."""
        row = self._conn.execute("select queue, priority, message from claim where job=?", (job,)).fetchone()
        if row is None:
            return
        queue, priority, message = row
        self._conn.execute("delete from claim where job=?", (job,))
        self.enqueue(queue, job, priority, message)
        self._conn.execute(
            "update job set state='queued', started_at=null, attempts=attempts-? where id=?", (0 if count else 1, job)
        )

    def require(self, lease: Lease) -> None:
        """Raise LeaseLost unless a job is still in this lease's hands."""
        row = self._conn.execute("select 1 from claim where job=? and token=?", (lease.job.id, lease.token)).fetchone()
        if row is None:
            raise LeaseLost(f"Job {lease.job.id} was given to another worker meanwhile.")

    def cancel_queued(self, job: str, message: int | None) -> None:
        """Take a queued job out of its queue."""
        self._conn.execute("delete from task where id=?", (message,))
        self._conn.execute(
            "update job set state='cancelled', cancel=1, finished_at=?, message=null where id=?", (time.time(), job)
        )
