"""What the service does by the clock: huey's scheduler and consumer, in a thread of the service's own process.

Nothing of it must survive a restart: what is due is always worked out from rows.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from huey import MemoryHuey, crontab
from huey.consumer import Consumer
from huey.storage import MemoryStorage

logger = logging.getLogger("batch.periodic")

SCHEDULER_INTERVAL_S = 5
"""Between two looks at what is due later; periodic tasks are due by the minute."""
_IDLE_LOOK_S = 30.0
_STOP_TIMEOUT_S = 5.0


class QuietConsumer(Consumer):  # type: ignore[misc]
    """huey's consumer without its signal handlers: the process has its own."""

    def _set_signal_handlers(self) -> None:
        pass


class WakingStorage(MemoryStorage):  # type: ignore[misc]
    """huey's storage in memory, whose consumer waits for a task instead of looking for one again and again."""

    blocking = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arrived = threading.Event()

    def enqueue(self, data: bytes, priority: float | None = None) -> None:
        super().enqueue(data, priority)
        self.arrived.set()

    def dequeue(self) -> bytes | None:
        self.arrived.clear()
        data: bytes | None = super().dequeue()
        if data is None:
            self.arrived.wait(_IDLE_LOOK_S)
            data = super().dequeue()
        if self.queue_size():  # another thread may have missed that more than one had arrived
            self.arrived.set()
        return data


class PeriodicTasks:
    """Tasks that run one after the other in each of its threads; one that raises is logged and runs again when it is due."""

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._huey = MemoryHuey("batch-periodic", storage_class=WakingStorage, results=False)
        self._consumer: QuietConsumer | None = None
        self._is_stopping = threading.Event()

    @property
    def is_stopping(self) -> bool:
        """Whether a task should end at its next step."""
        return self._is_stopping.is_set()

    def pause(self, seconds: float) -> bool:
        """Let others have what a task uses; False when it should end."""
        return not self._is_stopping.wait(seconds)

    def add(self, name: str, work: Callable[[], object], *, minute: str = "*", hour: str = "*", at_start: bool = False) -> None:
        """Run `work` whenever minute and hour match, in crontab's notation; `at_start`: once at the start too."""

        def run() -> None:
            try:
                work()
            except Exception:
                logger.exception("the periodic task %s failed; it runs again when it is due", name)

        task = self._huey.periodic_task(crontab(minute=minute, hour=hour), name=name)(run)
        if at_start:
            self._huey.enqueue(task.s())

    def add_delayed(self, name: str, work: Callable[[str], object]) -> Callable[[str, float], None]:
        """A task with one text as its argument; returns what runs it after a number of seconds."""

        def run(argument: str) -> None:
            try:
                work(argument)
            except Exception:
                logger.exception("the delayed task %s failed", name)

        task = self._huey.task(name=name)(run)

        def schedule(argument: str, delay_s: float) -> None:
            task.schedule(args=(argument,), delay=delay_s)

        return schedule

    def start(self) -> None:
        """Begin to run what is due."""
        logging.getLogger("huey").setLevel(logging.WARNING)  # it logs several lines a task
        consumer = QuietConsumer(
            self._huey,
            workers=self._threads,
            worker_type="thread",
            scheduler_interval=SCHEDULER_INTERVAL_S,
            check_worker_health=False,
        )
        consumer.start()
        self._consumer = consumer

    def stop(self, timeout_s: float = _STOP_TIMEOUT_S) -> None:
        """End the task that runs at its next step, for which `timeout_s` seconds are waited, and begin no more."""
        self._is_stopping.set()
        if self._consumer is None:
            return
        self._consumer.stop_flag.set()
        self._huey.storage.arrived.set()
        for _, thread in self._consumer.worker_threads:
            thread.join(timeout_s)
