"""Lines of batches: what was read of the input, which are jobs, and which stand in a result file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import islice
from typing import Any

import msgspec

from batch.batches.rows import Batch, BatchLine, LineProblem, LineState, TokenCounts
from batch.queue.jobs import Draft, State
from batch.queue.store import Store

MAX_REPORTED_PROBLEMS = 100
MAX_SQL_PARAMETERS = 500
TOGETHER_BYTES = 4 << 20
"""Most bytes of lines that are in memory at a time, unless one has more."""

_LINE = ", ".join(BatchLine.__struct_fields__)


class EndedLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line whose job has ended and whose result is not written yet."""

    line: BatchLine
    state: State | None
    """None where the job's row is gone."""


class LineStore:
    """Named queries on lines. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- validation

    def stored_files(self, ids: Collection[str]) -> set[str]:
        """Those of the ids that are files'. A line may name millions that are none: they are looked up outside the
        transaction, which holds up who writes."""
        stored: set[str] = set()
        waiting = iter(ids)
        while some := tuple(islice(waiting, MAX_SQL_PARAMETERS)):
            rows = self._store.read(f"select id from stored_file where id in ({','.join('?' * len(some))})", some)
            stored.update(row[0] for row in rows)
        return stored

    def add_lines(
        self,
        batch: Batch,
        lines: Sequence[BatchLine],
        problems: Sequence[LineProblem],
        read_bytes: int,
        read_lines: int,
        files: Collection[str] = (),
        tasks: int = 0,
    ) -> None:
        """Keep what was read of the input up to `read_bytes`; a custom_id that stands twice is a problem of its later line.

        `files`: ids that the lines name; those that are files are held until the batch ends. `tasks`: what the lines count as.
        """
        with self._store.transaction() as transaction:
            for file in files:
                transaction.execute(
                    "insert into batch_file select ?, id, filename, bytes, sha256 from stored_file where id=? "
                    "on conflict do nothing",
                    (batch.sequence, file),
                )
            if files:
                transaction.execute(
                    "insert into blob select ?, sha256, 'input' from batch_file where batch=? on conflict do nothing",
                    (batch.id, batch.sequence),
                )
            reported = list(problems)
            for line in lines:
                added = transaction.execute(
                    f"insert into batch_line ({_LINE}) values (?,?,?,?,?,?,?,?,?) on conflict do nothing",
                    msgspec.structs.astuple(line),
                ).rowcount
                if not added:
                    message = f"The custom_id {line.custom_id[:80]!r} stands in an earlier line too."
                    reported.append(LineProblem(code="duplicate_custom_id", message=message, line=line.line, param="custom_id"))
            errors = sorted([*(batch.errors or []), *reported], key=lambda problem: problem.line or 0)[:MAX_REPORTED_PROBLEMS]
            transaction.execute(
                "update batch set read_bytes=?, read_lines=?, errors=?, total=total+?, tasks=tasks+? where sequence=?",
                (
                    read_bytes,
                    read_lines,
                    msgspec.json.encode(errors).decode() if errors else None,
                    len(lines),
                    tasks,
                    batch.sequence,
                ),
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
            "select count(*) from (select 1 from batch_line where batch=? and state=? limit ?) as few",
            (batch.sequence, state, limit),
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

    def write_again(self, batch: Batch) -> None:
        """The result files are gone: every line's result is to be written once more, and counted anew."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "update batch_line set state=case when job is null then 'waiting' else 'queued' end "
                "where batch=? and state='written'",
                (batch.sequence,),
            )
            transaction.execute(
                "update batch set completed=0, failed=0, lost=0, output_bytes=0, error_bytes=0, input_tokens=0, "
                "cached_tokens=0, output_tokens=0, reasoning_tokens=0, "
                "status=case status when 'finalizing' then 'in_progress' else status end where sequence=?",
                (batch.sequence,),
            )


def within_memory(lines: list[BatchLine]) -> list[BatchLine]:
    """As many from the front as may be held in memory at once, one at least: a line may be as large as a request."""
    total = 0
    for number, line in enumerate(lines):
        total += line.length
        if total > TOGETHER_BYTES and number:
            return lines[:number]
    return lines


def _line(row: Sequence[Any]) -> BatchLine:
    values = dict(zip(BatchLine.__struct_fields__, row, strict=True))
    return BatchLine(**values | {"state": LineState(values["state"])})
