"""What the page needs of the running service: readers of the database, threads for pictures, and the live view."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from batch.errors import QueueFull
from batch.page.actions.bulk import BulkActions
from batch.page.live_view import LiveView
from batch.page.media.previews import Previews
from batch.queue.hub.hub import Hub
from batch.queue.store import Store
from batch.search.service import SearchService
from batch.service_status import read_status
from batch.settings import Settings

T = TypeVar("T")
MAX_READING = 2
"""Lists that are read from the database at once."""
MAX_WAITING = 64
"""Requests of pages, and of pictures, that wait; one more is turned away."""


class PageService:
    """One a service; its methods run on the hub's event loop."""

    def __init__(self, settings: Settings, hub: Hub, search: SearchService) -> None:
        self.settings = settings
        self.hub = hub
        self.search = search
        self._readers = ThreadPoolExecutor(MAX_READING, thread_name_prefix="page")
        self._painter = ThreadPoolExecutor(1, thread_name_prefix="previews")
        self._local = threading.local()
        self._waiting: dict[ThreadPoolExecutor, int] = {self._readers: 0, self._painter: 0}
        self.previews = Previews(settings.state_dir / "previews", settings.page.preview_bytes, settings.limits)
        self.live_view = LiveView(lambda: self.read(lambda store: read_status(store, settings.database)))
        self.bulk_actions = BulkActions(hub)

    def start(self) -> None:
        """Begin to note how long the queues are."""
        self.live_view.start()
        self.hub.listen(self.live_view.note_end)

    async def stop(self) -> None:
        """End the streams, what is done to many jobs, and the threads."""
        await self.bulk_actions.stop()
        await self.live_view.stop()
        await asyncio.to_thread(self._readers.shutdown, True, cancel_futures=True)
        await asyncio.to_thread(self._painter.shutdown, True, cancel_futures=True)

    async def read(self, work: Callable[[Store], T]) -> T:
        """What `work` reads from the database, in a thread with a connection of its own. Raises QueueFull."""
        return await self._in(self._readers, lambda: work(self._reader()))

    async def paint(self, work: Callable[[], T]) -> T:
        """What `work` gives, in the one thread in which pictures are made smaller. Raises QueueFull."""
        return await self._in(self._painter, work)

    async def _in(self, threads: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._waiting[threads] >= MAX_WAITING:
            raise QueueFull("The page is asked for too much at once: try again in a second.", retry_after=1)
        self._waiting[threads] += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        finally:
            self._waiting[threads] -= 1

    def _reader(self) -> Store:
        """This thread's own connection."""
        reader: Store | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self.hub.store.open_reader()
        return reader
