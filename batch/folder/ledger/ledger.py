"""The ledger: which files were taken from the inbox, what became of them, and the content that several may share.

Two tables in the queue's database, and the only SQL on them. A `content` is one piece of work (bytes and parameters); a
`file` is one path in the inbox with the content it holds now. Everything that must hold together is one transaction.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence

import msgspec

from batch.batches.batch_store import has_all_results, insert_batch
from batch.batches.rows import BatchDraft
from batch.folder.ledger.row_decoding import (
    CONTENT_COLUMNS,
    REDO_RUNNING,
    first_job,
    to_content,
    to_error,
    to_json,
    to_redo_request,
)
from batch.folder.ledger.rows import (
    AcceptedFile,
    Arrival,
    Content,
    ContentState,
    ContentWork,
    Delivery,
    DeliveryRules,
    FileState,
    RecordedFile,
    RedoRequest,
    RequestParameters,
    StepOutcome,
    search_key,
)
from batch.folder.safe_open import FileStamp
from batch.queue.jobs import State
from batch.queue.store import Store, Transaction
from batch.search.index.writer import IndexWriter


class Ledger:
    """May be used from several threads, as the store may."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._inbox = store.inbox_scope
        self._own = self._inbox.own()
        self._search = IndexWriter(store.search_tables, inbox=self._inbox)

    # -- the inbox

    def recorded_files(self, paths: Sequence[str]) -> dict[str, RecordedFile]:
        """Those of the paths that were taken before, with what was recorded of them."""
        marks = ",".join("?" * len(paths)) or "null"
        rows = self.store.read(
            f"select path, size, mtime_ns, inode, ctime_ns, state, gone, redo from file where {self._own}path in ({marks})",
            [os.fsencode(path) for path in paths],
        )
        return {
            os.fsdecode(path): RecordedFile(
                FileStamp(size, mtime, inode, ctime), FileState(state), bool(gone), to_redo_request(redo)
            )
            for path, size, mtime, inode, ctime, state, gone, redo in rows
        }

    def count_present(self, folder: str) -> int:
        """How many recorded files lay directly in a folder when last looked at."""
        rows = self.store.read(f"select count(*) from file where {self._own}folder=? and gone=0", (os.fsencode(folder),))
        return int(rows[0][0])

    def present_paths(self, folder: str, after: str = "", limit: int = 500) -> list[str]:
        """Paths directly in a folder that were there when last looked at, in order of their bytes."""
        rows = self.store.read(
            f"select path from file where {self._own}folder=? and gone=0 and path>? order by path limit ?",
            (os.fsencode(folder), os.fsencode(after), limit),
        )
        return [os.fsdecode(row[0]) for row in rows]

    def present_folders(self) -> list[str]:
        """Every folder with recorded files that were there when last looked at; one index step each."""
        rows = self.store.read(
            f"with recursive f(x) as (select (select folder from file where {self._own}gone=0 order by folder limit 1) "
            f"union all select (select folder from file where {self._own}gone=0 and folder > x order by folder limit 1) "
            "from f where x is not null) "
            "select x from f where x is not null"
        )
        return [os.fsdecode(row[0]) for row in rows]

    def mark_gone(self, paths: Iterable[str]) -> None:
        """Record that files left the inbox: should they come back, they are taken anew."""
        with self.store.transaction() as transaction:
            for path in paths:
                transaction.execute(f"update file set gone=1 where {self._own}path=? and gone=0", (os.fsencode(path),))

    def accept(self, arrivals: Sequence[Arrival]) -> list[AcceptedFile]:
        """Record files in one durable transaction with their first jobs."""
        with self.store.transaction(durable=True) as transaction:
            return [self._accept(transaction, arrival) for arrival in arrivals]

    def _accept(self, transaction: Transaction, arrival: Arrival) -> AcceptedFile:
        now, path = time.time(), os.fsencode(arrival.path)
        before = transaction.execute(
            f"select content from file where {self._own}path=? and content is not null", (path,)
        ).fetchone()
        state = FileState.WRITING
        if arrival.work is None:
            if not arrival.is_redo:  # its old results go, or are written over
                self._search.remove_source(transaction, path)
            self._record_file(transaction, arrival, state, None, now)
        else:
            state = self._accept_work(transaction, arrival, arrival.work, now)
        superseded = self._drop_unwanted(transaction, before[0], now) if before else ""
        return AcceptedFile(arrival.path, state, arrival.is_redo, superseded)

    def _accept_work(self, transaction: Transaction, arrival: Arrival, work: ContentWork, now: float) -> FileState:
        row = transaction.execute(f"select {CONTENT_COLUMNS} from content c where {self._own}key=?", (work.key,)).fetchone()
        content = to_content(row) if row else None
        is_working = content is not None and content.state is ContentState.WORKING
        has_results = (
            content is not None and content.state is ContentState.DONE and not arrival.is_redo and self._has_results(content)
        )
        state = FileState.WRITING if has_results else FileState.WAITING
        if content is not None and (is_working or has_results):
            for sha256 in work.draft.blobs:  # this copy is not needed, unless the first file's job needs it
                transaction.execute("insert into orphan values (?) on conflict do nothing", (sha256,))
            self._record_file(transaction, arrival, state, content.id, now)
            if has_results:  # the same bytes as before, it may be
                self._search.add_source(transaction, search_key(content), os.fsencode(arrival.path))
            elif not arrival.is_redo:
                self._search.remove_source(transaction, os.fsencode(arrival.path))
        else:
            if not arrival.is_redo:
                self._search.remove_source(transaction, os.fsencode(arrival.path))
            content = self._begin_content(transaction, work, arrival.stamp.size, now)
            file = self._record_file(transaction, arrival, state, content.id, now)
            transaction.execute("update content set owner=? where id=?", (file, content.id))
        return state

    def _drop_unwanted(self, transaction: Transaction, content: int, now: float) -> str:
        """Drop a content that is not done and that no file has any more; returns the job that is to be cancelled."""
        row = transaction.execute(
            "update content set state='dropped', finished_at=? where id=? and state='working' "
            "and not exists (select 1 from file where file.content = content.id) returning job",
            (now, content),
        ).fetchone()
        return str(row[0]) if row else ""

    def _begin_content(self, transaction: Transaction, work: ContentWork, size: int, now: float) -> Content:
        if isinstance(work.draft, BatchDraft):
            insert_batch(transaction, work.draft)
        else:
            transaction.submit(work.draft)
        documents = (work.reading.document,) if work.reading.document else ()
        transaction.hold(work.draft.id, (*work.result_blobs, *documents), "result")
        row = transaction.execute(
            f"insert into content as c ({self._inbox.columns}key, sha256, size, kind, parameters, state, step, job, jobs, "
            f"reading, created_at) values ({self._inbox.values}?,?,?,?,?,'working',?,?,?,?,?) "
            f"on conflict ({self._inbox.columns}key) do update set state='working', step=excluded.step, "
            "job=excluded.job, jobs=excluded.jobs, models='{}', error=null, reading=excluded.reading, "
            "created_at=excluded.created_at, "
            f"finished_at=null returning {CONTENT_COLUMNS.replace('c.', '')}",
            (
                work.key,
                work.sha256,
                size,
                work.kind,
                to_json(work.parameters),
                work.step,
                work.draft.id,
                to_json({work.step: work.draft.id}),
                to_json(work.reading),
                now,
            ),
        ).fetchone()
        return to_content(row)

    def _has_results(self, content: Content) -> bool:
        """Whether the jobs' rows, or the batch's files, are still there: retention may have taken them."""
        if isinstance(content.parameters, RequestParameters):
            return has_all_results(self.store, content.job)
        jobs = [self.store.job(job) for job in content.jobs.values()]
        return bool(jobs) and all(job is not None and job.state is State.DONE for job in jobs)

    def _record_file(
        self, transaction: Transaction, arrival: Arrival, state: FileState, content: int | None, now: float
    ) -> int:
        stamp, path = arrival.stamp, os.fsencode(arrival.path)
        row = transaction.execute(
            f"insert into file ({self._inbox.columns}path, folder, size, mtime_ns, inode, ctime_ns, state, content, error, "
            f"rules, accepted_at, redo) values ({self._inbox.values}?,?,?,?,?,?,?,?,?,?,?,?) "
            f"on conflict ({self._inbox.columns}path) do update set size=excluded.size, "
            "mtime_ns=excluded.mtime_ns, inode=excluded.inode, ctime_ns=excluded.ctime_ns, state=excluded.state, "
            "content=excluded.content, error=excluded.error, rules=excluded.rules, gone=0, "
            "accepted_at=excluded.accepted_at, redo=excluded.redo, finished_at=null returning id",
            (
                path,
                path.rpartition(b"/")[0],
                stamp.size,
                stamp.mtime_ns,
                stamp.inode,
                stamp.ctime_ns,
                state,
                content,
                None if arrival.error is None else to_json(arrival.error),
                to_json(arrival.rules),
                now,
                REDO_RUNNING if arrival.is_redo else None,
            ),
        ).fetchone()
        return int(row[0])

    def request_redo(self, paths: Iterable[str], request: RedoRequest) -> list[str]:
        """Have files done again that have their outcome and lie in the inbox; returns those of the paths."""
        marked = []
        with self.store.transaction(durable=True) as transaction:
            for path in paths:
                cursor = transaction.execute(
                    f"update file set redo=? where {self._own}path=? and gone=0 and state in ('done', 'linked', 'failed')",
                    (to_json(request), os.fsencode(path)),
                )
                if cursor.rowcount:
                    marked.append(path)
        return marked

    def forget_error(self, path: str) -> bool:
        """Forget what is no longer wrong and was never work, as a mended settings file; whether there was anything."""
        with self.store.transaction() as transaction:
            cursor = transaction.execute(f"delete from file where {self._own}path=? and content is null", (os.fsencode(path),))
            return cursor.rowcount > 0

    # -- steps

    def content_of_job(self, job: str) -> Content | None:
        """The content whose latest step this job is."""
        rows = self.store.read(f"select {CONTENT_COLUMNS} from content c where job=?", (job,))
        return to_content(rows[0]) if rows else None

    def unfinished_contents(self, after: int = 0, limit: int = 200) -> list[Content]:
        """Contents that are not done, by id."""
        rows = self.store.read(
            f"select {CONTENT_COLUMNS} from content c where {self._own}state <> 'done' and id > ? order by id limit ?",
            (after, limit),
        )
        return [to_content(row) for row in rows]

    def record_steps(self, outcomes: Sequence[StepOutcome]) -> int:
        """Write down what ended jobs mean, with the next steps' jobs; returns how many files have their outcome now."""
        ready = 0
        with self.store.transaction(durable=any(outcome.draft for outcome in outcomes)) as transaction:
            for outcome in outcomes:
                ready += self._record_step(transaction, outcome)
        return ready

    def _record_step(self, transaction: Transaction, outcome: StepOutcome) -> int:
        row = transaction.execute(f"select {CONTENT_COLUMNS} from content c where id=?", (outcome.content,)).fetchone()
        if row is None:
            return 0
        content = to_content(row)
        if content.job != outcome.job or content.state in (ContentState.DONE, ContentState.DROPPED):
            return 0
        models = {**content.models, **({content.step: outcome.model} if outcome.model else {})}
        if outcome.search_entry is not None:
            rows = transaction.execute("select path from file where content=?", (content.id,)).fetchall()
            self._search.put(transaction, outcome.search_entry, [row[0] for row in rows])
        if outcome.draft is not None:
            transaction.submit(outcome.draft)
            jobs = {**content.jobs, outcome.next_step: outcome.draft.id}
            transaction.execute(
                "update content set state='working', step=?, job=?, jobs=?, models=?, error=null where id=?",
                (outcome.next_step, outcome.draft.id, to_json(jobs), to_json(models), content.id),
            )
            return 0
        if content.state is ContentState.FAILED and outcome.error is not None:
            return 0  # it was reported already
        state = ContentState.DONE if outcome.error is None else ContentState.FAILED
        transaction.execute(
            "update content set state=?, models=?, error=?, finished_at=? where id=?",
            (state, to_json(models), None if outcome.error is None else to_json(outcome.error), time.time(), content.id),
        )
        if state is ContentState.DONE and content.reading.document:
            # No page of it is drawn any more. A failed one keeps it, as its job may be retried.
            transaction.execute("delete from blob where sha256=? and job=?", (content.reading.document, first_job(content)))
        # A retried job that did well after all mends the files that had failed with it.
        return transaction.execute(
            "update file set state='writing' where content=? and state in ('waiting', 'failed')", (content.id,)
        ).rowcount

    # -- the outbox

    def deliveries(self, after: int = 0, limit: int = 32) -> list[Delivery]:
        """Files whose outcome is known and not yet in the outbox, by id."""
        rows = self.store.read(
            "select f.id, f.path, f.size, f.mtime_ns, f.inode, f.ctime_ns, f.rules, f.error, f.accepted_at, c.owner, "
            "f.redo, "
            f"{CONTENT_COLUMNS} from file f left join content c on c.id = f.content "
            f"where {self._inbox.own('f')}f.state='writing' and f.id > ? order by f.id limit ?",
            (after, limit),
        )
        return [
            Delivery(
                id=row[0],
                path=os.fsdecode(row[1]),
                stamp=FileStamp(*row[2:6]),
                rules=msgspec.json.decode(row[6], type=DeliveryRules),
                error=to_error(row[7]),
                content=None if row[11] is None else to_content(row[11:]),
                linked=row[9] is not None and row[9] != row[0],
                accepted_at=row[8],
                is_redo=row[10] == REDO_RUNNING,
            )
            for row in rows
        ]

    def record_deliveries(self, deliveries: Sequence[tuple[Delivery, FileState, bool]]) -> None:
        """Record (file, its state now, whether its source was taken away) of outcomes that lie in the outbox."""
        with self.store.transaction() as transaction:
            for delivery, state, gone in deliveries:
                stamp = delivery.stamp
                # The stamp: a file that was dropped anew meanwhile has a new outcome to wait for.
                transaction.execute(
                    "update file set state=?, gone=case when gone=1 then 1 else ? end, finished_at=?, redo=null "
                    "where id=? and state='writing' and mtime_ns=? and inode=? and size=?",
                    (state, gone, time.time(), delivery.id, stamp.mtime_ns, stamp.inode, stamp.size),
                )

    def delivered_paths(self, after: int = 0, limit: int = 500) -> list[tuple[int, str]]:
        """(id, path) of files that have their results and still lie in the inbox, by id."""
        rows = self.store.read(
            f"select id, path from file where {self._own}id > ? and gone=0 and state in ('done', 'linked') order by id limit ?",
            (after, limit),
        )
        return [(int(row[0]), os.fsdecode(row[1])) for row in rows]

    def deliver_again(self, files: Sequence[int]) -> None:
        """Have the results of delivered files, by id, written once more."""
        with self.store.transaction() as transaction:
            for file in files:
                transaction.execute("update file set state='writing' where id=? and state in ('done', 'linked')", (file,))
