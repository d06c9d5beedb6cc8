"""The store of jobs in one SQLite file."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from batch import fail_points
from batch.errors import Conflict, NotFound
from batch.model_kind import queue_of
from batch.queue.full_text.fts5_tables import Fts5Tables
from batch.queue.idempotency import submit_under_key
from batch.queue.jobs import TRANSITIONS, Draft, JobProgress, Kind, Origin, State
from batch.queue.reading.job_rows import to_json
from batch.queue.selection.pauses import Pause
from batch.queue.sqlite.node_rows import NodeRows
from batch.queue.store import Ending, Held, Key, Lease

logger = logging.getLogger("batch.queue")

_KINDS = ",".join("?" * len(Kind))
"""Named in conditions so that the index on (kind, state, origin, id) is used."""


class SqliteStore(NodeRows):
    """The Store Protocol over one connection. One worker a queue is all that a home has: the queue's lock file tells at once
    that it is dead, so nobody waits for its leases to run out."""

    search_tables = Fts5Tables()
    _TODAY = "date('now', 'localtime')"

    def open_reader(self) -> SqliteStore:
        """Another connection to the same file, which only reads."""
        return SqliteStore(self.path, readonly=True)

    def open_immediate(self) -> SqliteStore:
        """Another connection to the same file, whose writes raise DatabaseBusy rather than wait for others'."""
        store = SqliteStore(self.path, create=False, front=self._front, waits=False)
        store.submitted = lambda queues: self.submitted(queues)  # whatever is put there later
        return store

    # -- the way of a job

    def submit(self, *drafts: Draft, durable: bool = False) -> None:
        """Accept jobs, all or none."""
        with self.transaction(durable=durable) as transaction:
            for draft in drafts:
                transaction.submit(draft)

    def submit_to(self, worker: str, draft: Draft, told: Collection[str] = ()) -> Lease | None:
        """Accept a job and lease it to a worker in one transaction, where the worker is idle and nothing else waits; None where
        it was queued, as `submit` does. `told`: jobs that the worker has ended and not written down."""
        with self.transaction() as transaction:
            lease = transaction.submit_leased(draft, worker, told)
            if lease is None:
                transaction.submit(draft)
        if lease is not None:
            fail_points.reach("committed")
        return lease

    def submit_once(self, key: Key, drafts: Sequence[Draft]) -> list[Held]:
        """Accept the drafts under a key, in one transaction; the earlier jobs instead when the key is taken.

        A key stands as long as its jobs' rows. A job that was cancelled, or is about to be, has no result to give again, so
        its key is free. Raises Unprocessable when it is taken by another request.
        """
        with self.transaction() as transaction:
            return submit_under_key(transaction, key, drafts)

    def take(
        self,
        queue: str,
        worker: str,
        *,
        above: float | None = None,
        batch_mate: Lease | None = None,
        limit: int = 1,
        waited_s: float = 0.0,
        passed_over: Callable[[float], None] | None = None,
    ) -> list[Lease]:
        """Lease the next jobs of a queue to a worker: most urgent first, then oldest; at most `limit`.

        `above`: only jobs of a higher priority. `batch_mate`: only what comes next as long as it is as urgent as this lease's
        job, of the same task, and was never taken before. `waited_s` and `passed_over` are nothing here: no other worker could
        take a job, and none is kept for one.
        """
        floor = float(batch_mate.job.priority - 1) if batch_mate else -1.0 if above is None else above
        leases: list[Lease] = []
        with self._lock:
            # A look without the write lock first, as most looks find nothing.
            if limit < 1 or not self.is_waiting(queue, floor):
                return leases
            with self.transaction() as transaction:
                while len(leases) < limit:
                    messages = transaction.next_messages(queue, floor, limit - len(leases))
                    for message in messages:
                        lease = transaction.lease(queue, worker, message, batch_mate)
                        if lease is not None:
                            leases.append(lease)
                        elif batch_mate is not None:
                            return leases
                        else:  # none of ours: kept for a look, out of the way of the others
                            transaction.execute("update task set queue='set aside' where id=?", (message[0],))
                            logger.error("message %d of the %s queue names no queued job: it is set aside", message[0], queue)
                    if not messages or batch_mate is not None:
                        break
        return leases

    def end(self, endings: Sequence[Ending], *, durable: bool = False) -> list[bool]:
        """End leased jobs in one transaction; of each whether it was running under its lease until now."""
        with self.transaction(durable=durable) as transaction:
            return [transaction.end(ending) for ending in endings]

    def put_back(self, lease: Lease, *, count: bool, durable: bool = True) -> None:
        """Return a leased job to its old place in the line; `count=False` takes the attempt back too."""
        with self.transaction(durable=durable) as transaction:
            row = transaction.execute("select 1 from claim where job=? and token=?", (lease.job.id, lease.token)).fetchone()
            if row is not None:
                transaction.put_back(lease.job.id, count=count)

    def progress(self, lease: Lease, progress: JobProgress) -> None:
        """Write down how far a job is."""
        with self.transaction() as transaction:
            transaction.execute(
                "update job set progress=? where id=? and token=?",
                (to_json(asdict(progress)), lease.job.id, lease.token),
            )

    def checkpoint(self, lease: Lease, step: int, data: str) -> None:
        """Write a finished step of a job durably, as JSON text. Raises LeaseLost."""
        with self.transaction(durable=True) as transaction:
            transaction.require(lease)
            transaction.execute("insert or replace into checkpoint values (?,?,?)", (lease.job.id, step, data))

    def refer(self, lease: Lease, sha256: str) -> None:
        """Tie a result's spool file to its job. Raises LeaseLost."""
        with self.transaction() as transaction:
            transaction.require(lease)
            transaction.hold(lease.job.id, [sha256], "result")

    def abandon_waited(self, front: str | None = None) -> int:
        """At a service's start: requests whose clients went down with its predecessor are cancelled, unless running (their
        worker's successor finds the cancel mark); how many were queued."""
        where = f"waited=1 and kind in ({_KINDS}) and origin=? and front=?"
        params = (*Kind, Origin.HTTP, self._front if front is None else front)
        with self.transaction() as transaction:
            transaction.execute(f"update job set cancel=1 where state='running' and {where}", params)
            rows = transaction.execute(f"select id, message from job where state='queued' and {where}", params).fetchall()
            for job, message in rows:
                transaction.cancel_queued(job, message)
        return len(rows)

    def cancel(self, job: str) -> State:
        """Cancel: at once when queued, marked for its worker when running; an ended job stays as it is.

        Returns the state after it; raises NotFound.
        """
        with self.transaction() as transaction:
            row = transaction.execute("select state, message from job where id=?", (job,)).fetchone()
            if row is None:
                raise NotFound(f"There is no job {job}.")
            state = State(row[0])
            if state is State.QUEUED:
                transaction.cancel_queued(job, row[1])
                return State.CANCELLED
            if state is State.RUNNING:
                transaction.execute("update job set cancel=1 where id=?", (job,))
            return state

    def retry(self, job: str) -> None:
        """Queue a failed or cancelled job again, its attempts counted anew; raises NotFound, Conflict."""
        with self.transaction(durable=True) as transaction:
            row = transaction.execute("select state, kind, model, priority from job where id=?", (job,)).fetchone()
            if row is None:
                raise NotFound(f"There is no job {job}.")
            if State.QUEUED not in TRANSITIONS[State(row[0])] or row[0] == State.RUNNING:
                raise Conflict(f"Job {job} is {row[0]}: only a failed or cancelled job can be retried.")
            message = transaction.enqueue(queue_of(Kind(row[1]), row[2]), job, row[3])
            transaction.execute(
                "update job set state='queued', attempts=0, cancel=0, waited=0, error=null, result=null, progress=null, "
                "started_at=null, finished_at=null, message=? where id=?",
                (message, job),
            )

    # -- holding classes back

    def pause(self, pauses: Iterable[Pause]) -> None:
        """Begin no more jobs of these classes, until they are resumed; what runs goes on."""
        with self.transaction(durable=True) as transaction:
            for kind, priority in pauses:
                transaction.execute("insert or ignore into pause values (?,?)", (kind, int(priority)))

    def resume(self, pauses: Iterable[Pause]) -> None:
        """Let jobs of these classes go on; their workers are woken."""
        with self.transaction(durable=True) as transaction:
            for kind, priority in pauses:
                transaction.execute("delete from pause where kind=? and priority=?", (kind, int(priority)))
                transaction.queues.add(kind)

    # -- what the running service writes for `batch status` in another process

    def notes(self) -> dict[str, Any]:
        """What the running service wrote for `batch status`, by name."""
        return {name: json.loads(value) for name, value in self.read("select name, value from service")}

    def note(self, notes: Mapping[str, Any]) -> None:
        """Write JSON values by name, of which nobody sees some without the others."""
        with self.transaction() as transaction:
            transaction.execute_many(
                "insert or replace into service values (?,?)", [(name, to_json(value)) for name, value in notes.items()]
            )

    def today(self) -> list[tuple[str, str, int, float, float]]:
        """(kind, state, count, seconds of work, seconds of waiting) of the jobs that ended today, local time."""
        return self.read(f"select kind, state, n, seconds, waited from daily where day = {self._TODAY}")

    # -- retention

    def expire(self, origin: Origin, before: float, limit: int = 500) -> int:
        """Delete up to `limit` ended jobs of an origin that ended before a Unix time; returns how many."""
        with self.transaction() as transaction:
            return transaction.execute(
                f"delete from job where id in (select id from job where kind in ({_KINDS}) and "
                "state in ('done','failed','cancelled') and id < ? and origin=? and finished_at < ? limit ?)",
                (*Kind, f"{int(before * 1000):012x}", origin, before, limit),
            ).rowcount

    def orphans(self, limit: int) -> list[str]:
        """Spool files that lost a reference and have none left."""
        with self.transaction() as transaction:
            transaction.execute(
                "delete from orphan where sha256 in (select sha256 from orphan o where exists "
                "(select 1 from blob where blob.sha256 = o.sha256) limit ?)",
                (limit,),
            )
            return [row[0] for row in transaction.execute("select sha256 from orphan limit ?", (limit,)).fetchall()]

    def forget_orphans(self, names: Sequence[str]) -> None:
        """These spool files are gone."""
        with self.transaction() as transaction:
            transaction.execute_many("delete from orphan where sha256=?", [(name,) for name in names])

    def vacuum(self, pages: int = 1000, *, keep: int = 0) -> bool:
        """Give freed pages back to the file system, a slice at a time, down to `keep`; True while there are more."""
        with self._lock:
            free = int(self.read("pragma freelist_count")[0][0]) - keep
            if free > 0:
                self.read(f"pragma incremental_vacuum({min(pages, free)})")
            return free > pages
