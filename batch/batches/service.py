"""Runs batches: reads their lines, keeps a few of them queued as jobs, writes results as jobs end, closes the files.

Everything it knows stands in the database, so it goes on after a kill where it was: a line's job is queued in the
transaction that marks the line, and a result counts once its bytes are flushed and accounted for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from batch.batches.batch_store import BatchStore
from batch.batches.line_endpoint import JsonObject, LineEndpoint
from batch.batches.line_reader import parse_body
from batch.batches.line_store import TOGETHER_BYTES, EndedLine, LineStore, within_memory
from batch.batches.result_file import ResultFile
from batch.batches.result_lines import LineFailed, lost_line, response_line
from batch.batches.rows import (
    Batch,
    BatchLine,
    BatchStatus,
    LineState,
    Purpose,
    StoredFile,
    TokenCounts,
    new_public_id,
)
from batch.batches.validation import BatchValidation
from batch.errors import BatchError, DiskFull
from batch.queue.frames import JobEnded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Origin, Priority, State

T = TypeVar("T")
logger = logging.getLogger("batch.batches")

QUEUED_LINES = 64
"""Lines of one batch that are jobs at a time: enough to decode together, few enough that batches take turns."""
WRITTEN_TOGETHER = 100
"""Most results that share a flush to the disk."""
IDLE_S = 1.0
"""Seconds between two looks when nothing wakes it: another process may create a batch, one may expire."""
GATHER_S = 0.02
"""Seconds over which ends of jobs are looked at together: what is written costs a flush each time."""
DISK_RETRY_S = 2.0


class BatchService:
    """One a home, on the service's asyncio loop."""

    def __init__(
        self,
        hub: Hub,
        endpoints: Mapping[str, LineEndpoint],
        folder: Path,
        *,
        max_line_bytes: int,
        on_end: Callable[[Batch], None] = lambda batch: None,
    ) -> None:
        """`endpoints`: what lines may ask for, by path. `folder` holds the growing result files. `on_end` hears of every batch
        that has ended, after its files are on the disk."""
        self._hub = hub
        self.store = BatchStore(hub.store)
        self._lines = LineStore(hub.store)
        self._endpoints = endpoints
        self._folder = folder
        self._validation = BatchValidation(hub, self.store, endpoints, max_line_bytes)
        self._on_end = on_end
        self._wake = asyncio.Event()
        self._complaints: dict[str, str] = {}
        """What was logged last of a live batch that stumbles, by its id."""
        hub.listen(self._job_ended)

    @property
    def endpoint_paths(self) -> tuple[str, ...]:
        """Which endpoints batches may be made of."""
        return tuple(self._endpoints)

    def wake(self) -> None:
        """Look at the batches soon: one was created or cancelled."""
        self._wake.set()

    def _job_ended(self, ended: JobEnded) -> None:
        if not ended.waited:
            self._wake.set()

    async def run(self) -> None:
        """Serve batches until cancelled."""
        while True:
            self._wake.clear()
            try:
                busy = await self._look()
            except DiskFull as error:
                logger.error("Batches wait: %s", error.message)
                await asyncio.sleep(DISK_RETRY_S)
                continue
            except Exception:
                logger.exception("a look at the batches failed; the next one comes in %.0f seconds", IDLE_S)
                busy = False
            if busy:
                await asyncio.sleep(0)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE_S)
                    await asyncio.sleep(GATHER_S)

    async def _look(self) -> bool:
        """One turn for every live batch; whether more can be done at once."""
        busy = False
        live = await self._in_thread(self.store.live)
        for batch in live:
            try:
                busy |= await self._turn(batch)
            except DiskFull:
                raise
            except Exception as error:  # what is wrong with one batch holds up no other
                if self._complaints.get(batch.id) != (complaint := f"{type(error).__name__}: {error}"):
                    logger.exception("the batch %s stumbled, and is tried again every second", batch.id)
                    self._complaints[batch.id] = complaint
        self._complaints = {batch.id: self._complaints[batch.id] for batch in live if batch.id in self._complaints}
        return busy

    async def _turn(self, batch: Batch) -> bool:
        if batch.status is not BatchStatus.VALIDATING:
            return await self._advance(batch)
        batch = await self._validation.read_slice(batch)
        if batch.status.is_ended:
            self._ended(batch)
        return True

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._hub.in_thread(work)

    # -- running

    async def _advance(self, batch: Batch) -> bool:
        is_over = batch.expired_at is not None or batch.status is BatchStatus.CANCELLING
        if batch.expires_at is not None and batch.expires_at <= time.time() and not is_over:
            expiring = batch
            await self._in_thread(lambda: self.store.expire(expiring))
            batch = await self._in_thread(lambda: self.store.batch(expiring.id))
            is_over = True
        if is_over:
            for job in await self._in_thread(lambda: self._lines.queued_jobs(batch)):
                with contextlib.suppress(BatchError):
                    await self._hub.cancel(job)
        wrote = await self._write_ended(batch)
        if is_over:
            wrote |= await self._write_unstarted(batch)
        elif batch.status is BatchStatus.IN_PROGRESS:
            wrote |= await self._feed(batch)
        batch = await self._in_thread(lambda: self.store.batch(batch.id))
        if batch.completed + batch.failed >= batch.total:
            await self._close(batch)
            return True
        return wrote

    async def _feed(self, batch: Batch) -> bool:
        """Queue the next lines, as far as the batch may have jobs; lines that cannot be jobs get their error at once."""
        room = QUEUED_LINES - await self._in_thread(lambda: self._lines.count_lines(batch, LineState.QUEUED, QUEUED_LINES))
        if room < QUEUED_LINES // 4:
            return False
        lines = within_memory(await self._in_thread(lambda: self._lines.waiting_lines(batch, room)))
        endpoint = self._endpoints[batch.endpoint]
        jobs: list[tuple[BatchLine, Draft]] = []
        refused: list[tuple[BatchLine, bytes]] = []
        bodies = await asyncio.to_thread(lambda: self._bodies(batch, lines))
        for line, body in zip(lines, bodies, strict=True):
            try:
                job = await endpoint.create_job(body)
            except DiskFull:
                raise
            except BatchError as error:
                refused.append((line, response_line(line, error.status, endpoint.to_error(error))))
            else:
                draft = Draft(
                    payload=job.payload,
                    origin=Origin.BATCH,
                    priority=Priority(batch.priority),
                    blobs=job.blobs,
                    source=line.custom_id,
                    parent=batch.id,
                )
                jobs.append((line, draft))
        if jobs:
            await self._in_thread(lambda: self._lines.queue_lines(jobs))
        if refused:
            await self._record(batch, [], refused)
        return bool(lines)

    def _bodies(self, batch: Batch, lines: list[BatchLine]) -> list[JsonObject]:
        bodies = []
        with self._hub.path(batch.input_sha256).open("rb") as file:
            for line in lines:
                file.seek(line.start)
                bodies.append(parse_body(file.read(line.length)))
        return bodies

    # -- results

    async def _write_ended(self, batch: Batch) -> bool:
        ended = await self._in_thread(lambda: self._lines.ended_lines(batch, WRITTEN_TOGETHER))
        if not ended:
            return False
        ended = ended[: len(within_memory([one.line for one in ended]))]
        bodies = await asyncio.to_thread(lambda: self._bodies(batch, [one.line for one in ended]))
        succeeded: list[tuple[BatchLine, bytes]] = []
        failed: list[tuple[BatchLine, bytes]] = []
        usage, model, lost, size = TokenCounts(), "", 0, 0
        for one, body in zip(ended, bodies, strict=True):
            if size > TOGETHER_BYTES:  # the others come with the next look
                break
            try:
                text, counts, name = await self._answer(batch, one, body)
            except LineFailed as error:
                failed.append((one.line, text := error.text))
                lost += error.is_lost
            else:
                succeeded.append((one.line, text))
                usage, model = usage + counts, name or model
            size += len(text)
        await self._record(batch, succeeded, failed, usage, model, lost)
        return True

    async def _answer(self, batch: Batch, ended: EndedLine, body: JsonObject) -> tuple[bytes, TokenCounts, str]:
        """A line of the output file. Raises LineFailed with the line of the error file instead."""
        line, endpoint = ended.line, self._endpoints[batch.endpoint]
        if ended.state is State.CANCELLED or ended.state is None:
            if batch.expired_at is not None:
                raise LineFailed(
                    lost_line(line, "batch_expired", "The batch's time was over before this line had ended."), is_lost=True
                )
            if batch.status is BatchStatus.CANCELLING:
                raise LineFailed(
                    lost_line(line, "batch_cancelled", "The batch was cancelled before this line had ended."), is_lost=True
                )
            message = (
                "The line's job was cancelled." if ended.state else "The line's job was removed before its result was read."
            )
            raise LineFailed(lost_line(line, "request_cancelled", message))
        job = await self._in_thread(lambda: self._hub.store.job(line.job or ""))
        if job is None:
            raise LineFailed(lost_line(line, "server_error", "The line's job was removed before its result was read."))
        try:
            if job.state is State.FAILED:
                raise BatchError.from_record(dict(job.error or {}))
            result = job.result
            if result is None:
                raise BatchError("The line's job has no result.")
            response = await asyncio.to_thread(partial(endpoint.to_response, body, result, job.id))
        except BatchError as error:
            raise LineFailed(response_line(line, error.status, endpoint.to_error(error))) from error
        text = response_line(line, 200, response.body)
        return text, response.usage, response.model

    async def _write_unstarted(self, batch: Batch) -> bool:
        """Lines of a batch that is over which never became jobs."""
        lines = await self._in_thread(lambda: self._lines.waiting_lines(batch, WRITTEN_TOGETHER * 10))
        if not lines:
            return False
        expired = batch.expired_at is not None or batch.status is not BatchStatus.CANCELLING
        code = "batch_expired" if expired else "batch_cancelled"
        message = "The batch's time was over" if expired else "The batch was cancelled"
        entries = [(line, lost_line(line, code, f"{message} before this line ran.")) for line in lines]
        await self._record(batch, [], entries, lost=len(entries))
        return True

    async def _record(
        self,
        batch: Batch,
        succeeded: list[tuple[BatchLine, bytes]],
        failed: list[tuple[BatchLine, bytes]],
        usage: TokenCounts | None = None,
        model: str = "",
        lost: int = 0,
    ) -> None:
        """Flush lines to the result files, then account for them."""
        current = await self._in_thread(lambda: self.store.batch(batch.id))

        def write() -> tuple[int, int]:
            output = self._output(batch).append([text for _, text in succeeded], current.output_bytes)
            return output, self._errors(batch).append([text for _, text in failed], current.error_bytes)

        output_bytes, error_bytes = await asyncio.to_thread(write)
        lines = [line for line, _ in (*succeeded, *failed)]
        await self._in_thread(
            lambda: self._lines.record_written(
                batch,
                lines,
                completed=len(succeeded),
                failed=len(failed),
                lost=lost,
                output_bytes=output_bytes,
                error_bytes=error_bytes,
                usage=usage or TokenCounts(),
                model=model,
            )
        )

    async def _close(self, batch: Batch) -> None:
        """Every line has ended: the result files become files of their own, and the batch ends."""
        await self._in_thread(lambda: self.store.begin_finalizing(batch))
        output = await self._publish(batch, self._output(batch), batch.output_bytes, "output")
        errors = await self._publish(batch, self._errors(batch), batch.error_bytes, "errors")
        status = BatchStatus.COMPLETED
        if batch.expired_at is not None:
            status = BatchStatus.EXPIRED
        elif batch.status is BatchStatus.CANCELLING:
            status = BatchStatus.CANCELLED
        await self._in_thread(lambda: self.store.end(batch, status, output, errors))
        await asyncio.to_thread(self._output(batch).remove)
        await asyncio.to_thread(self._errors(batch).remove)
        self._ended(await self._in_thread(lambda: self.store.batch(batch.id)))

    async def _publish(self, batch: Batch, result: ResultFile, size: int, name: str) -> StoredFile | None:
        if not size:
            return None

        def keep() -> str:
            result.cut(size)
            with result.path.open("rb") as file:
                return self._hub.spool.keep_file(file, durable=True)[0]

        sha256 = await asyncio.to_thread(keep)
        now = int(time.time())
        return StoredFile(
            id=new_public_id("file-"),
            purpose=Purpose.BATCH_OUTPUT,
            filename=f"{batch.id}_{name}.jsonl",
            bytes=size,
            sha256=sha256,
            created_at=now,
            expires_at=None if batch.output_lifetime_s is None else now + batch.output_lifetime_s,
        )

    def _output(self, batch: Batch) -> ResultFile:
        return ResultFile(self._folder / f"{batch.id}.output.jsonl")

    def _errors(self, batch: Batch) -> ResultFile:
        return ResultFile(self._folder / f"{batch.id}.errors.jsonl")

    def _ended(self, batch: Batch) -> None:
        logger.info("batch %s is %s: %d lines, %d failed", batch.id, batch.status, batch.total, batch.failed)
        self._on_end(batch)
