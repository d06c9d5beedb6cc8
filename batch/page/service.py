"""What the page needs of the running service: readers of the database, threads for pictures, and the live view."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from batch.errors import BatchError, QueueFull
from batch.page.actions.bulk import BulkActions
from batch.page.live_view import LiveView
from batch.page.media.previews import THUMBNAIL_PIXELS, Previews
from batch.page.media.source_bytes import SourceBytes, open_source
from batch.page.reading.file_pages import file_of_job
from batch.queue.frames import JobEnded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind, State
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
        self._connections: list[Store] = []
        """One of each reading thread."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting: dict[ThreadPoolExecutor, int] = {self._readers: 0, self._painter: 0}
        self.previews = Previews(settings.state_dir / "previews", settings.page.preview_bytes, settings.limits)
        self.live_view = LiveView(lambda: self.read(read_status))
        self.bulk_actions = BulkActions(hub)

    def start(self) -> None:
        """Begin to note how long the queues are."""
        self.live_view.start()
        self.hub.listen(self.live_view.note_end)
        self.hub.listen(self._paint_captioned)

    async def stop(self) -> None:
        """End the streams, what is done to many jobs, and the threads."""
        self.previews.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.bulk_actions.stop()
        await self.live_view.stop()
        await asyncio.to_thread(self._readers.shutdown, True, cancel_futures=True)
        await asyncio.to_thread(self._painter.shutdown, True, cancel_futures=True)
        for connection in self._connections:
            connection.close()
        await asyncio.to_thread(self.previews.close)

    def _paint_captioned(self, ended: JobEnded) -> None:
        """Make the gallery's picture of what was just captioned, unless others wait for pictures."""
        if ended.kind is Kind.VLM and ended.state is State.DONE and not ended.waited and not self._waiting[self._painter]:
            task = asyncio.create_task(self._paint_thumbnail(ended.job), name="thumbnail")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _paint_thumbnail(self, job: str) -> None:
        with contextlib.suppress(BatchError):  # whoever looks at it is told
            file = await self.read(lambda store: file_of_job(store, job))
            if file is not None:
                await self.thumbnail(file, THUMBNAIL_PIXELS)

    async def thumbnail(self, id: int, pixels: int) -> bytes:
        """A small WebP picture of a file of the ledger. Raises NotFound, QueueFull, and what `open_image` raises."""
        source = await self.open_source(id)
        try:
            return await self.paint(lambda: self.previews.preview(source, pixels))
        finally:
            source.close()

    async def open_source(self, id: int) -> SourceBytes:
        """A file's bytes, to be closed. Raises NotFound."""
        return await self.read(lambda store: open_source(store, self.hub.spool, self.settings, id))

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
            self._connections.append(reader)
        return reader
