"""Batches in the database: how each begins, how far it is, and how it ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from batch.batches.file_store import insert_file
from batch.batches.rows import (
    Batch,
    BatchApi,
    BatchDraft,
    BatchStatus,
    LineProblem,
    RequestKey,
    StoredFile,
    TokenCounts,
)
from batch.errors import BadRequest, Conflict, NotFound, Unprocessable
from batch.queue.store import Store, Transaction

_COLUMNS = (
    "sequence, id, api, endpoint, input_file, input_sha256, input_bytes, completion_window, status, created_at, priority, "
    "in_progress_at, expires_at, finalizing_at, completed_at, failed_at, expired_at, cancelling_at, cancelled_at, metadata, "
    "output_lifetime_s, model, errors, read_bytes, read_lines, total, requests, tasks, completed, failed, lost, output_bytes, "
    "error_bytes, output_file, error_file, input_tokens, cached_tokens, output_tokens, reasoning_tokens"
)
_LIVE = "('validating', 'in_progress', 'finalizing', 'cancelling')"


def insert_batch(transaction: Transaction, draft: BatchDraft) -> None:
    """Accept a batch, which holds its input in the spool from now on."""
    now = int(time.time())
    if draft.new_file is not None:
        insert_file(transaction, draft.new_file)
    transaction.execute(
        "insert into batch (id, api, endpoint, input_file, input_sha256, input_bytes, completion_window, status, created_at, "
        "expires_at, metadata, output_lifetime_s, priority, requests, request_key, request_fingerprint) "
        "values (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (
            draft.id,
            draft.api,
            draft.endpoint,
            draft.new_file.id if draft.new_file is not None else draft.input_file,
            draft.input_sha256,
            draft.input_bytes,
            draft.completion_window,
            BatchStatus.VALIDATING,
            now,
            None if draft.lifetime_s is None else now + draft.lifetime_s,
            None if draft.metadata is None else msgspec.json.encode(draft.metadata).decode(),
            draft.output_lifetime_s,
            draft.priority,
            draft.requests,
            None if draft.key is None else draft.key.name,
            None if draft.key is None else draft.key.fingerprint,
        ),
    )
    transaction.hold(draft.id, [draft.input_sha256], "input")


def has_all_results(store: Store, id: str) -> bool:
    """Whether a batch was completed and its result files are still there."""
    rows = store.read(
        "select 1 from batch where id=? and status='completed' and (output_file is null or output_file in (select id from "
        "stored_file)) and (error_file is null or error_file in (select id from stored_file))",
        (id,),
    )
    return bool(rows)


class BatchStore:
    """Named queries on batches. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- batches

    def create(self, draft: BatchDraft) -> Batch:
        """Accept a batch whose input is in the spool, which it holds from now on; durable when it returns.

        Under a key that was used before, the batch of then is returned. Raises Unprocessable where that was another request.
        """
        with self._store.transaction(durable=True) as transaction:
            earlier = None if draft.key is None else _created_under(transaction, draft.api, draft.key)
            if earlier is None:
                insert_batch(transaction, draft)
            else:  # nothing else would ever take this request's input out of the spool
                transaction.execute("insert into orphan values (?) on conflict do nothing", (draft.input_sha256,))
        return self.batch(earlier or draft.id)

    def created_under(self, api: BatchApi, key: RequestKey) -> Batch | None:
        """The batch that was created under a key. Raises Unprocessable where that was for another request."""
        with self._store.transaction() as transaction:
            id = _created_under(transaction, api, key)
        return None if id is None else self.batch(id)

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
        where, conditions = ["1=1"], list[Any]()
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

    def delete(self, id: str, api: BatchApi) -> None:
        """Remove an ended batch with those of its result files that are still there. Raises NotFound, Conflict."""
        batch = self.batch(id, api)
        if not batch.status.is_ended:
            raise Conflict(f"The batch {id} is {batch.status}: cancel it first.")
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("delete from stored_file where id in (?,?)", (batch.output_file, batch.error_file))
            transaction.execute("delete from batch where id=?", (id,))

    def expire(self, batch: Batch) -> None:
        """End a batch's running because its time is over: what has not ended will be written as expired."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("update batch set expired_at=? where sequence=?", (int(time.time()), batch.sequence))

    # -- validation

    def begin(self, batch: Batch) -> None:
        """A valid batch begins to run."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "update batch set status='in_progress', in_progress_at=? where sequence=? and status='validating'",
                (int(time.time()), batch.sequence),
            )

    def fail(self, batch: Batch, problems: Sequence[LineProblem]) -> None:
        """A batch whose file is not valid ends; nothing of it runs. One that was cancelled meanwhile keeps its lines, which
        end as cancelled."""
        with self._store.transaction(durable=True) as transaction:
            changed = transaction.execute(
                "update batch set status='failed', failed_at=?, errors=?, total=0 where sequence=? and status='validating'",
                (int(time.time()), msgspec.json.encode(problems).decode(), batch.sequence),
            ).rowcount
            if changed:
                _forget_input(transaction, batch)

    def give_up(self, batch: Batch, problems: Sequence[LineProblem]) -> None:
        """A batch that runs is to end as failed: what has not ended will be written with an error."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "update batch set failed_at=?, errors=? where sequence=?",
                (int(time.time()), msgspec.json.encode(problems).decode(), batch.sequence),
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
            BatchStatus.FAILED: "failed_at",
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
            _forget_input(transaction, batch)


def _created_under(transaction: Transaction, api: BatchApi, key: RequestKey) -> str | None:
    row = transaction.execute(
        "select id, request_fingerprint from batch where api=? and request_key=?", (api, key.name)
    ).fetchone()
    if row is not None and row[1] != key.fingerprint:
        raise Unprocessable(
            f"The Idempotency-Key {key.name[:80]!r} was used for another request: send each request under a key of its own."
        )
    return None if row is None else str(row[0])


def _forget_input(transaction: Transaction, batch: Batch) -> None:
    """Let go of what only a batch that runs needs: its lines, its input, and the files that those name."""
    transaction.execute("delete from batch_line where batch=?", (batch.sequence,))
    transaction.execute("delete from batch_file where batch=?", (batch.sequence,))
    transaction.execute("delete from blob where job=? and role='input'", (batch.id,))


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
