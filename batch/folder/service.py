"""The folder service: watches the inbox and writes the outbox, beside the servers, on the hub's loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from batch.batches.batch_store import BatchStore
from batch.batches.rows import Batch, BatchApi
from batch.durable_folder import make_durable_folder
from batch.errors import Conflict, NotFound
from batch.folder.daemon_thread import DaemonThread
from batch.folder.inbox.inbox import Inbox
from batch.folder.ledger.ledger import Ledger
from batch.folder.next_step import NextSteps
from batch.folder.outbox.access import make_folders
from batch.folder.outbox.outbox import Outbox
from batch.folder.watcher import InboxWatcher
from batch.queue.frames import JobEnded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.store import WRITE_REFUSED, Store
from batch.settings import Settings

logger = logging.getLogger("batch.folder")
GATHER_S = 0.05
"""Seconds over which events are gathered before they are looked at."""
LOST_JOBS_INTERVAL_S = 60.0
"""Seconds between two looks for jobs whose end was not reported."""
SHARED_JOBS_INTERVAL_S = 5.0
"""The same where services share the database: a batch may end in another one, and a job be accepted by one that is gone."""
_SCAN_SHARE = 10
"""A huge inbox must not be scanned all the time: at most a tenth of it."""
_STOP_TIMEOUT_S = 10.0
"""Seconds that a stop waits for a disk or a share that does not answer."""


def make_inbox_and_outbox(settings: Settings) -> None:
    """Make the two folders where they are missing; raises OSError."""
    make_durable_folder(settings.inbox_dir)
    make_folders(settings.outbox_dir, settings.outbox.access)


class FolderService:
    """Watches the inbox, takes files in, follows their jobs, writes the outbox. Lives on the hub's loop."""

    def __init__(self, settings: Settings, hub: Hub, *, store: Store | None = None) -> None:
        """`store`: through which the ledger is written, where that is not the hub's own."""
        self._settings = settings
        self._hub = hub
        self._store = store or hub.store
        self._is_stopping = False
        self._inbox_wake = asyncio.Event()
        """For the intake: paths to look at, or the end."""
        self._outbox_wake = asyncio.Event()
        """For the delivery: ended jobs, files with outcomes, or the end."""
        self._ended_jobs: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Make the folders, take up what an earlier run left, and begin to watch."""
        self._loop = asyncio.get_running_loop()
        settings, hub = self._settings, self._hub
        with contextlib.suppress(OSError):  # a read-only place is reported when it is written to
            make_inbox_and_outbox(settings)
        # A thread for each direction: results are written while 100,000 files are read in, and neither holds up the
        # hub's own thread, through which clients submit.
        self._inbox_thread = DaemonThread("inbox")
        self._outbox_thread = DaemonThread("outbox")
        self._ledger = await self._inbox_thread.call(lambda: Ledger(self._store))
        self._outbox = Outbox(settings, self._ledger, hub.spool)
        self._inbox = Inbox(
            settings,
            self._ledger,
            hub.spool,
            clear_results=self._outbox.clear,
            cancel_job=self._cancel_job,
            report_copied=lambda: self._wake_from_thread(self._inbox_wake),
            is_going=self.is_going,
        )
        self.watcher = InboxWatcher(self._inbox.root, lambda: self._wake_from_thread(self._inbox_wake), settings.folder.scan)
        self._next_steps = NextSteps(
            self._ledger, hub.spool, self._loaded_model, lambda: self._wake_from_thread(self._outbox_wake)
        )
        hub.listen(self._job_ended)
        self._tasks = [
            asyncio.create_task(self._steadily(self._take_in), name="inbox"),
            asyncio.create_task(self._steadily(self._deliver), name="outbox"),
        ]
        if settings.outbox.again:
            self._tasks.append(asyncio.create_task(self._find_missing_results(), name="missing results"))

    async def stop(self) -> None:
        """Finish what is being written, and end; nothing accepted is lost.

        A disk or a network share that does not answer is waited for for some seconds, and then left to itself.
        """
        self._is_stopping = True
        self._inbox_wake.set()
        self._outbox_wake.set()
        _, hanging = await asyncio.wait(self._tasks, timeout=_STOP_TIMEOUT_S)
        for task in hanging:
            logger.error("the %s does not answer: the service stops without it", task.get_name())
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(ValueError):  # another one follows as often as duties change hands
            self._hub.reports.listeners.remove(self._job_ended)
        timeout = 0.1 if hanging else _STOP_TIMEOUT_S
        await asyncio.to_thread(self._close_threads, timeout)

    def _close_threads(self, timeout_s: float) -> None:
        self.watcher.stop()
        self._inbox.close(timeout_s)
        self._next_steps.close(timeout_s)
        self._inbox_thread.close(timeout_s)
        self._outbox_thread.close(timeout_s)

    def is_going(self) -> bool:
        """Whether the service has not been told to stop."""
        return not self._is_stopping

    def _wake_from_thread(self, event: asyncio.Event) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(event.set)

    async def _steadily(self, work: Callable[[], Any]) -> None:
        """Whatever goes wrong is logged, once a kind, and tried again."""
        complaint = ""
        while self.is_going():
            try:
                await work()
                complaint = ""
            except Exception as error:
                sentence = f"{type(error).__name__}: {error}"
                if sentence != complaint:
                    if isinstance(error, WRITE_REFUSED):
                        logger.error("The inbox and the outbox wait: %s", error.message)
                    else:
                        logger.exception("the folder service stumbled, and tries again")
                    complaint = sentence
                await self._pause(self._settings.folder.scan)

    async def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.is_going() and (seconds_left := until - time.monotonic()) > 0:
            await asyncio.sleep(min(seconds_left, 0.1))

    def _loaded_model(self, kind: Kind) -> str:
        return self._hub.model(kind).name

    def batch_ended(self, batch: Batch) -> None:
        """A batch has ended: it may be a file's of the inbox."""
        if self.is_going():
            self._ended_jobs.append(batch.id)
            self._outbox_wake.set()

    def _cancel_job(self, job: str) -> None:
        """From the inbox's thread; the job may be a batch."""
        if job.startswith("batch_"):
            with contextlib.suppress(NotFound, Conflict):
                BatchStore(self._hub.store).cancel(job, BatchApi.OPENAI)
            return
        asyncio.run_coroutine_threadsafe(self._hub.cancel(job), self._loop)

    async def scan(self) -> bool:
        """Look at all of the inbox now; returns whether anything in it is new."""
        await self._inbox_thread.call(self._inbox.scan)
        return await self._inbox_thread.call(self._inbox.next_due) is not None

    def is_copying(self, path: str) -> bool:
        """Whether a large file of the inbox is being copied into the spool."""
        return self._inbox.is_copying(path)

    # -- in

    async def _take_in(self) -> None:
        inbox, in_thread = self._inbox, self._inbox_thread.call
        next_scan = 0.0
        while self.is_going():
            self._inbox_wake.clear()
            sightings = self.watcher.take_sightings()
            if sightings is None or time.monotonic() >= next_scan:
                await in_thread(self.watcher.follow_inbox)
                scan_started = time.monotonic()
                await in_thread(inbox.scan)
                spent = time.monotonic() - scan_started
                next_scan = time.monotonic() + max(self._settings.folder.scan, _SCAN_SHARE * spent)
            elif sightings:
                await in_thread(partial(inbox.look, sightings))
            while self.is_going() and await in_thread(inbox.settle) > 0:
                await in_thread(inbox.accept)
                self._outbox_wake.set()
            self._outbox_wake.set()  # a wrong settings file has its outcome without being accepted
            due = await in_thread(inbox.next_due)
            until = next_scan if due is None else min(next_scan, max(due, time.monotonic() + GATHER_S))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._inbox_wake.wait(), max(0.0, until - time.monotonic()))
                await asyncio.sleep(GATHER_S)

    # -- out

    def _job_ended(self, ended: JobEnded) -> None:
        if ended.waited or self._is_stopping:
            return  # a request's, of which nothing comes into the outbox
        self._ended_jobs.append(ended.job)
        self._outbox_wake.set()

    async def _deliver(self) -> None:
        in_thread = self._outbox_thread.call
        next_search, retry_at = 0.0, 0.0
        while self.is_going():
            self._outbox_wake.clear()
            while self._ended_jobs:
                jobs, self._ended_jobs = self._ended_jobs[:200], self._ended_jobs[200:]
                try:
                    await in_thread(partial(self._next_steps.follow_jobs, jobs))
                except BaseException:
                    self._ended_jobs = jobs + self._ended_jobs
                    raise
            if time.monotonic() >= next_search:
                search_started = time.monotonic()
                await self._follow_lost_jobs()
                spent = time.monotonic() - search_started
                interval_s = SHARED_JOBS_INTERVAL_S if self._store.is_shared else LOST_JOBS_INTERVAL_S
                next_search = time.monotonic() + max(interval_s, 2 * _SCAN_SHARE * spent)
            if time.monotonic() >= retry_at:
                is_delivered = await in_thread(lambda: self._outbox.deliver(self.is_going))
                retry_at = 0.0 if is_delivered else time.monotonic() + self._settings.folder.scan
            until = min(next_search, retry_at or next_search)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._outbox_wake.wait(), max(0.0, until - time.monotonic()))

    async def _follow_lost_jobs(self) -> None:
        after: int | None = 0
        while after is not None and self.is_going():
            after, _ = await self._outbox_thread.call(partial(self._next_steps.follow_lost_jobs, after))

    async def _find_missing_results(self) -> None:
        """At start: files that lie in the inbox and were done, but have no results in the outbox."""
        after: int | None = 0
        try:
            while after is not None and self.is_going():
                after, missing = await self._outbox_thread.call(partial(self._outbox.find_missing, after))
                if missing:
                    self._outbox_wake.set()
        except Exception:
            logger.exception("missing results were not looked for to the end")
