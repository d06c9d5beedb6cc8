"""The store: the only SQL on jobs, messages, claims and checkpoints, in one SQLite file (WAL).

Plain `sqlite3` on the hot path; sqlite-utils makes and migrates the schema (schema.py), because importing it costs as
much as the whole of `batch status`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batch import fail_points
from batch.errors import BatchError, Conflict, DiskFull, NotFound, WorkerDied
from batch.queue import database_schema as schema
from batch.queue.jobs import TRANSITIONS, Draft, Job, JobProgress, Kind, Origin, Priority, State
from batch.queue.pauses import Pause, open_ranges

logger = logging.getLogger("batch.queue")

_COLUMNS = (
    "id, kind, task, state, origin, priority, request, created_at, attempts, started_at, finished_at, result, error, "
    "progress, source, parent, cancel, waited"
)
_WAL_BYTES = 32 << 20
"""To this size the write-ahead log is cut once all of it is in the database."""


def message_for(job: str) -> bytes:
    """The huey message of a job: JSON, never a pickle, so that who can write the database cannot run code."""
    return json.dumps({"id": job, "name": "batch.run", "args": [job]}, separators=(",", ":")).encode()


def _job_of(data: Any) -> str:
    """The job that a message names; empty when it is none of ours, whatever it holds."""
    try:
        named = json.loads(data)["id"]
    except (ValueError, TypeError, LookupError, RecursionError):
        return ""
    return named if isinstance(named, str) else ""


class Transaction:
    """Statements that commit together; made by `Store.transaction`."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self.wakes: set[Kind] = set()

    def execute(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> sqlite3.Cursor:
        return self._conn.execute(sql, params)

    def submit(self, draft: Draft) -> None:
        """Job row and message, together."""
        from batch.payloads.json_text import encode  # here, as `batch status` submits nothing

        fail_points.reach("spooled")
        message = self._enqueue(draft.kind, draft.id, draft.priority)
        self._conn.execute(
            "insert into job (id, kind, task, state, origin, priority, request, source, parent, waited, message, "
            "created_at) values (?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                draft.id,
                draft.kind,
                draft.task,
                State.QUEUED,
                draft.origin,
                int(draft.priority),
                encode(draft.payload).decode(),
                draft.source,
                draft.parent,
                draft.waited,
                message,
                time.time(),
            ),
        )
        if draft.blobs:
            self._conn.executemany(
                "insert or ignore into blob values (?,?,'request')", [(draft.id, sha) for sha in draft.blobs]
            )

    def next_messages(self, kind: Kind, floor: float, limit: int) -> list[Any]:
        """(id, data, priority) of a queue's first messages above a priority, but for classes that are paused."""
        messages: list[Any] = []
        for above, below in open_ranges(floor, _paused_priorities(self._conn, kind)):
            messages += self._conn.execute(
                "select id, data, priority from task where queue=? and priority>? and priority<? "
                "order by priority desc, id limit ?",
                (kind, above, below, limit - len(messages)),
            ).fetchall()
            if len(messages) >= limit:
                break
        return messages

    def claim(self, kind: Kind, message: int, data: bytes, priority: float, mate_of: Job | None = None) -> Job | None:
        """Turn a message into a claim, and its job into a running one; None, and nothing done, when it names no queued
        job (with `mate_of`: none of that job's task that is tried for the first time)."""
        only, params = "", []
        if mate_of is not None:
            only, params = " and task=? and attempts=0", [mate_of.task]
        # Never before it was made: the clock may have been set back.
        row = self._conn.execute(
            "update job set state='running', attempts=attempts+1, started_at=max(?, created_at), progress=null "
            f"where id=? and message=? and state='queued'{only} returning {_COLUMNS}",
            (time.time(), _job_of(data), message, *params),
        ).fetchone()
        if row is None:
            return None
        job = _job(row)
        self._conn.execute("delete from task where id=?", (message,))
        # A pack's claims share their time, by which `recover` tells mates from jobs that wait for inner ones.
        self._conn.execute(
            "insert or replace into claim values (?,?,?,?,?,?)",
            (job.id, kind, data, priority, message, mate_of.started_at if mate_of else job.started_at),
        )
        return job

    def _enqueue(self, kind: Kind, job: str, priority: float, message: int | None = None) -> int:
        self.wakes.add(kind)
        cursor = self._conn.execute(
            "insert into task (id, queue, data, priority) values (?,?,?,?)", (message, kind, message_for(job), priority)
        )
        return int(cursor.lastrowid or 0)


class Store:
    """One connection to the database; methods may be called from any thread, one at a time."""

    def __init__(self, path: Path, *, create: bool = True, readonly: bool = False) -> None:
        self.path = path
        if create and not readonly:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
                schema.migrate(path)
            except OSError as error:
                raise DiskFull(f"{path} cannot be made ({error.strerror}): look after its disk.") from error
            except sqlite3.OperationalError as error:
                self._disk_trouble(error)
                raise
        self._lock = threading.RLock()
        self.submitted: Callable[[set[Kind]], None] = lambda kinds: None
        """Called after a commit that queued jobs; whoever owns the store may put a wake-up here."""
        uri = f"{path.absolute().as_uri()}?mode={'ro' if readonly else 'rw'}"
        self._conn = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        if not readonly:
            self._conn.execute("pragma synchronous=normal")
            self._conn.execute("pragma wal_autocheckpoint=4000")
            # One huge commit, or a reader that kept checkpoints from ending, must not leave its size behind.
            self._conn.execute(f"pragma journal_size_limit={_WAL_BYTES}")
        self._conn.execute("pragma cache_size=-8000")
        if readonly:  # nothing is migrated, but what cannot be understood is not guessed at
            try:
                schema.refuse_newer(path, self.read("pragma user_version")[0][0])
            except BaseException:
                self._conn.close()
                raise

    def close(self) -> None:
        with self._lock:
            self._conn.close()

    # -- reading and writing in general

    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._conn.execute(sql, params).fetchall()
            except sqlite3.OperationalError as error:
                self._disk_trouble(error)
                raise

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[Transaction]:
        """One write transaction. `durable`: on disk (fsync) before it returns, not only safe from a killed process.

        Raises DiskFull when the disk takes no more, for whatever reason; nothing of the transaction is kept then.
        """
        with self._lock:
            if durable:
                self._conn.execute("pragma synchronous=full")
            try:
                self._conn.execute("begin immediate")
                try:
                    yield (transaction := Transaction(self._conn))
                    self._conn.execute("commit")
                except BaseException:
                    if self._conn.in_transaction:
                        with contextlib.suppress(sqlite3.OperationalError):  # the first error says more
                            self._conn.execute("rollback")
                    raise
            except sqlite3.OperationalError as error:
                self._disk_trouble(error)
                raise
            finally:
                if durable:
                    self._conn.execute("pragma synchronous=normal")
        if transaction.wakes:
            fail_points.reach("committed")
            self.submitted(transaction.wakes)

    def _disk_trouble(self, error: sqlite3.OperationalError) -> None:
        match getattr(error, "sqlite_errorcode", 0) & 0xFF:
            case sqlite3.SQLITE_FULL:
                raise DiskFull() from error
            case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN:
                raise DiskFull(f"{self.path} cannot be read or written ({error}): look after its disk.") from error

    # -- the way of a job

    def submit(self, draft: Draft, *, durable: bool = False) -> None:
        with self.transaction(durable=durable) as transaction:
            transaction.submit(draft)

    def take(self, kind: Kind, *, above: float | None = None) -> Job | None:
        """Claim the next job of a queue: most urgent first, then oldest. With `above`, only a more urgent one."""
        floor = -1.0 if above is None else above
        with self._lock:
            # A look without the write lock first, as most looks find nothing.
            if not self.waiting(kind, floor):
                return None
            with self.transaction() as transaction:
                while True:
                    rows = transaction.next_messages(kind, floor, 1)
                    if not rows:
                        return None
                    if (job := transaction.claim(kind, *rows[0])) is not None:
                        return job
                    # Not ours: kept for a look, out of the way of the others.
                    transaction.execute("update task set queue='set aside' where id=?", (rows[0][0],))
                    logger.error("message %d of the %s queue names no queued job: it is set aside", rows[0][0], kind)

    def take_mates(self, first: Job, limit: int) -> list[Job]:
        """Claim what comes next in a running job's queue, as long as it is as urgent, of the same task, and has not taken a
        worker down yet; at most `limit` jobs."""
        floor = float(first.priority - 1)
        found: list[Job] = []
        with self._lock:
            if limit < 1 or not self.waiting(first.kind, floor):
                return found
            with self.transaction() as transaction:
                for message, data, priority in transaction.next_messages(first.kind, floor, limit):
                    job = transaction.claim(first.kind, message, data, priority, first)
                    if job is None:
                        break
                    found.append(job)
        return found

    def waiting(self, kind: Kind, above: float = -1.0) -> bool:
        """Whether a message of a higher priority than `above` waits, in a class that is not paused."""
        with self._lock:
            return any(
                self._conn.execute(
                    "select 1 from task where queue=? and priority>? and priority<? limit 1", (kind, *bounds)
                ).fetchone()
                for bounds in open_ranges(above, _paused_priorities(self._conn, kind))
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
                transaction.wakes.add(kind)

    def paused(self) -> set[Pause]:
        """The classes that are held back."""
        try:
            rows = self.read("select kind, priority from pause")
        except sqlite3.OperationalError:  # opened read-only, and not migrated yet
            return set()
        return {Pause(Kind(kind), Priority(priority)) for kind, priority in rows}

    def end(
        self,
        job: str,
        state: State,
        *,
        result: str | None = None,
        error: Mapping[str, Any] | None = None,
        durable: bool = False,
    ) -> bool:
        """Finish a running job and drop its claim; False when it was not running (any more). `result` is JSON text."""
        with self.transaction(durable=durable) as transaction:
            changed = transaction.execute(
                "update job set state=?, result=?, error=?, finished_at=max(?, started_at), message=null "
                "where id=? and state='running'",
                (state, result, None if error is None else _dump(error), time.time(), job),
            ).rowcount
            if changed:
                self._released(transaction, job, state)
        return changed == 1

    def _released(self, transaction: Transaction, job: str, state: State) -> None:
        transaction.execute("delete from claim where job=?", (job,))
        if state is State.DONE:
            # A failed or cancelled job keeps its payload and its checkpoints, as it may be retried.
            transaction.execute("delete from blob where job=? and role='request'", (job,))
            transaction.execute("delete from checkpoint where job=?", (job,))

    def put_back(self, job: str, *, count: bool, durable: bool = True) -> None:
        """A claimed job returns to its old place in the line; `count=False` takes the attempt back too."""
        with self.transaction(durable=durable) as transaction:
            row = transaction.execute("select queue, priority, message from claim where job=?", (job,)).fetchone()
            if row is None:
                return
            queue, priority, message = row
            transaction.execute("delete from claim where job=?", (job,))
            transaction._enqueue(Kind(queue), job, priority, message)
            transaction.execute(
                "update job set state='queued', started_at=null, attempts=attempts-? where id=?",
                (0 if count else 1, job),
            )

    def recover(self, kind: Kind, limit: int) -> list[tuple[str, State]]:
        """Called by the queue's only worker before it takes anything: leftover claims are of a worker that died.

        A job that took its worker down `limit` times is failed, the others go back; one that only waited while a more
        urgent one ran inside it is not blamed. Returns (job, new state) of all.
        """
        moved: list[tuple[str, State]] = []
        claims = self.read(
            "select job, exists (select 1 from claim inner_ where inner_.queue = c.queue and inner_.rowid > c.rowid "
            "and inner_.taken_at <> c.taken_at) from claim c where queue=?",
            (kind,),
        )
        for job, waited in claims:
            row = self.read("select attempts, cancel from job where id=?", (job,))
            if not row:
                with self.transaction() as transaction:
                    transaction.execute("delete from claim where job=?", (job,))
            elif row[0][1]:
                self.end(job, State.CANCELLED, durable=True)
                moved.append((job, State.CANCELLED))
            elif row[0][0] >= limit and not waited:
                reason = WorkerDied(
                    f"The worker process died {row[0][0]} times while it ran this job: it is set aside; "
                    f"`batch retry {job}` tries it again."
                )
                self.end(job, State.FAILED, error=reason.record(), durable=True)
                moved.append((job, State.FAILED))
            else:
                self.put_back(job, count=not waited)
                moved.append((job, State.QUEUED))
        return moved

    def abandon_waited(self) -> int:
        """At the service's start: requests whose callers went down with the last one are cancelled, unless running
        (their worker's successor finds the cancel mark)."""
        with self.transaction() as transaction:
            transaction.execute(
                "update job set cancel=1 where waited=1 and kind in ('vlm','embedding','stt') and state='running' "
                "and origin='http'"
            )
            rows = transaction.execute(
                "select id, message from job where kind in ('vlm','embedding','stt') and state='queued' "
                "and origin='http' and waited=1"
            ).fetchall()
            for job, message in rows:
                self._cancel_queued(transaction, job, message)
        return len(rows)

    def _cancel_queued(self, transaction: Transaction, job: str, message: int | None) -> None:
        transaction.execute("delete from task where id=?", (message,))
        transaction.execute(
            "update job set state='cancelled', cancel=1, finished_at=?, message=null where id=?", (time.time(), job)
        )

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
                self._cancel_queued(transaction, job, row[1])
                return State.CANCELLED
            if state is State.RUNNING:
                transaction.execute("update job set cancel=1 where id=?", (job,))
            return state

    def retry(self, job: str) -> None:
        """Queue a failed or cancelled job again, its attempts counted anew; raises NotFound, Conflict."""
        with self.transaction(durable=True) as transaction:
            row = transaction.execute("select state, kind, priority from job where id=?", (job,)).fetchone()
            if row is None:
                raise NotFound(f"There is no job {job}.")
            if State.QUEUED not in TRANSITIONS[State(row[0])] or row[0] == State.RUNNING:
                raise Conflict(f"Job {job} is {row[0]}: only a failed or cancelled job can be retried.")
            message = transaction._enqueue(Kind(row[1]), job, row[2])
            transaction.execute(
                "update job set state='queued', attempts=0, cancel=0, waited=0, error=null, result=null, progress=null, "
                "started_at=null, finished_at=null, message=? where id=?",
                (message, job),
            )

    def cancelled(self, job: str) -> bool:
        row = self.read("select cancel from job where id=?", (job,))
        return bool(row and row[0][0])

    def progress(self, job: str, progress: JobProgress) -> None:
        with self.transaction() as transaction:
            transaction.execute("update job set progress=? where id=?", (_dump(asdict(progress)), job))

    # -- checkpoints and payloads

    def checkpoint(self, job: str, step: int, data: str) -> None:
        """Write down a finished step of a job, as JSON text."""
        with self.transaction(durable=True) as transaction:
            transaction.execute("insert or replace into checkpoint values (?,?,?)", (job, step, data))

    def checkpoints(self, job: str) -> list[str]:
        """The finished steps of a job in order, as JSON texts."""
        rows = self.read("select data from checkpoint where job=? order by step", (job,))
        return [row[0] for row in rows]

    def refer(self, job: str, sha256: str) -> None:
        """Tie a result's spool file to its job."""
        with self.transaction() as transaction:
            transaction.execute("insert or ignore into blob values (?,?,'result')", (job, sha256))

    def orphans(self, limit: int) -> list[str]:
        """Spool files that lost a reference and have none left."""
        with self.transaction() as transaction:
            transaction.execute(
                "delete from orphan where sha256 in (select sha256 from orphan o where exists "
                "(select 1 from blob where blob.sha256 = o.sha256) limit ?)",
                (limit,),
            )
            return [r[0] for r in transaction.execute("select sha256 from orphan limit ?", (limit,)).fetchall()]

    def forget_orphans(self, names: Sequence[str]) -> None:
        with self.transaction() as transaction:
            transaction._conn.executemany("delete from orphan where sha256=?", [(n,) for n in names])

    def referred(self, sha256: str) -> bool:
        return bool(self.read("select 1 from blob where sha256=? limit 1", (sha256,)))

    # -- looking

    def job(self, job: str) -> Job | None:
        rows = self.read(f"select {_COLUMNS} from job where id=?", (job,))
        return _job(rows[0]) if rows else None

    def find(self, prefix: str) -> Job:
        """The one job whose id begins or ends with `prefix`, as people type it; raises NotFound."""
        exact = self.job(prefix)
        if exact:
            return exact
        rows = self.read(f"select {_COLUMNS} from job where id >= ? and id < ? limit 2", (prefix, prefix + "\U0010ffff"))
        if len(rows) != 1:
            raise NotFound(f"{'More than one job begins' if rows else 'No job begins'} with {prefix}.")
        return _job(rows[0])

    def jobs(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        origin: Origin | None = None,
        parent: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """The newest jobs that match. Each kind, state and origin is one walk along an index, however many there are."""
        wanted = {(kind or row[0], state or row[3], origin or row[1]) for row in self.tally()}
        ids: list[str] = []
        for of_kind, in_state, through in wanted:
            where, params = "kind=? and state=? and origin=?", [of_kind, in_state, through]
            if parent:
                where, params = where + " and parent=?", [*params, parent]
            rows = self.read(f"select id from job where {where} order by id desc limit ?", (*params, limit))
            ids += [row[0] for row in rows]
        # Requests and results are read of those alone that are shown: each may be large.
        found = (self.job(id) for id in sorted(ids, reverse=True)[:limit])
        return [job for job in found if job is not None]

    def ahead(self, job: str) -> int:
        """How many messages are before this job's in its line; 0 when it is next, running or ended."""
        rows = self.read(
            "select t.queue, t.priority, t.id from job j join task t on t.id = j.message where j.id=? and j.state='queued'",
            (job,),
        )
        if not rows:
            return 0
        queue, priority, message = rows[0]
        return int(
            self.read(
                "select (select count(*) from (select 1 from task where queue=:queue and priority>:priority limit 10000)) + "
                "(select count(*) from "
                "(select 1 from task where queue=:queue and priority=:priority and id<:message limit 10000))",
                {"queue": queue, "priority": priority, "message": message},
            )[0][0]
        )

    def tally(self) -> list[tuple[str, str, int, str, int]]:
        """(kind, origin, priority, state, n) of all jobs, from counters kept by triggers."""
        return self.read("select kind, origin, priority, state, n from tally where n > 0")

    def today(self) -> list[tuple[str, str, int, float, float]]:
        """(kind, state, n, seconds of work, seconds of waiting) of the jobs that ended today, local time."""
        return self.read("select kind, state, n, seconds, waited from daily where day = date('now', 'localtime')")

    def queued(self, kind: Kind, priority: int) -> int:
        """Jobs of a class that wait."""
        rows = self.read(
            "select coalesce(sum(n), 0) from tally where kind=? and priority=? and state='queued'", (kind, priority)
        )
        return int(rows[0][0])

    # -- facts about the running service, for `batch status` in another process

    def note(self, name: str, value: Any) -> None:
        self.note_all({name: value})

    def note_all(self, notes: Mapping[str, Any]) -> None:
        """Several facts, of which nobody sees some without the others."""
        with self.transaction() as transaction:
            for name, value in notes.items():
                transaction.execute("insert or replace into service values (?,?)", (name, _dump(value)))

    def notes(self) -> dict[str, Any]:
        return {name: json.loads(value) for name, value in self.read("select name, value from service")}

    # -- retention

    def expire(self, origin: Origin, before: float, limit: int = 500) -> int:
        """Delete up to `limit` ended jobs of an origin that ended before a Unix time; returns how many."""
        with self.transaction() as transaction:
            return transaction.execute(
                "delete from job where id in (select id from job where kind in ('vlm','embedding','stt') and "
                "state in ('done','failed','cancelled') and id < ? and origin=? and finished_at < ? limit ?)",
                (f"{int(before * 1000):012x}", origin, before, limit),
            ).rowcount

    def vacuum(self, pages: int = 1000, *, keep: int = 0) -> bool:
        """Give freed pages back to the file system, a slice at a time, down to `keep`; True while there are more."""
        with self._lock:
            free = int(self._conn.execute("pragma freelist_count").fetchone()[0]) - keep
            if free > 0:
                self._conn.execute(f"pragma incremental_vacuum({min(pages, free)})").fetchall()
            return free > pages


def _paused_priorities(conn: sqlite3.Connection, kind: Kind) -> list[float]:
    return [row[0] for row in conn.execute("select priority from pause where kind=?", (kind,)).fetchall()]


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)


def _job(row: Sequence[Any]) -> Job:
    (
        id,
        kind,
        task,
        state,
        origin,
        priority,
        request,
        created,
        attempts,
        started,
        finished,
        result,
        error,
        progress,
        source,
        parent,
        cancel,
        waited,
    ) = row
    return Job(
        id=id,
        kind=Kind(kind),
        task=task,
        state=State(state),
        origin=Origin(origin),
        priority=priority,
        payload_json=request,
        created_at=created,
        attempts=attempts,
        started_at=started,
        finished_at=finished,
        result_json=result,
        error=_load(error),
        progress=None if progress is None else JobProgress(**json.loads(progress)),
        source=source,
        parent=parent,
        cancel=bool(cancel),
        waited=bool(waited),
    )


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)


__all__ = ["BatchError", "Store", "Transaction", "message_for"]
