"""One job in the engine's hands: its yield point, its events, its checkpoints and its end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from msgspec import Raw, Struct
from msgspec.structs import replace

from batch.errors import BatchError, Cancelled
from batch.payloads.events import JobEvent, Progress, ProgressUnit, Started
from batch.payloads.job_payload import Payload, Result
from batch.payloads.json_text import decode, encode
from batch.queue.frames import ABSENT, Beat, End
from batch.queue.jobs import Job, JobProgress, Origin, Priority, State, UnreadableJob
from batch.queue.store import WRITE_REFUSED, Ending, Lease, LeaseLost, StoreAway
from batch.workers.engine import Work
from batch.workers.job_context import JobContext
from batch.workers.job_ends import JobEnd
from batch.workers.stopping import Stopping

C = TypeVar("C", bound=Struct)
logger = logging.getLogger("batch.worker")

LOOK_INTERVAL_S = 0.25
"""Between two looks of a running job at what else is up; where it has the database to itself, also into that."""
PROGRESS_EVENT_INTERVAL_S = 0.25
PROGRESS_ROW_INTERVAL_S = 1.0
MAX_INLINE_RESULT_BYTES = 256 << 10
"""Results up to this size travel in the End event, which saves the waiting side a read."""


class RunningJob:
    """What workers/engine.py calls Work."""

    def __init__(self, context: JobContext, lease: Lease, *, report_start_late: bool) -> None:
        """`report_start_late`: nobody needs to hear of a short step at once, which would only take a core from it."""
        self._context = context
        self.lease = lease
        self.job: Job = lease.job
        context.leases[lease.token] = lease
        now = time.monotonic()
        self._started_at = now
        self._next_look = now + LOOK_INTERVAL_S
        self.next_database_look = now
        """time.monotonic() of its next look into the database, unless something says that it should look before."""
        self._next_progress_event = now + PROGRESS_EVENT_INTERVAL_S
        self._next_progress_row = now + PROGRESS_ROW_INTERVAL_S
        self._threads = context.threads()
        self._first_done: float | None = None
        """Progress that an earlier attempt had made."""
        self._batch_mates: dict[str, RunningJob] = {}
        self._has_emitted = False
        self._report_start_late = report_start_late
        self.is_ended = False

    @property
    def payload(self) -> Payload:
        return self.job.payload

    @cached_property
    def is_watched(self) -> bool:
        # Where a client waits for the result alone, nobody reads deltas. A background response's are logged as they come.
        stream = getattr(self.payload, "stream", None)
        is_in_background = not self.job.waited and self.job.origin is Origin.HTTP
        return stream is not False and (self.job.waited or (is_in_background and stream is True))

    def report_started(self) -> None:
        """Send the job's first event."""
        events = self._context.events
        send = events.hold if self.job.waited and self._report_start_late else events.send
        front = self.lease.front
        lease = self.lease
        send(Started(job=self.job.id, token=lease.token if front else 0, front=front, key=lease.key if front else ""))

    @property
    def wake_ups(self) -> int:
        return self._context.wake_ups

    # -- the yield point

    def yield_point(self, done: float | None = None, total: float | None = None, unit: ProgressUnit = "tokens") -> int:
        if self._first_done is None:
            self._first_done = done
        now = time.monotonic()
        self._context.events.hurry(now)
        self._context.ends.write_due(now)
        if self._context.attention or now >= self._next_look or now >= self._context.look_at:
            self._look(now, done, total, unit)
        return self._threads

    def _look(self, now: float, done: float | None, total: float | None, unit: ProgressUnit) -> None:
        context = self._context
        if has_been_told := context.attention or now >= context.look_at:
            context.expect_looks(now)
        context.attention = False
        self._next_look = now + LOOK_INTERVAL_S
        if context.deadline is not None and now >= context.deadline:
            raise Stopping()
        if context.deadline is not None:
            context.attention = True  # look again at every yield point: the deadline is near
        if has_been_told or now >= self.next_database_look:
            self.next_database_look = now + context.look_interval_s
            self._look_at_database()
        if now >= self._next_progress_event:
            self._next_progress_event = now + PROGRESS_EVENT_INTERVAL_S
            self._report_progress(now, done, total, unit)
        context.mark_cores()
        self._threads = context.threads()

    def _look_at_database(self) -> None:
        context = self._context
        self._stop_if_cancelled()
        if context.deadline is None:
            while self.job.priority < Priority.INTERACTIVE and context.run_more_urgent(self.job.priority):
                context.attention = False
                self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self.lease.token in self._context.lost:
            raise LeaseLost(f"Job {self.job.id} was given to another worker meanwhile.")
        try:
            is_cancelled = self._context.store.cancelled(self.job.id)
        except StoreAway:  # what was computed so far is not thrown away: the end waits for the database
            return
        if is_cancelled:
            raise Cancelled()

    def _report_progress(self, now: float, done: float | None, total: float | None, unit: ProgressUnit) -> None:
        context = self._context
        if done is None:
            context.events.send(Beat())
            return
        context.events.send(Progress(job=self.job.id, done=done, total=total, unit=unit))
        if now >= self._next_progress_row:
            self._next_progress_row = now + PROGRESS_ROW_INTERVAL_S
            with contextlib.suppress(*WRITE_REFUSED):  # nobody loses anything
                context.store.progress(self.lease, JobProgress(done, total, unit, self._first_done))

    # -- what an engine may use

    def emit(self, event: JobEvent) -> None:
        if self.is_watched:
            events = self._context.events
            # What a client waits for most comes at once, what follows it a few at a time.
            send = events.post if self._has_emitted else events.send
            self._has_emitted = True
            send(replace(event, job=self.job.id))

    def spool_path(self, sha256: str) -> Path:
        path = self._context.persist(partial(self._context.spool.path, sha256))
        if not path.exists():
            raise BatchError("The spool no longer holds this job's payload: send the file or request again.")
        return path

    def keep_result(self, data: bytes) -> str:
        def keep() -> str:
            sha256 = self._context.spool.keep(data, durable=not self.job.waited)
            self._context.store.refer(self.lease, sha256)
            return sha256

        # A client is told that the disk is full; a file in the inbox has all the time in the world.
        return keep() if self.job.waited else self._context.persist(keep)

    def checkpoint(self, step: int, data: Struct) -> None:
        try:
            self._context.store.checkpoint(self.lease, step, encode(data).decode())
        except WRITE_REFUSED as error:
            logger.warning("job %s goes on without writing down how far it is: %s", self.job.id, error.message)

    def checkpoints(self, type: type[C]) -> list[C]:
        # Also on what counts as the first attempt: a job that was put back at shutdown has no attempt counted.
        texts = self._context.persist(lambda: self._context.store.checkpoints(self.lease))
        return [decode(text, type) for text in texts]

    def claim_batch_mates(self, limit: int) -> list[Work]:
        # What took a worker down before runs alone, so that its batch mates are not failed together with it.
        context = self._context
        if (
            context.deadline is not None
            or self.job.attempts != 1
            or not context.may_take()
            or not context.may_have_mates(self.lease)
        ):
            return []
        try:
            store = self._context.store
            leases = store.take(self.job.queue, self._context.worker_id, batch_mate=self.lease, limit=limit)
        except WRITE_REFUSED:
            return []
        claimed: list[Work] = []
        self._batch_mates = {mate.job.id: mate for mate in self._batch_mates.values() if not mate.is_ended}
        for lease in leases:
            mate = RunningJob(self._context, lease, report_start_late=self._report_start_late)
            self._batch_mates[lease.job.id] = mate
            mate.report_started()
            try:
                _ = mate.payload
            except UnreadableJob as error:
                mate.fail(error)
            else:
                claimed.append(mate)
        return claimed

    # -- the end

    def finish(self, result: Result) -> None:
        self._write_ends([self.make_end(result)])

    def finish_mates(self, results: Sequence[tuple[Work, Result]]) -> None:
        self._write_ends([self._mate(work.job.id).make_end(result) for work, result in results])

    def fail(self, error: Exception) -> None:
        if isinstance(error, Cancelled):
            event = End(job=self.job.id, state=State.CANCELLED)
            self._write_ends([JobEnd(self, Ending(self.lease, State.CANCELLED), event)])
            return
        if not isinstance(error, BatchError):
            logger.error("job %s failed", self.job.id, exc_info=error)
            error = BatchError(f"The {self._context.kind} worker could not do this job: {type(error).__name__}: {error}.")
        record = error.record()
        event = End(job=self.job.id, state=State.FAILED, error=Raw(encode(record)))
        self._write_ends([JobEnd(self, Ending(self.lease, State.FAILED, None, record), event)])

    def put_back(self) -> None:
        """The service stops: this job and the batch mates claimed with it wait for the next start."""
        for running in self.unended_jobs():
            running.is_ended = True
            job = running.job
            try:
                self._context.store.put_back(running.lease, count=False, durable=not job.waited)
            except WRITE_REFUSED as error:  # its claim stays, which the next start finds
                logger.error("job %s could not be put back: %s", job.id, error.message)
            self._context.forget(running.lease)

    def _mate(self, job_id: str) -> RunningJob:
        return self if job_id == self.job.id else self._batch_mates[job_id]

    def make_end(self, result: Result) -> JobEnd:
        """How this job ends with a result; nothing is written or told yet."""
        text = encode(result)
        inline = Raw(text) if len(text) <= MAX_INLINE_RESULT_BYTES else ABSENT
        seconds = time.monotonic() - self._started_at
        event = End(job=self.job.id, state=State.DONE, seconds=seconds, result=inline)
        return JobEnd(self, Ending(self.lease, State.DONE, text.decode()), event)

    def _write_ends(self, ends: Sequence[JobEnd]) -> None:
        self._context.ends.add(ends, tells_first=self._may_tell_first(ends))

    def _may_tell_first(self, ends: Sequence[JobEnd]) -> bool:
        """Whether a client may have its result before that is written down: of a job alone, as with batch mates the time is
        better spent on those. Where several machines share the queue another worker may hold the job by now."""
        is_alone = len(ends) == 1 and not self._batch_mates
        return is_alone and self._report_start_late and ends[0].has_result_for_client and not self._context.store.is_shared

    def unended_jobs(self) -> list[RunningJob]:
        """This job and its batch mates, those that have not ended: an engine may end the job before its mates."""
        mates = list(self._batch_mates.values())  # at once, as other threads ask too
        return [running for running in (self, *mates) if not running.is_ended]

    def return_lost_mates(self) -> None:
        """The engine is done: a batch mate that it has not ended is lost, and goes back with its attempt counted."""
        for mate in self._batch_mates.values():
            if not mate.is_ended:
                mate.is_ended = True
                self._context.persist(partial(self._context.store.put_back, mate.lease, count=True))
                self._context.forget(mate.lease)
