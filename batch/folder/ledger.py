"""The ledger: which files were taken from the inbox, what became of them, and the content that several may share.

Two tables in the queue's database. A `content` is one piece of work (bytes and parameters); a `file` is one path in
the inbox with the content it holds now. Everything that must hold together is one transaction.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from batch.folder.safe_open import Stamp
from batch.queue.jobs import Draft, State
from batch.queue.store import Store, Transaction

SCHEMA = """
create table if not exists content (
  id integer primary key, key text not null unique, sha256 text not null, size integer not null, kind text not null,
  parameters text not null, state text not null, step text not null, job text not null, jobs text not null,
  models text not null default '{}', error text, owner integer, created_at real not null, finished_at real);
create index if not exists content_job on content (job);
create index if not exists content_state on content (state, id) where state <> 'done';
create table if not exists file (
  id integer primary key, path blob not null unique, folder blob not null, size integer not null,
  mtime_ns integer not null, inode integer not null, ctime_ns integer not null, state text not null,
  content integer, error text, rules text not null default '{}', gone integer not null default 0,
  accepted_at real not null, finished_at real);
create index if not exists file_folder on file (folder) where gone = 0;
create index if not exists file_content on file (content);
create index if not exists file_writing on file (id) where state = 'writing';
create table if not exists file_tally (state text primary key, n integer not null) without rowid;
create trigger if not exists file_insert after insert on file begin
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
create trigger if not exists file_state after update of state on file when old.state <> new.state begin
  update file_tally set n = n - 1 where state = old.state;
  insert into file_tally values (new.state, 1) on conflict do update set n = n + 1;
end;
create trigger if not exists file_delete after delete on file begin
  update file_tally set n = n - 1 where state = old.state;
end;
"""
# The states of a file: waiting (its jobs are queued or run), writing (its outcome is known, the outbox lacks it),
# done, linked (done by another file's work), failed. Of a content: working, done, failed.


class Readable(Protocol):
    def read(self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]: ...


def counts(db: Readable) -> dict[str, int]:
    """{"waiting", "done", "failed", "linked"} of all files that are known; from counters, so at no cost."""
    try:
        found = dict(db.read("select state, n from file_tally"))
    except sqlite3.OperationalError:  # a home in which no service has run yet has no ledger
        found = {}
    waiting = found.get("waiting", 0) + found.get("writing", 0)
    return {"waiting": waiting, **{state: found.get(state, 0) for state in ("done", "failed", "linked")}}


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file as it was taken from the inbox: either an error or a piece of work."""

    path: str
    stamp: Stamp
    rules: Mapping[str, Any]
    """What is done with its results: {"formats", "source", "done"}."""
    error: Mapping[str, Any] | None = None
    """What BatchError.record gave, when nothing can be made of it."""
    key: str = ""
    """Same bytes and same parameters, same key."""
    sha256: str = ""
    kind: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    step: str = ""
    draft: Draft | None = None
    """Its first job; not submitted when the content is known."""
    kept: tuple[str, ...] = ()
    """Spool files among the draft's blobs that are needed again when the results are written."""


@dataclass(frozen=True, slots=True)
class Content:
    """One piece of work, shared by all files with these bytes and parameters."""

    id: int
    sha256: str
    size: int
    kind: str
    parameters: Mapping[str, Any]
    state: str
    step: str
    job: str
    jobs: Mapping[str, str]
    """Job ids by step, in order."""
    models: Mapping[str, str]
    """Model names by step."""
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Due:
    """A file whose outcome belongs into the outbox."""

    id: int
    path: str
    stamp: Stamp
    rules: Mapping[str, Any]
    error: Mapping[str, Any] | None
    content: Content | None
    linked: bool
    accepted_at: float


@dataclass(frozen=True, slots=True)
class Step:
    """What an ended job means for its content: a next job, the end, or an error."""

    content: int
    job: str
    """The job that ended: a content that has gone on to another job meanwhile is left alone."""
    model: str = ""
    next: str = ""
    draft: Draft | None = None
    error: Mapping[str, Any] | None = None


_CONTENT = "c.id, c.sha256, c.size, c.kind, c.parameters, c.state, c.step, c.job, c.jobs, c.models, c.error"


class Ledger:
    """May be used from several threads, as the store may."""

    def __init__(self, store: Store) -> None:
        self.store = store
        statement = ""
        with store.transaction() as transaction:
            for line in SCHEMA.splitlines(keepends=True):
                statement += line
                if sqlite3.complete_statement(statement):
                    transaction.execute(statement)
                    statement = ""

    # -- what the inbox asks

    def known(self, paths: Sequence[str]) -> dict[str, tuple[Stamp, str, bool]]:
        """Stamp, state and whether it was gone, of those paths that were taken before."""
        marks = ",".join("?" * len(paths))
        rows = self.store.read(
            f"select path, size, mtime_ns, inode, ctime_ns, state, gone from file where path in ({marks})",
            [os.fsencode(path) for path in paths],
        )
        return {os.fsdecode(row[0]): (Stamp(*row[1:5]), row[5], bool(row[6])) for row in rows}

    def present(self, folder: str) -> int:
        """How many files directly in a folder were there when last looked at."""
        rows = self.store.read("select count(*) from file where folder=? and gone=0", (os.fsencode(folder),))
        return int(rows[0][0])

    def paths_in(self, folder: str, after: str = "", limit: int = 500) -> list[str]:
        """Paths directly in a folder that were there when last looked at, in order of their bytes."""
        rows = self.store.read(
            "select path from file where folder=? and gone=0 and path>? order by path limit ?",
            (os.fsencode(folder), os.fsencode(after), limit),
        )
        return [os.fsdecode(row[0]) for row in rows]

    def folders(self) -> list[str]:
        """Every folder that has files which were there when last looked at; one index step each."""
        rows = self.store.read(
            "with recursive f(x) as (select min(folder) from file where gone=0 union all "
            "select (select min(folder) from file where gone=0 and folder > x) from f where x is not null) "
            "select x from f where x is not null"
        )
        return [os.fsdecode(row[0]) for row in rows]

    def mark_gone(self, paths: Iterable[str]) -> None:
        """These files left the inbox: should they come back, they are taken anew."""
        with self.store.transaction() as transaction:
            for path in paths:
                transaction.execute("update file set gone=1 where path=? and gone=0", (os.fsencode(path),))

    def accept(self, arrivals: Sequence[Arrival]) -> list[str]:
        """Take files in, in one durable transaction with their jobs; returns each one's state: waiting or writing."""
        with self.store.transaction(durable=True) as transaction:
            return [self._accept(transaction, arrival) for arrival in arrivals]

    def _accept(self, transaction: Transaction, arrival: Arrival) -> str:
        now = time.time()
        if arrival.error is not None or arrival.draft is None:
            self._upsert(transaction, arrival, "writing", None, now)
            return "writing"
        row = transaction.execute(f"select {_CONTENT} from content c where key=?", (arrival.key,)).fetchone()
        content = _content(row) if row else None
        if content and content.state == "working":
            state = "waiting"
        elif content and content.state == "done" and self._results_kept(content):
            state = "writing"
        else:
            state = "waiting"
        fresh = content is None or (content.state != "working" and state == "waiting")
        if fresh:
            content = self._begin(transaction, arrival, now)
        else:
            for sha256 in arrival.draft.blobs:  # its copy is not needed, unless the first one's job still needs it
                transaction.execute("insert or ignore into orphan values (?)", (sha256,))
        assert content is not None
        file = self._upsert(transaction, arrival, state, content.id, now)
        if fresh:
            transaction.execute("update content set owner=? where id=?", (file, content.id))
        return state

    def _begin(self, transaction: Transaction, arrival: Arrival, now: float) -> Content:
        draft = arrival.draft
        assert draft is not None
        transaction.submit(draft)
        for sha256 in arrival.kept:
            transaction.execute("insert or ignore into blob values (?,?,'result')", (draft.id, sha256))
        row = transaction.execute(
            "insert into content as c (key, sha256, size, kind, parameters, state, step, job, jobs, created_at) "
            "values (?,?,?,?,?,'working',?,?,?,?) on conflict (key) do update set state='working', step=excluded.step, "
            "job=excluded.job, jobs=excluded.jobs, models='{}', error=null, created_at=excluded.created_at, "
            f"finished_at=null returning {_CONTENT.replace('c.', '')}",
            (
                arrival.key,
                arrival.sha256,
                arrival.stamp.size,
                arrival.kind,
                json.dumps(arrival.parameters),
                arrival.step,
                draft.id,
                json.dumps({arrival.step: draft.id}),
                now,
            ),
        ).fetchone()
        return _content(row)

    def _results_kept(self, content: Content) -> bool:
        """Whether the jobs' rows are still there: retention may have taken them."""
        jobs = [self.store.job(job) for job in content.jobs.values()]
        return bool(jobs) and all(job is not None and job.state is State.DONE for job in jobs)

    def _upsert(self, transaction: Transaction, arrival: Arrival, state: str, content: int | None, now: float) -> int:
        stamp, path = arrival.stamp, os.fsencode(arrival.path)
        error = None if arrival.error is None else json.dumps(arrival.error)
        row = transaction.execute(
            "insert into file (path, folder, size, mtime_ns, inode, ctime_ns, state, content, error, rules, "
            "accepted_at) values (?,?,?,?,?,?,?,?,?,?,?) on conflict (path) do update set size=excluded.size, "
            "mtime_ns=excluded.mtime_ns, inode=excluded.inode, ctime_ns=excluded.ctime_ns, state=excluded.state, "
            "content=excluded.content, error=excluded.error, rules=excluded.rules, gone=0, "
            "accepted_at=excluded.accepted_at, finished_at=null returning id",
            (
                path,
                path.rpartition(b"/")[0],
                stamp.size,
                stamp.mtime_ns,
                stamp.inode,
                stamp.ctime_ns,
                state,
                content,
                error,
                json.dumps(arrival.rules),
                now,
            ),
        ).fetchone()
        return int(row[0])

    def reject(self, path: str) -> None:
        """Forget a file that is no longer wrong and was never work: a mended rules file."""
        with self.store.transaction() as transaction:
            transaction.execute("delete from file where path=? and content is null", (os.fsencode(path),))

    # -- retention

    def forget_files(self, after: int, before: float, limit: int = 500) -> tuple[int | None, int]:
        """Of one slice of all files, by id: forget those that left the inbox, had their outcome before a Unix time, and
        whose job is gone. Returns the next slice's start, None behind the last, and how many went.

        A file that lies in the inbox is known for as long as it does, or it would be done again.
        """
        # The newest stays: an id that is used twice would make a file the owner of another one's content.
        return self._forget(
            "file",
            after,
            before,
            limit,
            "id < (select max(id) from file) and gone=1 and "
            "state in ('done', 'linked', 'failed') and not exists "
            "(select 1 from content c join job j on j.id = c.job where c.id = file.content)",
        )

    def forget_contents(self, after: int, before: float, limit: int = 500) -> tuple[int | None, int]:
        """The same for contents that no file has any more."""
        return self._forget(
            "content",
            after,
            before,
            limit,
            "state in ('done', 'failed') and "
            "not exists (select 1 from file where file.content = content.id) and "
            "not exists (select 1 from job where job.id = content.job)",
        )

    def _forget(self, table: str, after: int, before: float, limit: int, which: str) -> tuple[int | None, int]:
        (last,) = self.store.read(
            f"select max(id) from (select id from {table} where id > ? order by id limit ?)", (after, limit)
        )[0]
        if last is None:
            return None, 0
        with self.store.transaction() as transaction:
            gone = transaction.execute(
                f"delete from {table} where id > ? and id <= ? and finished_at < ? and {which}", (after, last, before)
            ).rowcount
        return int(last), gone

    # -- what the chain asks

    def of_job(self, job: str) -> Content | None:
        """The content that this job is the latest step of."""
        rows = self.store.read(f"select {_CONTENT} from content c where job=?", (job,))
        return _content(rows[0]) if rows else None

    def unfinished(self, after: int = 0, limit: int = 200) -> list[Content]:
        """Contents that are not done, by id."""
        rows = self.store.read(
            f"select {_CONTENT} from content c where state <> 'done' and id > ? order by id limit ?", (after, limit)
        )
        return [_content(row) for row in rows]

    def advance(self, steps: Sequence[Step]) -> int:
        """Write down what ended jobs mean; returns how many files have their outcome now."""
        due = 0
        with self.store.transaction(durable=any(step.draft for step in steps)) as transaction:
            for step in steps:
                due += self._advance(transaction, step)
        return due

    def _advance(self, transaction: Transaction, step: Step) -> int:
        row = transaction.execute(f"select {_CONTENT} from content c where id=?", (step.content,)).fetchone()
        if row is None:
            return 0
        content = _content(row)
        if content.job != step.job or content.state == "done":
            return 0
        models = {**content.models, **({content.step: step.model} if step.model else {})}
        if step.draft is not None:
            transaction.submit(step.draft)
            jobs = {**content.jobs, step.next: step.draft.id}
            transaction.execute(
                "update content set state='working', step=?, job=?, jobs=?, models=?, error=null where id=?",
                (step.next, step.draft.id, json.dumps(jobs), json.dumps(models), content.id),
            )
            return 0
        if content.state == "failed" and step.error is not None:
            return 0  # told already
        state = "done" if step.error is None else "failed"
        error = None if step.error is None else json.dumps(step.error)
        transaction.execute(
            "update content set state=?, models=?, error=?, finished_at=? where id=?",
            (state, json.dumps(models), error, time.time(), content.id),
        )
        # A retried job that did well after all mends the files that had failed with it.
        return transaction.execute(
            "update file set state='writing' where content=? and state in ('waiting', 'failed')", (content.id,)
        ).rowcount

    # -- what the outbox asks

    def due(self, after: int = 0, limit: int = 32) -> list[Due]:
        """Files whose outcome is known and not yet in the outbox, by id."""
        rows = self.store.read(
            "select f.id, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, f.rules, f.error, f.accepted_at, c.owner, "
            f"{_CONTENT} from file f left join content c on c.id = f.content "
            "where f.state='writing' and f.id > ? order by f.id limit ?",
            (after, limit),
        )
        return [
            Due(
                id=row[0],
                path=os.fsdecode(row[1]),
                stamp=Stamp(*row[2:6]),
                rules=json.loads(row[6]),
                error=_load(row[7]),
                content=None if row[10] is None else _content(row[10:]),
                linked=row[9] is not None and row[9] != row[0],
                accepted_at=row[8],
            )
            for row in rows
        ]

    def delivered(self, files: Sequence[tuple[Due, str, bool]]) -> None:
        """(file, state, whether its source was taken away) of files whose outcome lies in the outbox now."""
        with self.store.transaction() as transaction:
            for due, state, gone in files:
                # The stamp: a file that was dropped anew meanwhile has a new outcome to wait for.
                transaction.execute(
                    "update file set state=?, gone=max(gone, ?), finished_at=? "
                    "where id=? and state='writing' and mtime_ns=? and inode=? and size=?",
                    (state, gone, time.time(), due.id, due.stamp.mtime_ns, due.stamp.inode, due.stamp.size),
                )

    def settled(self, after: int = 0, limit: int = 500) -> list[tuple[int, str]]:
        """(id, path) of files that have their results and still lie in the inbox, by id."""
        rows = self.store.read(
            "select id, path from file where id > ? and gone=0 and state in ('done', 'linked') order by id limit ?",
            (after, limit),
        )
        return [(int(row[0]), os.fsdecode(row[1])) for row in rows]

    def write_again(self, files: Sequence[int]) -> None:
        """Their results are to be written once more."""
        with self.store.transaction() as transaction:
            for file in files:
                transaction.execute("update file set state='writing' where id=? and state in ('done', 'linked')", (file,))


def _content(row: Sequence[Any]) -> Content:
    id, sha256, size, kind, parameters, state, step, job, jobs, models, error = row
    return Content(
        id=id,
        sha256=sha256,
        size=size,
        kind=kind,
        parameters=json.loads(parameters),
        state=state,
        step=step,
        job=job,
        jobs=json.loads(jobs),
        models=json.loads(models),
        error=_load(error),
    )


def _load(text: str | None) -> Any:
    return None if text is None else json.loads(text)
