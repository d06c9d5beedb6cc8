"""A hub of a home of its own, without workers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from batch.queue.hub.hub import Hub
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings


@contextlib.asynccontextmanager
async def opened_hub(home: Path) -> AsyncIterator[Hub]:
    """The hub of a new home, closed with its store when the block is left."""
    settings = Settings(home=home)
    settings.state_dir.mkdir()
    store = open_store(settings.database_address, home=settings.home)
    hub = Hub(store, Spool(settings.state_dir / "spool"), settings.state_dir)
    try:
        yield hub
    finally:
        await hub.close()
        store.close()
