"""The status once a second for every page that watches, and how long the queues were: read once, however many watch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import NamedTuple

from batch.errors import BatchError, Unavailable
from batch.payloads.json_text import encode
from batch.queue.frames import JobEnded
from batch.queue.jobs import Kind
from batch.service_status import ServiceStatus

logger = logging.getLogger("batch.page")
MAX_STREAMS = 8
INTERVAL_S = 1.0
SAMPLE_INTERVAL_S = 30.0
MAX_SAMPLES = 120
MAX_ENDS = 200
"""Ends of jobs told in one event; a page that sees more of them loads anew."""
MAX_KEPT_EVENTS = 60
"""Events whose ends are told again, with the newest status, to a page that was slow to take them."""


class Sample(NamedTuple):
    """How many jobs of each kind waited at a Unix time."""

    at: float
    queued: dict[Kind, int]


class LiveView:
    """One a service; used on the event loop."""

    def __init__(self, read: Callable[[], Awaitable[ServiceStatus]]) -> None:
        self._read = read
        self.samples: deque[Sample] = deque(maxlen=MAX_SAMPLES)
        self._streams = 0
        self._ends: dict[str, str] = {}
        self._status: ServiceStatus | None = None
        self._events: deque[tuple[int, dict[str, str]]] = deque(maxlen=MAX_KEPT_EVENTS)
        """The last numbers, and the ends that each told."""
        self._changed = asyncio.Condition()
        self._number = 0
        self._is_stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to take samples of the queues."""
        self._tasks = [asyncio.create_task(self._sample(), name="page samples"), asyncio.create_task(self._publish())]

    async def stop(self) -> None:
        """End every stream."""
        self._is_stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        async with self._changed:
            self._changed.notify_all()

    def note_end(self, ended: JobEnded) -> None:
        """A job has ended: told with the next status."""
        if self._streams and len(self._ends) < MAX_ENDS:
            self._ends[ended.job] = str(ended.state)

    def take_place(self) -> StreamPlace:
        """A place among those who watch, to be released. Raises Unavailable when too many watch."""
        if self._streams >= MAX_STREAMS or self._is_stopping:
            raise Unavailable(f"{MAX_STREAMS} pages are watching already: this one is loaded anew from time to time.")
        return StreamPlace(self)

    async def follow(self, place: StreamPlace) -> AsyncIterator[bytes]:
        """Server-sent events until the client goes or the service stops; then the place is released."""
        try:
            yield b"retry: 5000\n\n"
            number = self._number
            while not self._is_stopping:
                async with self._changed:
                    await self._changed.wait_for(lambda last_number=number: self._is_stopping or self._number != last_number)  # type: ignore[misc]
                event, number = self._event_after(number), self._number
                yield event
        finally:
            place.release()

    def _event_after(self, number: int) -> bytes:
        """The newest status with all that has ended since an event."""
        ended = {job: state for at, ends in self._events if at > number for job, state in ends.items()}
        return b"event: status\ndata: " + encode({**(self._status or {}), "ended": ended}) + b"\n\n"

    def count_stream(self, change: int) -> None:
        """A stream has begun, or has ended."""
        self._streams += change

    async def _publish(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if not self._streams:
                continue
            with _outlived():
                status = await self._read()
                ends, self._ends = self._ends, {}
                self._status = status
                async with self._changed:
                    self._number += 1
                    self._events.append((self._number, ends))
                    self._changed.notify_all()

    async def _sample(self) -> None:
        while True:
            with _outlived():
                status = await self._read()
                queued = {kind: sum(status["models"][kind.value]["queued"].values()) for kind in Kind}
                self.samples.append(Sample(time.time(), queued))
            await asyncio.sleep(SAMPLE_INTERVAL_S)


@contextlib.contextmanager
def _outlived() -> Iterator[None]:
    """Goes on behind whatever a reading raises: its task would end, and every page that watches wait for ever."""
    try:
        yield
    except BatchError:
        pass  # every page says it to who asks
    except Exception as error:
        logger.warning("the status could not be read for those who watch (%s)", type(error).__name__)


class StreamPlace:
    """One of the places of those who watch."""

    def __init__(self, view: LiveView) -> None:
        self._view: LiveView | None = view
        view.count_stream(1)

    def release(self) -> None:
        """Give the place back. Harmless when called again."""
        if self._view is not None:
            self._view.count_stream(-1)
            self._view = None
