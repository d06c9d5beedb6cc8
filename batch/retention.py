"""Keeping the home tidy: ended jobs past their days, files that left the inbox with them, spool files nobody refers to,
pages the database no longer uses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

from batch.batches.file_store import FileStore
from batch.conversations.response_store import ResponseStore
from batch.errors import DiskFull
from batch.folder.ledger_retention import LedgerRetention
from batch.queue.hub import Hub
from batch.queue.jobs import Origin
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings

logger = logging.getLogger("batch.retention")

EVERY = 60.0
"""Seconds between two sweeps."""
SPARE = 1000
"""Free pages that stay in the database, for the jobs to come."""
FRESH = 60.0
"""A spool file younger than this may belong to a job that is just being submitted."""
JUMP = 60.0
"""Seconds that wall clock and running time may drift apart between two sweeps without its being a jump."""
DOUBT = 3600.0
"""Seconds after a jump of the clock during which nothing is judged by its age: whoever set it may set it back."""
LOST = 3600.0
"""A spool file older than this without any job was left by a submit that a crash cut short."""
WALK = 3600.0
"""Seconds between two walks along all that is known of the inbox, and all of the spool."""


class Retention:
    """Runs beside the servers; every step is short, so that it never holds the store for long."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self._settings = settings
        self._hub = hub
        self._clock = Clock()

    async def run(self) -> None:
        walk = 0.0
        while True:
            try:
                if not self._clock.trusted():
                    logger.warning("the clock was set: nothing is deleted for its age for %.0f minutes", DOUBT / 60)
                else:
                    await self._sweep()
                    if _running() >= walk:
                        await self._sweep_lost()  # a request may be refused after its upload, or only counted
                        await self._forget()
                        walk = _running() + WALK
            except DiskFull as error:
                logger.error("the sweep failed: %s", error.message)
            except Exception:
                logger.exception("the sweep failed; the next one comes in %.0f seconds", EVERY)
            await asyncio.sleep(EVERY)

    async def _forget(self) -> None:
        before = deadlines(self._settings).get(Origin.INBOX)
        if before is None:
            return
        slices = forget(LedgerRetention(self._hub.store), before)
        while await self._hub.in_thread(lambda: next(slices, None)) is not None:
            await asyncio.sleep(0.01)

    async def _sweep_lost(self) -> None:
        store, spool = self._hub.store, self._hub.spool
        for slice in await asyncio.to_thread(spool.slices):
            # One slice after another: callers submit through the same thread.
            await self._hub.in_thread(lambda slice=slice: sweep_lost(store, spool, slice))  # type: ignore[misc]
            await asyncio.sleep(0.01)

    async def _sweep(self) -> None:
        hub = self._hub
        for origin, before in deadlines(self._settings).items():
            while await hub.in_thread(lambda origin=origin, before=before: hub.store.expire(origin, before)):  # type: ignore[misc]
                await asyncio.sleep(0.01)
        files = FileStore(hub.store)
        for delete_expired in (files.delete_expired, ResponseStore(hub.store).delete_expired):
            while await hub.in_thread(delete_expired):
                await asyncio.sleep(0.01)
        while await hub.in_thread(lambda: sweep_orphans(hub.store, hub.spool)):
            await asyncio.sleep(0.01)
        while await hub.in_thread(lambda: hub.store.vacuum(keep=SPARE)):
            await asyncio.sleep(0.01)


class Clock:
    """Notices when the wall clock is set while the service runs; a machine that slept is no jump."""

    def __init__(self) -> None:
        self._offset = self._now()
        self._doubt_until = 0.0

    @staticmethod
    def _now() -> float:
        """Wall clock minus running time."""
        return time.time() - _running()

    def trusted(self) -> bool:
        """Whether ages can be told from the wall clock."""
        offset = self._now()
        if abs(offset - self._offset) > JUMP:
            self._doubt_until = _running() + DOUBT
        self._offset = offset
        return _running() >= self._doubt_until


def _running() -> float:
    """Seconds that the machine has run, sleep included where the system counts it."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def deadlines(settings: Settings) -> dict[Origin, float]:
    """Unix time before which an origin's ended jobs go; origins that are kept for ever are absent."""
    days = settings.retention.model_dump()
    now = time.time()
    return {origin: now - days[origin] * 86400 for origin in Origin if days[origin] > 0}


def forget(ledger: LedgerRetention, before: float) -> Iterator[int]:
    """Forget, a slice at each step, files that left the inbox and whose jobs are gone; yields how many went."""
    for one, counted in ((ledger.forget_files, 1), (ledger.forget_contents, 0)):
        after: int | None = 0
        while after is not None:
            after, gone = one(after, before)
            yield gone * counted


def sweep_orphans(store: Store, spool: Spool, *, fresh: float = FRESH, limit: int = 200) -> int:
    """Delete spool files that lost their last reference; returns how many went."""
    gone = [name for name in store.orphans(limit) if not store.referred(name) and spool.remove(name, older_than=fresh)]
    store.forget_orphans(gone)
    return len(gone)


def sweep_lost(store: Store, spool: Spool, slice: str | None = None, *, older_than: float = LOST) -> int:
    """Delete spool files that no job ever referred to, of one slice of the spool or of all; returns how many went."""
    spool.sweep_temporary(older_than=older_than)
    return sum(spool.remove(name, older_than=older_than) for name in list(spool.names(slice)) if not store.referred(name))
