"""Keeping the home tidy: ended jobs past their days, spool files nobody refers to, pages the database no longer uses."""

from __future__ import annotations

import asyncio
import logging
import time

from batch.queue.hub import Hub
from batch.queue.jobs import Origin
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.settings import Settings

logger = logging.getLogger("batch.retention")

EVERY = 60.0
"""Seconds between two sweeps."""
FRESH = 60.0
"""A spool file younger than this may belong to a job that is just being submitted."""
LOST = 3600.0
"""A spool file older than this without any job was left by a submit that a crash cut short."""


class Retention:
    """Runs beside the servers; every step is short, so that it never holds the store for long."""

    def __init__(self, settings: Settings, hub: Hub) -> None:
        self._settings = settings
        self._hub = hub

    async def run(self) -> None:
        await self._hub.in_thread(lambda: sweep_lost(self._hub.store, self._hub.spool))
        while True:
            try:
                await self._sweep()
            except Exception:
                logger.exception("the sweep failed; the next one comes in %.0f seconds", EVERY)
            await asyncio.sleep(EVERY)

    async def _sweep(self) -> None:
        hub = self._hub
        for origin, before in deadlines(self._settings).items():
            while await hub.in_thread(lambda origin=origin, before=before: hub.store.expire(origin, before)):  # type: ignore[misc]
                await asyncio.sleep(0.01)
        while await hub.in_thread(lambda: sweep_orphans(hub.store, hub.spool)):
            await asyncio.sleep(0.01)
        await hub.in_thread(hub.store.vacuum)


def deadlines(settings: Settings) -> dict[Origin, float]:
    """Unix time before which an origin's ended jobs go; origins that are kept for ever are absent."""
    days = settings.retention.model_dump()
    now = time.time()
    return {origin: now - days[origin] * 86400 for origin in Origin if days[origin] > 0}


def sweep_orphans(store: Store, spool: Spool, *, fresh: float = FRESH, limit: int = 200) -> int:
    """Delete spool files that lost their last reference; returns how many went."""
    gone = [name for name in store.orphans(limit) if not store.referred(name) and spool.remove(name, older_than=fresh)]
    store.forget_orphans(gone)
    return len(gone)


def sweep_lost(store: Store, spool: Spool, *, older_than: float = LOST) -> int:
    """Delete spool files that no job ever referred to; returns how many went."""
    spool.sweep_temporary(older_than=older_than)
    return sum(spool.remove(name, older_than=older_than) for name in list(spool.names()) if not store.referred(name))
