"""Reads and checks the lines of a batch's input, a slice at a time, so that others have their turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from batch.batches.batch_store import BatchStore
from batch.batches.line_endpoint import LineEndpoint
from batch.batches.line_reader import ReadLine, read_lines
from batch.batches.line_store import MAX_REPORTED_PROBLEMS, LineStore
from batch.batches.rows import Batch, BatchApi, BatchLine, BatchStatus, LineProblem, new_public_id
from batch.queue.hub.hub import Hub

MAX_TASKS = {BatchApi.OPENAI: 50_000, BatchApi.ANTHROPIC: 100_000}
"""Requests of a batch; of embeddings, inputs."""
MAX_FILE_ID_CHARS = 64
READ_TOGETHER = 200
"""Lines that are checked before others have their turn."""


class _Slice(msgspec.Struct):
    """Some lines of an input."""

    read_bytes: int
    read_lines: int
    lines: list[BatchLine] = []
    problems: list[LineProblem] = []
    tasks: int = 0
    files: set[str] = set()
    """Ids of the files that the lines name."""
    is_last: bool = True


class BatchValidation:
    """Takes batches from validating to in_progress or failed."""

    def __init__(
        self,
        hub: Hub,
        store: BatchStore,
        endpoints: Mapping[str, LineEndpoint],
        max_line_bytes: int,
        lines: LineStore | None = None,
    ) -> None:
        self._hub, self._store = hub, store
        self._lines = lines or LineStore(hub.store)
        self._endpoints, self._max_line_bytes = endpoints, max_line_bytes

    async def read_slice(self, batch: Batch) -> Batch:
        """Read a batch's next lines; the batch after it, which runs or has failed once all were read."""
        path = await self._hub.fetch(batch.input_sha256)
        part = await asyncio.to_thread(self._read, batch, path)
        await self._hub.in_thread(
            lambda: self._lines.add_lines(
                batch, part.lines, part.problems, part.read_bytes, part.read_lines, part.files, part.tasks
            )
        )
        batch = await self._hub.in_thread(lambda: self._store.batch(batch.id))
        errors = batch.errors or []
        if batch.tasks > (limit := MAX_TASKS[batch.api]):
            message = f"The batch has more than {limit} tasks: split it."
            errors = [LineProblem(code="too_many_tasks", message=message), *errors]
        elif part.is_last and not batch.total and not errors:
            errors = [LineProblem(code="empty_file", message="The file holds no requests.")]
        if batch.tasks > limit or (errors and (part.is_last or len(errors) >= MAX_REPORTED_PROBLEMS)):
            await self._hub.in_thread(lambda: self._store.fail(batch, errors[:MAX_REPORTED_PROBLEMS]))
        elif part.is_last:
            await self._hub.in_thread(lambda: self._store.begin(batch))
        else:
            return batch
        return await self._hub.in_thread(lambda: self._store.batch(batch.id))

    def _read(self, batch: Batch, path: Path) -> _Slice:
        endpoint = self._endpoints[batch.endpoint]
        part = _Slice(batch.read_bytes, batch.read_lines)
        with path.open("rb") as file:
            lines = read_lines(file, batch.endpoint, self._max_line_bytes, start=batch.read_bytes, line=batch.read_lines)
            for line in lines:
                part.read_bytes, part.read_lines = line.end, line.line
                if line.problem is not None:
                    part.problems.append(line.problem)
                elif line.body is not None:
                    part.tasks += endpoint.count_tasks(line.body)
                    part.lines.append(_row(batch, line))
                    part.files.update(file_ids(line.body))
                if len(part.lines) + len(part.problems) >= READ_TOGETHER:
                    part.is_last = False
                    break
        part.files = self._lines.stored_files(part.files)
        return part


def is_still_read(batch: Batch) -> bool:
    """Whether lines of a batch are to be read: until it runs. Also of one that was cancelled, as each ends in its files."""
    if batch.status is not BatchStatus.CANCELLING:
        return batch.status is BatchStatus.VALIDATING
    is_unread = batch.in_progress_at is None and batch.failed_at is None and batch.read_bytes < batch.input_bytes
    return is_unread and batch.tasks <= MAX_TASKS[batch.api]


def file_ids(value: object) -> Iterator[str]:
    """Every `file_id` in a JSON value, wherever an API has it."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            id = value.get("file_id")
            if isinstance(id, str) and len(id) <= MAX_FILE_ID_CHARS:
                yield id
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _row(batch: Batch, line: ReadLine) -> BatchLine:
    return BatchLine(
        batch=batch.sequence,
        line=line.line,
        custom_id=line.custom_id,
        start=line.start,
        length=line.length,
        request_id=new_public_id("batch_req_"),
        prefix=line.prefix,
    )
