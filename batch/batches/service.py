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
from pathlib import Path
from typing import TypeVar

from batch.batches.batch_store import BatchStore
from batch.batches.line_endpoint import LineEndpoint
from batch.batches.line_store import LineStore, within_memory
from batch.batches.result_file import remove_all
from batch.batches.result_lines import response_line
from batch.batches.result_writer import ResultWriter
from batch.batches.rows import SERVER_ERROR, Batch, BatchLine, BatchStatus, LineProblem, LineState, StoredFile
from batch.batches.stumbles import LineFault, Stumbles
from batch.batches.validation import BatchValidation, is_still_read
from batch.errors import BatchError
from batch.queue.frames import JobEnded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.store import WRITE_REFUSED, Store

T = TypeVar("T")
logger = logging.getLogger("batch.batches")

QUEUED_LINES = 128
"""Lines of one batch that are jobs at a time: enough to decode together, few enough that batches take turns."""
FIRST_LINES = 32
"""Lines that are queued first, as many as a CPU computes together at most, so that a worker that has nothing to do need not
wait for all of them to be read."""
IDLE_S = 1.0
"""Seconds between two looks when nothing wakes it: another process may create a batch, one may expire."""
GATHER_S = 0.02
"""Seconds over which ends of jobs are looked at together: what is written costs a flush each time."""
DISK_RETRY_S = 2.0
GIVEN_UP = LineProblem(
    code=SERVER_ERROR,
    message="The service made a mistake with this batch again and again, and gave it up: its log says more.",
)


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
        store: Store | None = None,
    ) -> None:
        """`endpoints`: what lines may ask for, by path. `folder` holds the growing result files. `on_end` hears of every batch
        that has ended, after its files are on the disk. `store`: through which batches are written, where that is not the
        hub's own."""
        self._hub = hub
        store = store or hub.store
        self.store = BatchStore(store)
        self._lines = LineStore(store)
        self._endpoints = endpoints
        self._folder = folder
        self._writer = ResultWriter(hub, endpoints, folder, store)
        self._validation = BatchValidation(hub, self.store, endpoints, max_line_bytes, self._lines)
        self._on_end = on_end
        self._wake = asyncio.Event()
        self._stumbles = Stumbles()
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

    def forget_growing_files(self) -> None:
        """Another service ran the batches since this one did: what it has of their results is old. Blocking."""
        if self._hub.store.is_shared:
            remove_all(self._folder)
            self._writer.whole.clear()

    async def run(self) -> None:
        """Serve batches until cancelled."""
        complaint = ""
        while True:
            self._wake.clear()
            try:
                busy = await self._look()
                complaint = ""
            except WRITE_REFUSED as error:
                if error.message != complaint:
                    logger.error("Batches wait: %s", error.message)
                complaint = error.message
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
            if self._stumbles.is_pausing(batch.id, batch.status):
                continue
            try:
                busy |= await self._turn(batch)
            except WRITE_REFUSED:  # a disk or a database that is away: all wait
                raise
            except Exception as error:  # what is wrong with one batch holds up no other
                if self._stumbles.is_final(batch.id, batch.status, error):
                    await self._give_up(batch, error)
            else:
                self._stumbles.clear(batch.id)
        self._stumbles.keep([batch.id for batch in live])
        return busy

    async def _give_up(self, batch: Batch, error: Exception) -> None:
        """End what cannot go on: a line, or the batch with what was answered of it."""
        try:
            if isinstance(error, LineFault):
                await self._writer.write_fault(batch, error.line)
            elif batch.status is BatchStatus.VALIDATING:
                await self._in_thread(lambda: self.store.fail(batch, [GIVEN_UP]))
                self._ended(await self._in_thread(lambda: self.store.batch(batch.id)))
            elif batch.failed_at is None:
                await self._in_thread(lambda: self.store.give_up(batch, [GIVEN_UP]))
            else:  # its results cannot be written either
                await self._end(batch, BatchStatus.FAILED, None, None)
        except WRITE_REFUSED:
            raise
        except Exception:
            logger.exception("the batch %s cannot be given up yet", batch.id)

    async def _turn(self, batch: Batch) -> bool:
        if not is_still_read(batch):
            return await self._advance(batch)
        batch = await self._validation.read_slice(batch)
        if batch.status.is_ended:
            self._ended(batch)
        return True

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await self._hub.in_thread(work)

    # -- running

    async def _advance(self, batch: Batch) -> bool:
        is_over = batch.expired_at is not None or batch.failed_at is not None or batch.status is BatchStatus.CANCELLING
        if batch.expires_at is not None and batch.expires_at <= time.time() and not is_over:
            expiring = batch
            await self._in_thread(lambda: self.store.expire(expiring))
            batch = await self._in_thread(lambda: self.store.batch(expiring.id))
            is_over = True
        if is_over:
            for job in await self._in_thread(lambda: self._lines.queued_jobs(batch)):
                with contextlib.suppress(BatchError):
                    await self._hub.cancel(job)
        if await self._writer.begin_again(batch):
            return True
        wrote = await self._writer.write_ended(batch)
        if is_over:
            wrote |= await self._writer.write_unstarted(batch)
        elif batch.status is BatchStatus.IN_PROGRESS:
            wrote |= await self._feed(batch)
        batch = await self._in_thread(lambda: self.store.batch(batch.id))
        if batch.completed + batch.failed >= batch.total:
            await self._close(batch)
            return True
        return wrote

    async def _feed(self, batch: Batch) -> bool:
        """Queue the next lines, as far as the batch may have jobs; lines that cannot be jobs get their error at once."""
        queued = await self._in_thread(lambda: self._lines.count_lines(batch, LineState.QUEUED, QUEUED_LINES))
        room = QUEUED_LINES - queued if queued else FIRST_LINES
        if room < QUEUED_LINES // 4:
            return False
        lines = within_memory(await self._in_thread(lambda: self._lines.waiting_lines(batch, room)))
        endpoint = self._endpoints[batch.endpoint]
        jobs: list[tuple[BatchLine, Draft]] = []
        refused: list[tuple[BatchLine, bytes]] = []
        fault: LineFault | None = None
        bodies = await self._writer.bodies(batch, lines)
        for line, body in zip(lines, bodies, strict=True):
            try:
                job = await endpoint.create_job(body, batch.sequence)
            except WRITE_REFUSED:
                raise
            except BatchError as error:
                refused.append((line, response_line(line, error.status, endpoint.to_error(error))))
            except Exception as error:
                fault = LineFault(line)
                fault.__cause__ = error
                break
            else:
                draft = Draft(
                    payload=job.payload,
                    origin=Origin.BATCH,
                    priority=Priority(batch.priority),
                    blobs=job.blobs,
                    source=line.custom_id,
                    parent=batch.id,
                )
                jobs.append((line, self._hub.for_model(draft, body.get("model"))))
        if jobs:
            await self._in_thread(lambda: self._lines.queue_lines(jobs))
        if refused:
            await self._writer.record(batch, [], refused)
        if fault is not None:  # those before it go on
            raise fault
        return bool(lines)

    async def _close(self, batch: Batch) -> None:
        """Every line has ended: the result files become files of their own, and the batch ends."""
        await self._in_thread(lambda: self.store.begin_finalizing(batch))
        output, errors = await self._writer.publish(batch)
        status = BatchStatus.COMPLETED
        if batch.failed_at is not None:
            status = BatchStatus.FAILED
        elif batch.expired_at is not None:
            status = BatchStatus.EXPIRED
        elif batch.status is BatchStatus.CANCELLING:
            status = BatchStatus.CANCELLED
        await self._end(batch, status, output, errors)

    async def _end(self, batch: Batch, status: BatchStatus, output: StoredFile | None, errors: StoredFile | None) -> None:
        await self._in_thread(lambda: self.store.end(batch, status, output, errors))
        await self._writer.remove(batch)
        self._ended(await self._in_thread(lambda: self.store.batch(batch.id)))

    def _ended(self, batch: Batch) -> None:
        logger.info("batch %s is %s: %d lines, %d failed", batch.id, batch.status, batch.total, batch.failed)
        self._on_end(batch)
