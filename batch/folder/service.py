"""The folder door: the long-running piece that the supervisor starts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from batch.errors import DiskFull
from batch.folder.inbox import Inbox
from batch.folder.ledger import Ledger
from batch.folder.next_step import Chain
from batch.folder.outbox import Outbox
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.settings import Settings

T = TypeVar("T")
logger = logging.getLogger("batch.folder")
# It calls every ordinary end of a watch an error.
logging.getLogger("watchdog.observers.inotify").setLevel(logging.CRITICAL)
_EVENTS: list[type[FileSystemEvent]] = [
    FileCreatedEvent,
    FileClosedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
]
_GATHER = 0.05
"""Seconds over which events are gathered before they are looked at."""
_MOST_EVENTS = 10_000
"""Paths remembered from events; when there are more, a full scan is cheaper."""
_SWEEP = 60.0
"""Seconds between two looks for jobs whose end was not heard."""


class Folder:
    """Watches the inbox, takes files in, follows their jobs, writes the outbox. Lives on the hub's loop."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self._settings = settings
        self._hub = hub
        self._stopping = False
        self._wake = asyncio.Event()
        """For the intake: paths to look at, or the end."""
        self._due = asyncio.Event()
        """For the delivery: ended jobs, files with outcomes, or the end."""
        self._ended: list[str] = []
        self._paths: set[str] = set()
        self._paths_lock = threading.Lock()
        self._overflow = False
        self._tasks: list[asyncio.Task[None]] = []
        # A thread for each direction: results are written while 100,000 files are read in, and neither holds up the
        # hub's own thread, through which callers submit.
        self._in = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._out = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._observer: BaseObserver | None = None
        self._watched: int | None = None
        self._blind = ""

    async def start(self) -> None:
        """Make the folders, take up what an earlier run left, and begin to watch."""
        self._loop = asyncio.get_running_loop()
        for folder in (self._settings.inbox_dir, self._settings.outbox_dir):
            with contextlib.suppress(OSError):  # a read-only place is told of when it is written to
                folder.mkdir(parents=True, exist_ok=True)
        self._ledger = await self._run(self._in, lambda: Ledger(self._hub.store))
        self._outbox = Outbox(self._settings, self._ledger, self._hub.spool)
        self._inbox = Inbox(self._settings, self._ledger, self._hub.spool, self._outbox.clear, self._going)
        self._chain = Chain(self._ledger, self._hub.spool, self._model)
        self._hub.listen(self._heard)
        self._tasks = [
            asyncio.create_task(self._steadily(self._intake), name="inbox"),
            asyncio.create_task(self._steadily(self._delivery), name="outbox"),
            asyncio.create_task(self._find_lost(), name="lost results"),
        ]

    async def stop(self) -> None:
        """Finish what is being written, and end; nothing accepted is lost."""
        self._stopping = True
        self._wake.set()
        self._due.set()
        await asyncio.gather(*self._tasks)
        await self._run(self._in, self._unwatch)
        self._in.shutdown()
        self._out.shutdown()

    def _going(self) -> bool:
        return not self._stopping

    async def _run(self, threads: concurrent.futures.Executor, work: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(threads, work)

    async def _steadily(self, work: Callable[[], Any]) -> None:
        """Whatever goes wrong is told, once a kind, and tried again."""
        told = ""
        while self._going():
            try:
                await work()
                told = ""
            except Exception as error:
                sentence = f"{type(error).__name__}: {error}"
                if sentence != told:
                    if isinstance(error, DiskFull):
                        logger.error("The inbox and the outbox wait: %s", error.message)
                    else:
                        logger.exception("the folder door stumbled, and tries again")
                    told = sentence
                await self._pause(self._settings.folder.scan)

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self._going() and (left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.1))

    def _model(self, kind: Kind) -> str:
        return str(self._hub.model(kind).facts.get("model", ""))

    # -- in

    async def _intake(self) -> None:
        next_scan = 0.0
        while self._going():
            self._wake.clear()
            paths, overflow = self._take_paths()
            if overflow or time.monotonic() >= next_scan:
                await self._run(self._in, self._watch)
                begun = time.monotonic()
                await self._run(self._in, self._inbox.scan)
                # A huge inbox must not be scanned all the time: at most a tenth of it.
                next_scan = time.monotonic() + max(self._settings.folder.scan, 10 * (time.monotonic() - begun))
            elif paths:
                await self._run(self._in, lambda paths=paths: self._inbox.look(paths))  # type: ignore[misc]
            while self._going() and await self._run(self._in, self._inbox.settle) > 0:
                await self._run(self._in, self._inbox.accept)
                self._due.set()
            self._due.set()  # a wrong rules file is due without being accepted
            settle = await self._run(self._in, self._inbox.next_settle)
            until = next_scan if settle is None else min(next_scan, max(settle, time.monotonic() + _GATHER))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, until - time.monotonic()))
                await asyncio.sleep(_GATHER)

    def _take_paths(self) -> tuple[set[str], bool]:
        with self._paths_lock:
            paths, self._paths = self._paths, set()
            overflow, self._overflow = self._overflow, False
        return paths, overflow

    def _event(self, path: str) -> None:
        """From the observer's thread."""
        relative = os.path.relpath(path, self._inbox.root)
        if relative.startswith(".."):
            return
        with self._paths_lock:
            if len(self._paths) < _MOST_EVENTS:
                self._paths.add("" if relative == "." else relative)
            else:
                self._overflow = True
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._wake.set)

    def _watch(self) -> None:
        """See to it that events come from the folder that is the inbox now; without them, scans do."""
        try:
            inode: int | None = os.stat(self._inbox.root).st_ino
        except OSError:
            inode = None
        if inode == self._watched and (inode is None or (self._observer is not None and self._observer.is_alive())):
            return
        self._unwatch()
        self._watched = inode
        if inode is None:
            return
        observer = Observer()
        try:
            observer.schedule(_Handler(self._event), self._inbox.root, recursive=True, event_filter=_EVENTS)
            observer.start()
            self._observer = observer
        except OSError as error:
            if str(error) != self._blind:
                self._blind = str(error)
                logger.warning(
                    "The inbox cannot be watched (%s): new files are found by a scan every %g seconds.",
                    error,
                    self._settings.folder.scan,
                )

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join(5)

    # -- out

    def _heard(self, event: dict[str, Any]) -> None:
        if event.get("waited"):
            return  # a request's, of which nothing comes into the outbox
        self._ended.append(event["job"])
        self._due.set()

    async def _delivery(self) -> None:
        next_sweep, retry_at = 0.0, 0.0
        while self._going():
            self._due.clear()
            while self._ended:
                jobs, self._ended = self._ended[:200], self._ended[200:]
                try:
                    await self._run(self._out, lambda jobs=jobs: self._chain.ended(jobs))  # type: ignore[misc]
                except BaseException:
                    self._ended = jobs + self._ended
                    raise
            if time.monotonic() >= next_sweep:
                begun = time.monotonic()
                await self._sweep()
                next_sweep = time.monotonic() + max(_SWEEP, 20 * (time.monotonic() - begun))
            if time.monotonic() >= retry_at:
                written = await self._run(self._out, lambda: self._outbox.deliver(self._going))
                retry_at = 0.0 if written else time.monotonic() + self._settings.folder.scan
            until = min(next_sweep, retry_at or next_sweep)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._due.wait(), max(0.0, until - time.monotonic()))

    async def _sweep(self) -> None:
        after: int | None = 0
        while after is not None and self._going():
            start = after
            after, _ = await self._run(self._out, lambda start=start: self._chain.sweep(start))  # type: ignore[misc]

    async def _find_lost(self) -> None:
        """At start: files that lie in the inbox and were done, but have no results in the outbox."""
        after: int | None = 0
        try:
            while after is not None and self._going():
                start = after
                after, lost = await self._run(self._out, lambda start=start: self._outbox.missing(start))  # type: ignore[misc]
                if lost:
                    self._due.set()
        except Exception:
            logger.exception("missing results were not looked for to the end")


class _Handler(FileSystemEventHandler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    def on_any_event(self, event: FileSystemEvent) -> None:
        for path in (event.src_path, event.dest_path):
            if path:
                self._tell(os.fsdecode(path))
