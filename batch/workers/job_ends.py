"""The ends of a worker's jobs: each is written down and told of, in which order depends on who waits for it."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from batch import fail_points
from batch.queue.frames import ABSENT, End
from batch.queue.store import WRITE_REFUSED, DamagedDatabase, Ending
from batch.workers.stopping import Stopping

if TYPE_CHECKING:
    from batch.workers.job_context import JobContext
    from batch.workers.running_job import RunningJob

logger = logging.getLogger("batch.worker")

NEXT_REQUEST_S = 0.005
"""So long an idle worker waits for its client's next request before it writes down that the last one has ended: a client that
asks again at once would wait for that transaction. Such a client is back within 1 to 3 ms."""
MAX_UNWRITTEN = 16
"""So many ends are written together at most."""
MAX_UNWRITTEN_S = 0.05
"""From then on an end is written at the next occasion, also between two steps of a job."""


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ends: what is written down, and what is told of it."""

    running: RunningJob
    ending: Ending
    event: End

    @property
    def is_complete(self) -> bool:
        """Whether a client that waits has everything it needs in the event."""
        return self.has_result_for_client or (self.running.job.waited and self.event.error is not ABSENT)

    @property
    def has_result_for_client(self) -> bool:
        """Whether a client waits, and its result is in the event."""
        return self.running.job.waited and self.event.result is not ABSENT


class JobEnds:
    """One a worker, used in the engine's thread, but for `leave`."""

    def __init__(self, context: JobContext) -> None:
        self._context = context
        self._unwritten: list[JobEnd] = []
        """Of jobs whose clients have their results."""
        self._due_at = 0.0
        """time.monotonic() from when on those are to be written, where there are any."""

    @property
    def are_unwritten(self) -> bool:
        """Whether clients have results of jobs whose rows do not say so yet."""
        return bool(self._unwritten)

    def add(self, ends: Sequence[JobEnd], *, tells_first: bool = False) -> None:
        """End jobs in one transaction, and tell of them. `tells_first`: a short step's transaction is a good part of what its
        client would wait for, so the client has its result before, and the transaction can wait for a moment of rest."""
        if not tells_first:
            self._write(ends)
            return
        self._tell(ends, is_written=False)
        for end in ends:
            end.running.is_ended = True
        fail_points.reach(fail_points.TOLD)
        if not self._unwritten:
            self._due_at = time.monotonic() + MAX_UNWRITTEN_S
        self._unwritten += ends
        if self._context.running or len(self._unwritten) >= MAX_UNWRITTEN:
            self.write_told()

    def write_due(self, now: float) -> None:
        """Write down what was told a while ago."""
        if self._unwritten and now >= self._due_at:
            self.write_told()

    def write_told(self) -> None:
        """Write down what was told and is not written yet; what the database does not take before the service ends is done
        again at the next start."""
        ends, self._unwritten = self._unwritten, []
        if ends:
            with contextlib.suppress(Stopping):
                self._write(ends, are_told=True)

    def leave(self) -> None:
        """From any thread, as the process ends: write down what was told, if the database takes it now."""
        ends, self._unwritten = self._unwritten, []
        if ends:
            with contextlib.suppress(*WRITE_REFUSED, DamagedDatabase):
                self._context.store.end([end.ending for end in ends])

    def _tell(self, ends: Iterable[JobEnd], **changes: Any) -> None:
        context, ids = self._context, {end.running.job.id for end in ends}
        active = (other for lead in reversed(context.running) for other in lead.unended_jobs() if other.job.id not in ids)
        resumes = next((other.job.id for other in active), None)
        context.events.send(*(replace(end.event, resumes=resumes, **changes) for end in ends))

    def _write(self, ends: Sequence[JobEnd], *, are_told: bool = False) -> None:
        context = self._context
        # Results that nobody waits for on a socket must survive a power cut once they are called done.
        is_durable = not all(end.running.job.waited for end in ends)

        def write() -> list[bool]:
            return context.store.end([end.ending for end in ends], durable=is_durable)

        untold: Sequence[JobEnd] = ends
        try:
            have_ended = write()
        except WRITE_REFUSED:
            self._tell([end for end in ends if end.is_complete])  # a client can have its answer, row or no row
            untold = [end for end in ends if not end.is_complete]
            have_ended = [ended for end, ended in zip(ends, context.persist(write), strict=True) if not end.is_complete]
        except DamagedDatabase as error:
            for end in ends:
                logger.error("job %s has ended and cannot be written down: %s", end.running.job.id, error.message)
            have_ended = [end.running.job.waited for end in ends]  # their clients can have the answers; the claims stay
        for end in ends:
            end.running.is_ended = True
            context.forget(end.running.lease)
        fail_points.reach("ended")
        told = [end for end, has_ended in zip(untold, have_ended, strict=True) if has_ended]
        if are_told:
            self._tell(told, result=ABSENT)
        else:
            self._tell(told)
