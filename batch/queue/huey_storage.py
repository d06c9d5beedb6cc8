"""huey over our store: taking a message moves it to a claim, and waiting for one blocks on a wake-up, not on a clock."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from huey.api import Huey
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import BlackHoleStorage

from batch.errors import BatchError
from batch.queue.messages import job_named_in, message_for
from batch.queue.store import WRITE_REFUSED, DamagedDatabase, Lease, Store

IDLE_LOOK_S = 2.0
"""After so long an idle worker looks by itself: what a lost wake-up costs at most."""
_DISK_RETRY_S = 1.0
"""Between two tries to take a job while the disk is full: taking one writes its claim."""

SETTLING_S = 0.02
"""After so long without a job the worker does what the next one would otherwise have to do first."""

_MARGIN_S = 0.001
"""Beyond the moment from which a job is free."""

_TASK_NAME = "batch.run"
"""What messages call the one task; it must not change when code moves."""

logger = logging.getLogger("batch.queue")


class JobSerializer(Serializer):  # type: ignore[misc]
    """Messages as JSON: huey's own pickles would let whoever writes the database run code here."""

    def _serialize(self, data: Message) -> bytes:
        return message_for(data.id)

    def _deserialize(self, data: bytes) -> Message:
        job = job_named_in(data)
        return Message(job, _TASK_NAME, args=(job,), kwargs={}, retries=0, retry_delay=0)


class ClaimStorage(BlackHoleStorage):  # type: ignore[misc]
    """Dequeuing claims. huey's schedule, results, locks and revocations fall into a black hole: the job row has them."""

    blocking = True
    priority = True

    def __init__(self, name: str, store: Store, worker: str) -> None:
        """`worker`: the id under which jobs are leased."""
        super().__init__(name)
        self.store = store
        self.worker = worker
        self.woken = threading.Event()
        self.stopping = threading.Event()
        self.lease: Lease | None = None
        """The job that the last message stands for: saves the task a second look-up."""
        self.report_waiting: Callable[[BatchError], None] = lambda error: None
        """Is told, again and again, that no job can be taken: the disk is full, or the database damaged or away."""
        self.may_take: Callable[[], bool] = lambda: True
        """Whether the worker may lease further jobs."""
        self.floor: float | None = None
        """Only jobs of a higher priority are taken; None: all."""
        self.next_look_s = IDLE_LOOK_S
        """After how long the next look for a job pays: one that was passed over is free then."""
        self.rest_s: Callable[[], float] = lambda: 0.0
        """For how many seconds another job is waited for before `before_look` is called."""
        self.before_look: Callable[[], None] = lambda: None
        """Is called before a look between two jobs: what was told until then, the look finds. Not before a job that was handed
        over: it may have been cancelled since then."""
        self.settle: Callable[[], bool] = lambda: False
        """Is called after a job, and again while it returns True, when no other has waited for a moment."""
        self._is_settled = True
        self._has_logged = False
        self._handed: deque[Lease] = deque()
        """Jobs that were leased to this worker as they were accepted."""

    def hand(self, lease: Lease) -> None:
        """From another thread: the worker holds this job without having looked for one."""
        self._handed.append(lease)
        self.woken.set()

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        raise NotImplementedError("jobs are queued by Store.submit, together with their row")

    def dequeue(self) -> bytes | None:
        """The next message, claimed; None after `IDLE_LOOK_S` without one, or when the worker stops."""
        if self.stopping.is_set():
            return None
        # Cleared before the look: a job queued between look and wait has set it again.
        self.woken.clear()
        if not self._handed and (rest_s := self.rest_s()):
            self.woken.wait(rest_s)
            if self.stopping.is_set():
                return None
            self.woken.clear()
        if not self._handed:
            self.before_look()
        try:
            data = self.claim()
        except (*WRITE_REFUSED, DamagedDatabase) as error:
            if not self._has_logged:
                logger.error("The %s queue waits: %s", self.name, error.message)
            self._has_logged = True
            self.report_waiting(error)
            self.stopping.wait(_DISK_RETRY_S)
            return None
        self._has_logged = False
        if data is not None:
            self._is_settled = False
        elif not self.stopping.is_set():
            self._wait()
        return data

    def _wait(self) -> None:
        """Until something may be there, or it pays to look."""
        next_look_s = self.next_look_s
        while not self._is_settled and next_look_s > SETTLING_S:
            if self.woken.wait(SETTLING_S):
                return
            next_look_s -= SETTLING_S
            self._is_settled = not self.settle()
        self.woken.wait(next_look_s)

    def claim(self, above: float | None = None, waited_s: float = 0.0) -> bytes | None:
        """Lease the next job; its message, or None when there is none (above a priority, or that has waited so long)."""
        self.next_look_s = IDLE_LOOK_S
        floor = self.floor if above is None else max(above, self.floor or above)
        leases: list[Lease] = []
        if self._handed and self._handed[0].job.priority > (-1.0 if above is None else above):
            leases.append(self._handed.popleft())
        elif self.may_take():
            leases = self.store.take(self.name, self.worker, above=floor, waited_s=waited_s, passed_over=self._look_sooner)
        self.lease = leases[0] if leases else None
        return message_for(leases[0].job.id) if leases else None

    def _look_sooner(self, free_in_s: float) -> None:
        self.next_look_s = min(IDLE_LOOK_S, free_in_s + _MARGIN_S)

    def queue_size(self) -> int:
        return self.store.queue_size(self.name)


class JobHuey(Huey):  # type: ignore[misc]
    """A huey queue of jobs: one task, `batch.run`, that gets the job's id."""

    def __init__(self, queue: str, store: Store, worker: str, run: Callable[[str], None]) -> None:
        super().__init__(
            str(queue), results=False, serializer=JobSerializer(), storage_class=ClaimStorage, store=store, worker=worker
        )

        def run_job(job_id: str) -> None:
            run(job_id)

        # huey names a task by its function's module, and the messages' name, batch.run, must not change when code moves.
        run_job.__module__ = "batch"
        self.task(name="run")(run_job)

    def is_revoked(self, task: Any, timestamp: Any = None, peek: bool = True) -> bool:
        """Cancelling stands in the job's row, so huey's two look-ups a task are saved."""
        return False

    def run_more_urgent(self, than: float, waited_s: float = 0.0) -> bool:
        """Take and run one job above a priority that has waited so long, inside the caller's own task; False when there is
        none."""
        try:
            data = self.storage.claim(above=than, waited_s=waited_s)
        except (*WRITE_REFUSED, DamagedDatabase):
            return False  # the running job does not suffer for it
        if data is None:
            return False
        self.execute(self.deserialize_task(data))
        return True
