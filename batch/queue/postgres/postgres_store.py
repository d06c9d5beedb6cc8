"""The store of jobs in a PostgreSQL database."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batch.errors import Conflict, NotFound, NotSupported
from batch.model_kind import queue_of
from batch.queue.duties.duty_store import presence_of
from batch.queue.full_text.tsvector_tables import TsvectorTables
from batch.queue.idempotency import submit_under_key
from batch.queue.jobs import TRANSITIONS, Draft, JobProgress, Kind, Origin, State
from batch.queue.postgres.job_transaction import PostgresTransaction
from batch.queue.postgres.leases import PostgresLeases
from batch.queue.reading.job_reader import JobReader
from batch.queue.reading.job_rows import COLUMNS, to_job, to_json
from batch.queue.selection.pauses import Pause
from batch.queue.store import Ending, Held, Key, Lease, LeaseLost, StoreAway

_END = (
    "select end_job(e.job, e.token, e.state, e.result, e.error) from unnest(cast(? as text[]), cast(? as bigint[]), "
    "cast(? as text[]), cast(? as text[]), cast(? as text[])) with ordinality as e (job, token, state, result, error, place) "
    "order by e.place"
)
"""One statement for all that end together."""
SOON = "with soon as materialized (select set_config('synchronous_commit', 'off', true))"
"""Of a statement that joins it: it is on the disk a little later."""
_END_ONE = "select end_job(?, ?, ?, ?, ?)"
"""Nearly all end alone: five arrays would cost more than the rest of the call."""
_END_ONE_SOON = f"{SOON} {_END_ONE} from soon"
_END_SOON = f"{SOON} " + _END.replace(" order by", " cross join soon order by")


def taking(function: str, key: str) -> str:
    """The statement that leases jobs by a function; `key`: SQL of what a lease's worker proves its words with."""
    return (
        f"{SOON} select {COLUMNS}, token, front, {key}, free_in_s from soon cross join {function}(?, ?, ?, ?, ?, ?, ?, ?) as l "
        "cross join lateral (select (l.leased).*) as j"
    )


class PostgresStore(PostgresLeases, JobReader):
    """The Store Protocol over one connection, of which every process may have some: what a job's way needs is one statement
    each, which never waits for another job's."""

    search_tables = TsvectorTables()
    _taking = taking("lease_jobs", "''")
    _TODAY = "to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD')"

    def open_reader(self) -> PostgresStore:
        """Another connection to the same database, which only reads."""
        return PostgresStore(self._url, home=self._home, front=self._front, inbox=self.inbox_scope.inbox or "", readonly=True)

    def open_immediate(self) -> None:
        """None: a write takes a round trip at least."""

    def back_up(self, target: Path, *, max_bytes: int | None = None) -> int | None:
        """Nothing: Raises NotSupported, as Postgres' own tools copy it while it runs."""
        raise NotSupported("The jobs are in PostgreSQL: copy that database with pg_dump, or with its continuous archiving.")

    # -- the way of a job

    def submit(self, *drafts: Draft, durable: bool = False) -> None:
        """Accept jobs, all or none; those that are there already stay as they are."""
        try:
            self._submit(drafts, durable=durable)
        except StoreAway:  # it may be committed, and only the answer lost: under their ids they are there once
            self._submit(drafts, durable=durable)

    def _submit(self, drafts: Sequence[Draft], *, durable: bool) -> None:
        with self._begun(durable=durable) as transaction:
            for draft in drafts:
                transaction.submit(draft)

    def submit_once(self, key: Key, drafts: Sequence[Draft]) -> list[Held]:
        """Accept the drafts under a key, in one transaction; the earlier jobs instead when the key is taken.

        A key stands as long as its jobs' rows. A job that was cancelled, or is about to be, has no result to give again, so
        its key is free. Raises Unprocessable when it is taken by another request.
        """
        with self._begun(durable=True) as transaction:
            # Two requests with the same key at the same moment, on two machines: one after the other.
            transaction.execute("select pg_advisory_xact_lock(hashtextextended(?, 0))", (f"{key.kind}\n{key.name}",))
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
        job, of the same task, and was never taken before. `waited_s`: only jobs that workers who are idle have had so long to
        take. `passed_over` is told in how many seconds a job is free that is kept for others now.
        """
        if limit < 1:
            return []
        floor = float(batch_mate.job.priority - 1) if batch_mate else -1.0 if above is None else float(above)
        mate = batch_mate.job if batch_mate else None
        rows = self._run_alone(
            self._taking,
            (queue, self._shown_as(worker), floor, limit, mate and mate.task, mate and mate.started_at, self.lease_s, waited_s),
            durable=False,
        )
        free_in_s = [row[-1] for row in rows if row[-1] is not None]
        if free_in_s and passed_over is not None:
            passed_over(min(free_in_s))
        return [Lease(to_job(row[:-4]), *row[-4:-1]) for row in rows if row[0] is not None]

    def _shown_as(self, worker: str) -> str:
        """What the database is shown of a worker that takes jobs: its id."""
        return worker

    def end(self, endings: Sequence[Ending], *, durable: bool = False) -> list[bool]:
        """End leased jobs in one transaction; of each whether it was running under its lease until now."""
        if len(endings) == 1:
            rows = self._run_alone(_END_ONE if durable else _END_ONE_SOON, ending_row(endings[0]), durable=durable)
        else:
            rows = self._run_alone(_END if durable else _END_SOON, ending_columns(endings), durable=durable)
        return [bool(row[0]) for row in rows]

    def put_back(self, lease: Lease, *, count: bool, durable: bool = True) -> None:
        """Return a leased job to its old place in the line; `count=False` takes the attempt back too."""
        with self._begun(durable=durable) as transaction:
            row = transaction.execute("select put_back_job(?, ?, ?)", (lease.job.id, lease.token, count)).fetchone()
            if row is not None and row[0] is not None:
                transaction.queues.add(row[0])

    def progress(self, lease: Lease, progress: JobProgress) -> None:
        """Write down how far a job is."""
        with self._begun(durable=False) as transaction:
            transaction.execute(
                "update job set progress=? where id=? and token=?",
                (to_json(asdict(progress)), lease.job.id, lease.token),
            )

    def checkpoint(self, lease: Lease, step: int, data: str) -> None:
        """Write a finished step of a job durably, as JSON text. Raises LeaseLost."""
        with self._under(lease, durable=True) as transaction:
            transaction.execute(
                "insert into checkpoint values (?,?,?) on conflict (job, step) do update set data=excluded.data",
                (lease.job.id, step, data),
            )

    def refer(self, lease: Lease, sha256: str) -> None:
        """Tie a result's spool file to its job. Raises LeaseLost."""
        with self._under(lease, durable=False) as transaction:
            transaction.hold(lease.job.id, [sha256], "result")

    @contextlib.contextmanager
    def _under(self, lease: Lease, *, durable: bool) -> Iterator[PostgresTransaction]:
        with self._begun(durable=durable) as transaction:
            # Shared: it cannot be given to another worker before this is committed.
            row = transaction.execute(
                "select 1 from claim where job=? and token=? for share", (lease.job.id, lease.token)
            ).fetchone()
            if row is None:
                raise LeaseLost(f"Job {lease.job.id} was given to another worker meanwhile.")
            yield transaction

    def abandon_waited(self, front: str | None = None) -> int:
        """At a service's start: requests whose clients went down with its predecessor are cancelled, unless running (their
        worker finds the cancel mark); how many were queued. `front`: those of another service, which is gone; none where it
        has come back meanwhile."""
        gone, front = "", self._front if front is None else front
        if front != self._front:
            # It is there before it accepts anything: whoever sees a new job sees that, too.
            gone = (
                f" and not exists (select 1 from service s where s.front = '' and s.name = '{presence_of('')}' || j.front "
                "and (s.value::json ->> 'until')::double precision >= unix_now())"
            )
        with self._begun(durable=True) as transaction:
            transaction.execute(
                f"update job j set cancel=1 where j.state='running' and j.waited=1 and j.origin=? and j.front=?{gone}",
                (Origin.HTTP, front),
            )
            return transaction.execute(
                "with line as (select t.id, j.id as job from task t join job j on j.message = t.id and j.id = t.job "
                f"where j.state='queued' and j.waited=1 and j.origin=? and j.front=?{gone} for update of t skip locked), "
                "gone as (delete from task where id in (select id from line)) "
                "update job set state='cancelled', cancel=1, finished_at=unix_now(), message=null "
                "where id in (select job from line) and state='queued'",
                (Origin.HTTP, front),
            ).rowcount

    def cancel(self, job: str) -> State:
        """Cancel: at once when queued, marked for its worker when running; an ended job stays as it is.

        Returns the state after it; raises NotFound.
        """
        with self._begun(durable=False) as transaction:
            row = transaction.execute("select cancel_job(?)", (job,)).fetchone()
            if row is None or row[0] is None:
                raise NotFound(f"There is no job {job}.")
            return State(row[0])

    def retry(self, job: str) -> None:
        """Queue a failed or cancelled job again, its attempts counted anew; raises NotFound, Conflict."""
        with self._begun(durable=True) as transaction:
            row = transaction.execute("select state, kind, model, priority from job where id=? for update", (job,)).fetchone()
            if row is None:
                raise NotFound(f"There is no job {job}.")
            if State.QUEUED not in TRANSITIONS[State(row[0])] or row[0] == State.RUNNING:
                raise Conflict(f"Job {job} is {row[0]}: only a failed or cancelled job can be retried.")
            transaction.execute(
                "with message as (insert into task (queue, job, priority) values (?, ?, ?) returning id) "
                "update job set state='queued', attempts=0, cancel=0, waited=0, error=null, result=null, progress=null, "
                "started_at=null, finished_at=null, message=message.id from message where job.id=?",
                (queue := queue_of(Kind(row[1]), row[2]), job, float(row[3]), job),
            )
            transaction.queues.add(queue)

    # -- holding classes back

    def pause(self, pauses: Iterable[Pause]) -> None:
        """Begin no more jobs of these classes, until they are resumed; what runs goes on."""
        with self._begun(durable=True) as transaction:
            for kind, priority in pauses:
                transaction.execute("insert into pause values (?,?) on conflict do nothing", (kind, int(priority)))

    def resume(self, pauses: Iterable[Pause]) -> None:
        """Let jobs of these classes go on; their workers are woken."""
        with self._begun(durable=True) as transaction:
            for kind, priority in pauses:
                transaction.execute("delete from pause where kind=? and priority=?", (kind, int(priority)))
                transaction.queues.add(kind)

    # -- what the running service writes for `batch status` in another process

    def note(self, notes: Mapping[str, Any]) -> None:
        """Write JSON values by name, of which nobody sees some without the others; each front has its own."""
        with self._begun(durable=False) as transaction:
            transaction.execute_many(
                "insert into service values (?,?,?) on conflict (front, name) do update set value=excluded.value",
                [(self._front, name, to_json(value)) for name, value in sorted(notes.items())],
            )

    def notes(self) -> dict[str, Any]:
        """What the running service wrote for `batch status`, by name."""
        rows = self.read("select name, value from service where front=?", (self._front,))
        return {name: json.loads(value) for name, value in rows}

    def today(self) -> list[tuple[str, str, int, float, float]]:
        """(kind, state, count, seconds of work, seconds of waiting) of the jobs that ended today, a day of UTC."""
        return self.read(f"select kind, state, n, seconds, waited from daily where day = {self._TODAY}")

    # -- retention

    def expire(self, origin: Origin, before: float, limit: int = 500) -> int:
        """Delete up to `limit` ended jobs of an origin that ended before a Unix time; returns how many."""
        marks = ",".join("?" * len(Kind))
        with self._begun(durable=False) as transaction:
            return transaction.execute(
                f"delete from job where id in (select id from job where kind in ({marks}) and "
                "state in ('done','failed','cancelled') and id < ? and origin=? and finished_at < ? limit ? "
                "for update skip locked)",
                (*Kind, f"{int(before * 1000):012x}", origin, before, limit),
            ).rowcount

    def orphans(self, limit: int) -> list[str]:
        """Spool files that lost a reference and have none left."""
        with self._begun(durable=False) as transaction:
            transaction.execute(
                "delete from orphan where sha256 in (select sha256 from orphan o where exists "
                "(select 1 from blob where blob.sha256 = o.sha256) limit ?)",
                (limit,),
            )
            return [row[0] for row in transaction.execute("select sha256 from orphan limit ?", (limit,)).fetchall()]

    def forget_orphans(self, names: Sequence[str]) -> None:
        """These spool files are gone."""
        with self._begun(durable=False) as transaction:
            transaction.execute_many("delete from orphan where sha256=?", [(name,) for name in names])

    def vacuum(self, pages: int = 1000, *, keep: int = 0) -> bool:
        """Nothing to do: Postgres' autovacuum gives freed space to new rows."""
        return False


def ending_row(ending: Ending) -> tuple[Any, ...]:
    """Job, token, state, result and error."""
    error = None if ending.error is None else to_json(ending.error)
    return ending.lease.job.id, ending.lease.token, ending.state.value, ending.result, error


def ending_columns(endings: Sequence[Ending]) -> list[list[Any]]:
    """Jobs, tokens, states, results and errors."""
    rows = [ending_row(ending) for ending in endings]
    return [[row[column] for row in rows] for column in range(5)]
