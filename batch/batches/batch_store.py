"""Batches and their lines in the database, with the growing result files accounted for in the same transactions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batch.batches.file_store import insert_file, new_public_id
from batch.batches.rows import (
    Batch,
    BatchApi,
    BatchLine,
    BatchStatus,
    LineProblem,
    LineState,
    StoredFile,
    TokenCounts,
)
from batch.errors import BadRequest, Conflict, NotFound
from batch.queue.jobs import Draft, State
from batch.queue.store import Store

MAX_REPORTED_PROBLEMS = 100

_COLUMNS = (
    "sequence, id, api, endpoint, input_file, input_sha256, input_bytes, completion_window, status, created_at, priority, "
    "in_progress_at, expires_at, finalizing_at, completed_at, failed_at, expired_at, cancelling_at, cancelled_at, metadata, "
    "output_lifetime_s, model, errors, read_bytes, read_lines, total, completed, failed, lost, output_bytes, error_bytes, "
    "output_file, error_file, input_tokens, cached_tokens, output_tokens, reasoning_tokens"
)
_LINE = ", ".join(BatchLine.__struct_fields__)
_LIVE = "('validating', 'in_progress', 'finalizing', 'cancelling')"


class EndedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line whose job has ended and whose result is not written yet."""

    line: BatchLine
    state: State | None
    """None where the job's row is gone."""


class BatchStore:
    """Named queries on batches and lines. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- batches

    def create(
        self,
        *,
        api: BatchApi,
        endpoint: str,
        input_sha256: str,
        input_bytes: int,
        completion_window: str,
        priority: int,
        input_file: str | None = None,
        lifetime_s: int | None = None,
        metadata: Mapping[str, str] | None = None,
        output_lifetime_s: int | None = None,
    ) -> Batch:
        """Accept a batch whose input is in the spool, which it holds from now on; durable when it returns.

        `lifetime_s`: seconds after which what has not ended expires; None: never.
        """
        now = int(time.time())
        id = new_public_id("batch_" if api is BatchApi.OPENAI else "msgbatch_")
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "insert into batch (id, api, endpoint, input_file, input_sha256, input_bytes, completion_window, status, "
                "created_at, expires_at, metadata, output_lifetime_s, priority) values (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                (
                    id,
                    api,
                    endpoint,
                    input_file,
                    input_sha256,
                    input_bytes,
                    completion_window,
                    BatchStatus.VALIDATING,
                    now,
                    None if lifetime_s is None else now + lifetime_s,
                    None if metadata is None else msgspec.json.encode(metadata).decode(),
                    output_lifetime_s,
                    priority,
                ),
            )
            transaction.execute("insert into blob values (?,?,'input')", (id, input_sha256))
        return self.batch(id)

    def batch(self, id: str, api: BatchApi | None = None) -> Batch:
        """One batch, of any api unless one is named. Raises NotFound."""
        rows = self._store.read(f"select {_COLUMNS} from batch where id=?", (id,))
        if not rows or (api is not None and rows[0][2] != api):
            raise NotFound(f"No such Batch object: {id}", param="batch_id")
        return _batch(rows[0])

    def batches(
        self, api: BatchApi | None, *, after: str | None = None, before: str | None = None, limit: int = 20
    ) -> tuple[list[Batch], bool]:
        """A page of batches, newest first, and whether more follow in the direction of paging.

        `after` names the batch before the page; `before` the one behind it. Raises BadRequest for an unknown one.
        """
        where, conditions = ["1"], list[Any]()
        if api is not None:
            where.append("api=?")
            conditions.append(api)
        for name, id, sign in (("after", after, "<"), ("before", before, ">")):
            if id is not None:
                rows = self._store.read("select sequence from batch where id=?", (id,))
                if not rows:
                    raise BadRequest(f"'{name}': no such Batch object: {id}", param=name)
                where.append(f"sequence {sign} ?")
                conditions.append(rows[0][0])
        order = "asc" if before is not None else "desc"
        rows = self._store.read(
            f"select {_COLUMNS} from batch where {' and '.join(where)} order by sequence {order} limit ?",
            (*conditions, limit + 1),
        )
        page = [_batch(row) for row in rows[:limit]]
        return (page[::-1] if before is not None else page), len(rows) > limit

    def live(self) -> list[Batch]:
        """Every batch that something remains to be done for, oldest first."""
        return [
            _batch(row) for row in self._store.read(f"select {_COLUMNS} from batch where status in {_LIVE} order by sequence")
        ]

    def cancel(self, id: str, api: BatchApi) -> Batch:
        """Mark a batch for cancelling; one that is being cancelled or was stays as it is. Raises NotFound, Conflict."""
        now = int(time.time())
        with self._store.transaction(durable=True) as transaction:
            row = transaction.execute("select status from batch where id=? and api=?", (id, api)).fetchone()
            if row is None:
                raise NotFound(f"No such Batch object: {id}", param="batch_id")
            status = BatchStatus(row[0])
            if status.is_ended and status is not BatchStatus.CANCELLED:
                raise Conflict(f"Cannot cancel a batch with status '{status}'.")
            if status in (BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS):
                transaction.execute("update batch set status=?, cancelling_at=? where id=?", (BatchStatus.CANCELLING, now, id))
        return self.batch(id)

    def delete(self, id: str) -> None:
        """Remove an ended batch with its lines; its result files stay. Raises NotFound, Conflict."""
        batch = self.batch(id)
        if not batch.status.is_ended:
            raise Conflict(f"The batch {id} is {batch.status}: cancel it first.")
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("delete from batch where id=?", (id,))

    def expire(self, batch: Batch) -> None:
        """End a batch's running because its time is over: what has not ended will be written as expired."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("update batch set expired_at=? where sequence=?", (int(time.time()), batch.sequence))

    # -- validation

    def add_lines(
        self, batch: Batch, lines: Sequence[BatchLine], problems: Sequence[LineProblem], read_bytes: int, read_lines: int
    ) -> Batch:
        """Keep what was read of the input up to `read_bytes`; a custom_id that stands twice is a problem of its later line."""
        with self._store.transaction() as transaction:
            reported = list(problems)
            for line in lines:
                added = transaction.execute(
                    f"insert or ignore into batch_line ({_LINE}) values (?,?,?,?,?,?,?,?,?)",
                    msgspec.structs.astuple(line),
                ).rowcount
                if not added:
                    message = f"The custom_id {line.custom_id[:80]!r} stands in an earlier line too."
                    reported.append(LineProblem(code="duplicate_custom_id", message=message, line=line.line, param="custom_id"))
            errors = sorted([*(batch.errors or []), *reported], key=lambda problem: problem.line or 0)[:MAX_REPORTED_PROBLEMS]
            transaction.execute(
                "update batch set read_bytes=?, read_lines=?, errors=?, total=total+? where sequence=?",
                (
                    read_bytes,
                    read_lines,
                    msgspec.json.encode(errors).decode() if errors else None,
                    len(lines),
                    batch.sequence,
                ),
            )
        return self.batch(batch.id)

    def begin(self, batch: Batch) -> None:
        """A valid batch begins to run."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "update batch set status='in_progress', in_progress_at=? where sequence=? and status='validating'",
                (int(time.time()), batch.sequence),
            )

    def fail(self, batch: Batch, problems: Sequence[LineProblem]) -> None:
        """A batch whose file is not valid ends; nothing of it runs."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("delete from batch_line where batch=?", (batch.sequence,))
            transaction.execute(
                "update batch set status='failed', failed_at=?, errors=?, total=0 where sequence=? and status='validating'",
                (int(time.time()), msgspec.json.encode(problems).decode(), batch.sequence),
            )

    # -- running

    def waiting_lines(self, batch: Batch, limit: int) -> list[BatchLine]:
        """The next lines that have no job, those with a common prompt after each other."""
        rows = self._store.read(
            f"select {_LINE} from batch_line where batch=? and state='waiting' order by prefix, line limit ?",
            (batch.sequence, limit),
        )
        return [_line(row) for row in rows]

    def count_lines(self, batch: Batch, state: LineState, limit: int = 100_000) -> int:
        """How many lines are in a state, `limit` at most."""
        rows = self._store.read(
            "select count(*) from (select 1 from batch_line where batch=? and state=? limit ?)", (batch.sequence, state, limit)
        )
        return int(rows[0][0])

    def queue_lines(self, jobs: Sequence[tuple[BatchLine, Draft]]) -> None:
        """Submit lines' jobs, in one transaction with the lines' states; a line that was cancelled meanwhile is left out."""
        with self._store.transaction(durable=True) as transaction:
            for line, draft in jobs:
                changed = transaction.execute(
                    "update batch_line set state='queued', job=? where batch=? and line=? and state='waiting' and exists "
                    "(select 1 from batch where sequence=batch and status='in_progress')",
                    (draft.id, line.batch, line.line),
                ).rowcount
                if changed:
                    transaction.submit(draft)

    def ended_lines(self, batch: Batch, limit: int) -> list[EndedLine]:
        """Lines whose jobs have ended, or are gone, and that are not written yet."""
        rows = self._store.read(
            f"select {', '.join('l.' + name for name in BatchLine.__struct_fields__)}, j.state from batch_line l "
            "left join job j on j.id=l.job where l.batch=? and l.state='queued' and "
            "(j.id is null or j.state in ('done','failed','cancelled')) limit ?",
            (batch.sequence, limit),
        )
        return [EndedLine(line=_line(row[:-1]), state=None if row[-1] is None else State(row[-1])) for row in rows]

    def queued_jobs(self, batch: Batch) -> list[str]:
        """Ids of the jobs that wait or run for a batch."""
        rows = self._store.read("select job from batch_line where batch=? and state='queued'", (batch.sequence,))
        return [row[0] for row in rows]

    def record_written(
        self,
        batch: Batch,
        lines: Sequence[BatchLine],
        *,
        completed: int,
        failed: int,
        lost: int,
        output_bytes: int,
        error_bytes: int,
        usage: TokenCounts,
        model: str,
    ) -> None:
        """Account for lines whose results stand, flushed to the disk, in the files up to the sizes given."""
        with self._store.transaction(durable=True) as transaction:
            for line in lines:
                transaction.execute("update batch_line set state='written' where batch=? and line=?", (line.batch, line.line))
            transaction.execute(
                "update batch set completed=completed+?, failed=failed+?, lost=lost+?, output_bytes=?, error_bytes=?, "
                "input_tokens=input_tokens+?, cached_tokens=cached_tokens+?, output_tokens=output_tokens+?, "
                "reasoning_tokens=reasoning_tokens+?, model=coalesce(nullif(?, ''), model) where sequence=?",
                (
                    completed,
                    failed,
                    lost,
                    output_bytes,
                    error_bytes,
                    usage.input_tokens,
                    usage.cached_tokens,
                    usage.output_tokens,
                    usage.reasoning_tokens,
                    model,
                    batch.sequence,
                ),
            )

    def begin_finalizing(self, batch: Batch) -> None:
        """Every line has ended; a batch that is cancelled keeps that status until its end."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "update batch set finalizing_at=?, status=case status when 'in_progress' then 'finalizing' else status end "
                "where sequence=?",
                (int(time.time()), batch.sequence),
            )

    def end(self, batch: Batch, status: BatchStatus, output: StoredFile | None, errors: StoredFile | None) -> None:
        """Close a batch with its result files."""
        column = {
            BatchStatus.COMPLETED: "completed_at",
            BatchStatus.EXPIRED: "expired_at",
            BatchStatus.CANCELLED: "cancelled_at",
        }[status]
        with self._store.transaction(durable=True) as transaction:
            for file in (output, errors):
                if file is not None:
                    insert_file(transaction, file)
            transaction.execute(
                f"update batch set status=?, {column}=?, output_file=?, error_file=? where sequence=?",
                (
                    status,
                    int(time.time()),
                    output.id if output else None,
                    errors.id if errors else None,
                    batch.sequence,
                ),
            )
            # Lines are needed no more: their results stand in the files.
            transaction.execute("delete from batch_line where batch=?", (batch.sequence,))
            transaction.execute("delete from blob where job=? and role='input'", (batch.id,))


def _line(row: Sequence[Any]) -> BatchLine:
    values = dict(zip(BatchLine.__struct_fields__, row, strict=True))
    return BatchLine(**values | {"state": LineState(values["state"])})


def _batch(row: Sequence[Any]) -> Batch:
    values = dict(zip(_COLUMNS.split(", "), row, strict=True))
    usage = TokenCounts(**{name: values.pop(name) for name in TokenCounts.__struct_fields__})
    metadata, errors = values.pop("metadata"), values.pop("errors")
    return Batch(
        **values
        | {
            "api": BatchApi(values["api"]),
            "status": BatchStatus(values["status"]),
            "metadata": None if metadata is None else msgspec.json.decode(metadata, type=dict[str, str]),
            "errors": None if errors is None else msgspec.json.decode(errors, type=list[LineProblem]),
            "usage": usage,
        }
    )
