"""What the jobs that one worker runs share: the store, the stream to the supervisor, the cores, and when to stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec import Raw

from batch.cpu_sharing.core_table import CoreTable
from batch.cpu_sharing.other_programs import OtherPrograms
from batch.errors import BatchError
from batch.media.decoder.running_pids import running_pids
from batch.model_kind import kind_of
from batch.payloads.json_text import encode
from batch.queue.channel import EventStream
from batch.queue.frames import DiskWaiting
from batch.queue.huey_storage import IDLE_LOOK_S, JobHuey
from batch.queue.jobs import Kind, Priority
from batch.queue.spool import Spool
from batch.queue.store import WRITE_REFUSED, Lease, Store
from batch.workers.job_ends import JobEnds
from batch.workers.stopping import Stopping

if TYPE_CHECKING:
    from batch.workers.running_job import RunningJob

T = TypeVar("T")
logger = logging.getLogger("batch.worker")

DISK_RETRY_S = 1.0
"""Between two tries of a write that must not be lost, while the disk is full."""
_UNLIMITED_THREADS = 1 << 16
NEST_AFTER_S = 0.025
"""So long workers that are idle have to take a job, where they share a queue, before one runs it inside another: they compute
at once what would stop this one's work."""


class JobContext:
    """One a worker. `attention` and `deadline` are set from other threads, the rest belongs to the engine's thread."""

    def __init__(self, queue: str, store: Store, spool: Spool, events: EventStream, max_threads: int, worker_id: str) -> None:
        """`max_threads`: most threads while computing; 0: as many as there are cores. `worker_id`: random at each start, under
        this name jobs are leased."""
        self.queue = queue
        self.kind = kind_of(queue)
        self.store = store
        self.spool = spool
        self.events = events
        self.worker_id = worker_id
        self.leases: dict[int, Lease] = {}
        """What this worker holds, by token, until the end of each job is written down."""
        self.lost: set[int] = set()
        """Tokens of leases that are another worker's by now."""
        self.huey: JobHuey | None = None
        """Set by the worker, as the queue's task is one of its methods."""
        self.running: list[RunningJob] = []
        """Jobs under way, the innermost last: a more urgent one runs inside the yield point of the one before."""
        self.look_interval_s = IDLE_LOOK_S if store.is_shared else 0.0
        """Between two looks of a running job into the database, for wake-ups that were lost: many machines ask one database."""
        self.attention = False
        """Something was queued, cancelled or stopped: look at the next yield point."""
        self.wake_ups = 0
        """How often this worker has been told that something was queued or cancelled."""
        self.handed = (0, 0)
        """Token of the lease that was handed over last, and how many wake-ups were heard by then: nothing else waited."""
        self.ends = JobEnds(self)
        self.may_take: Callable[[], bool] = lambda: True
        """Whether jobs may be leased that are not held yet; batch mates, too."""
        self.look_at = math.inf
        """time.monotonic() from when on a more urgent job that was passed over is free."""
        self.deadline: float | None = None
        """time.monotonic() after which a running job is put back; None while the service runs."""
        self._cores = CoreTable()
        self._others = OtherPrograms()
        self._max_threads = max_threads or _UNLIMITED_THREADS

    def forget(self, lease: Lease) -> None:
        """A job has ended or was put back: its lease is renewed no more."""
        self.leases.pop(lease.token, None)
        self.lost.discard(lease.token)

    def begin_look(self) -> None:
        """No job is under way, and what was told until now is found by the look for the next one."""
        self.ends.write_told()
        self.attention = False

    def may_have_mates(self, lease: Lease) -> bool:
        """Whether other jobs may wait: none did when a job was handed over, and the worker is told of each that comes. A lost
        wake-up costs a batch mate, no job."""
        return self.handed != (lease.token, self.wake_ups)

    def expect_looks(self, now: float) -> None:
        """Something is up for one of the jobs under way: all look into the database soon."""
        for lead in self.running:
            for job in lead.unended_jobs():
                job.next_database_look = min(job.next_database_look, now)

    def run_more_urgent(self, priority: int) -> bool:
        """Run one queued job above a priority inside the caller's; False when there is none that another machine's idle
        worker would not take sooner."""
        self.look_at = math.inf
        if self.huey is None:
            return False
        if not self.store.is_shared:
            return self.huey.run_more_urgent(priority)
        has_run = self.huey.run_more_urgent(priority, NEST_AFTER_S)
        if not has_run and self.huey.storage.next_look_s < IDLE_LOOK_S:
            self.look_at = time.monotonic() + self.huey.storage.next_look_s
        return has_run

    def threads(self) -> int:
        """How many threads the next step may use; of a job that begins, all that the other workers leave it."""
        others = 0.0
        if not self.running:
            # What a client computes before it asks takes nothing from the answer: only who goes on beside a job does.
            self._others.forget()
        elif self.kind is not Kind.EMBEDDING:  # halves of a batch wait for nobody, and a BarrierWatch sees to the rest
            others = self._others.cores([*self._cores.pids(), *running_pids])
        return min(self._cores.threads(others), self._max_threads)

    def mark_cores(self) -> None:
        """Show the other workers how much this one computes: an interactive job weighs twice as much as bulk work."""
        interactive = bool(self.running) and self.running[-1].job.priority >= Priority.INTERACTIVE
        self._cores.busy(0.0 if not self.running else 2.0 if interactive else 1.0)

    def persist(self, write: Callable[[], T]) -> T:
        """Do a write that must not be lost, however long the disk is full; Stopping when the service ends first."""
        logged = False
        while True:
            try:
                return write()
            except WRITE_REFUSED as error:
                if not logged:
                    logger.error("The %s worker waits: %s", self.kind, error.message)
                logged = True
                if self.deadline is not None and time.monotonic() >= self.deadline:
                    raise Stopping() from error
                self.report_waiting(error)
                time.sleep(DISK_RETRY_S)

    def report_waiting(self, error: BatchError) -> None:
        """Tell the service that nothing goes on before the disk takes writes again: clients are not kept waiting for that."""
        self.events.send(DiskWaiting(error=Raw(encode(error.record()))))

    def close(self) -> None:
        """Give up the place among the workers that share the cores, and close the store."""
        self._cores.close()
        self.store.close()
