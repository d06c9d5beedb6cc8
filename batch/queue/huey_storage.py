"""huey over our store: taking a message moves it to a claim, and waiting for one blocks on a wake-up, not on a clock."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any

from huey.api import Huey
from huey.registry import Message
from huey.serializer import Serializer
from huey.storage import BlackHoleStorage

from batch.errors import DiskFull
from batch.queue.jobs import Job, Kind
from batch.queue.store import Store, message_for

IDLE = 2.0
"""Seconds until an idle worker looks by itself: what a lost wake-up costs at most."""
_DISK = 1.0
"""Seconds between two tries to take a job while the disk is full: taking one writes its claim."""

logger = logging.getLogger("batch.queue")


class JobSerializer(Serializer):  # type: ignore[misc]
    """Messages as JSON: huey's own pickles would let whoever writes the database run code here."""

    def _serialize(self, data: Message) -> bytes:
        return message_for(data.id)

    def _deserialize(self, data: bytes) -> Message:
        message = json.loads(data)
        return Message(message["id"], message["name"], args=tuple(message["args"]), kwargs={}, retries=0, retry_delay=0)


class ClaimStorage(BlackHoleStorage):  # type: ignore[misc]
    """Dequeuing claims. huey's schedule, results, locks and revocations fall into a black hole: the job row has them."""

    blocking = True
    priority = True

    def __init__(self, name: str, store: Store) -> None:
        super().__init__(name)
        self.kind = Kind(name)
        self.store = store
        self.woken = threading.Event()
        self.stopping = threading.Event()
        self.taken: Job | None = None
        """The job that the last message stands for: saves the task a second look-up."""
        self._told = False

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        raise NotImplementedError("jobs are queued by Store.submit, together with their row")

    def dequeue(self) -> bytes | None:
        """The next message, claimed; None after `IDLE` seconds without one, or when the worker stops."""
        if self.stopping.is_set():
            return None
        # Cleared before the look: a job queued between look and wait has set it again.
        self.woken.clear()
        try:
            data = self.claim()
        except DiskFull as error:
            if not self._told:
                logger.error("The %s queue waits: %s", self.kind, error.message)
            self._told = True
            self.stopping.wait(_DISK)
            return None
        self._told = False
        if data is None and not self.stopping.is_set():
            self.woken.wait(IDLE)
        return data

    def claim(self, above: float | None = None) -> bytes | None:
        self.taken = self.store.take(self.kind, above=above)
        return None if self.taken is None else message_for(self.taken.id)

    def queue_size(self) -> int:
        return int(self.store.read("select count(*) from task where queue=?", (self.kind,))[0][0])


class JobHuey(Huey):  # type: ignore[misc]
    """A huey queue of jobs: one task, `batch.run`, that gets the job's id."""

    def __init__(self, kind: Kind, store: Store, run: Callable[[str], None]) -> None:
        super().__init__(kind.value, results=False, serializer=JobSerializer(), storage_class=ClaimStorage, store=store)
        wrapper = self.task(name="run")(run)
        # huey names tasks by module; the message's name must not change when code moves.
        self._registry._registry["batch.run"] = wrapper.task_class

    def is_revoked(self, task: Any, timestamp: Any = None, peek: bool = True) -> bool:
        """Cancelling stands in the job's row, so huey's two look-ups a task are saved."""
        return False

    def run_more_urgent(self, than: float) -> bool:
        """Take and run one job above a priority, inside the caller's own task; False when there is none."""
        try:
            data = self.storage.claim(above=than)
        except DiskFull:
            return False  # the running job does not suffer for it
        if data is None:
            return False
        self.execute(self.deserialize_task(data))
        return True
