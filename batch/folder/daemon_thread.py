"""A thread for blocking work that the end of the process does not wait for: a share that is away may hold it for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
logger = logging.getLogger("batch.folder")


class DaemonThread:
    """Runs what it is handed, one after the other."""

    def __init__(self, name: str) -> None:
        self._work: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], object]) -> None:
        """Run `work` behind what was handed over before; what it raises is logged."""
        self._work.put(work)

    async def call(self, work: Callable[[], T]) -> T:
        """Run `work` and wait for it; returns or raises what it does."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def report(set_outcome: Callable[[], None]) -> None:
            def unless_cancelled() -> None:
                if not future.done():
                    set_outcome()

            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(unless_cancelled)

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                failure = error
                report(lambda: future.set_exception(failure))
            else:
                report(lambda: future.set_result(result))

        self.run(run)
        return await future

    def close(self, timeout_s: float) -> bool:
        """End the thread once its work is done; returns whether it has ended within `timeout_s` seconds."""
        self._work.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                work()
            except Exception:
                logger.exception("work in the thread %s failed", self._thread.name)
