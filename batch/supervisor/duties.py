"""What only one of several services on a database may do, and until when it is this one."""

from __future__ import annotations

import asyncio
import logging

from batch.errors import AlreadyRunning
from batch.queue.hub.hub import Hub
from batch.queue.nodes import RENEWALS_PER_LEASE
from batch.queue.store import WRITE_REFUSED, Store

logger = logging.getLogger("batch.supervisor")


async def keep_duties(store: Store, hub: Hub) -> None:
    """Hold this service's duties until cancelled. Raises AlreadyRunning once another service has them, as this one was not
    heard of for too long."""
    while True:
        await asyncio.sleep(store.lease_s / RENEWALS_PER_LEASE)
        try:
            is_held = await hub.in_thread(store.hold_duties)
        except WRITE_REFUSED as error:
            logger.debug("the duties are renewed later: %s", error.message)
            continue
        if not is_held:
            raise AlreadyRunning(
                "Another service on this database has taken over the inbox and the batches, as this one was not heard of for "
                "long: start it again."
            )
