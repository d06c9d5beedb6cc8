"""What services that are not heard of any more have left to do: another goes on with it."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from batch.api.responses.background import BackgroundResponses
from batch.conversations.response_store import ResponseStore
from batch.queue.hub.hub import Hub
from batch.queue.nodes import RENEWALS_PER_LEASE
from batch.queue.store import WRITE_REFUSED

logger = logging.getLogger("batch.supervisor")

FORGET_FRONT_AFTER_S = 600.0
"""A service that was silent for so long does not come back to its clients: what they waited for is cancelled, as it is at once
for one that was stopped."""


class SilentFronts:
    """Runs where the common duty is, on the hub's event loop."""

    def __init__(self, hub: Hub, background: BackgroundResponses) -> None:
        self._hub, self._background = hub, background

    async def run(self) -> None:
        """Look after them until cancelled."""
        while True:
            try:
                await self._look()
            except WRITE_REFUSED as error:
                logger.debug("silent services are looked for later: %s", error.message)
            except Exception:
                logger.exception("what silent services have left could not be taken up; it is tried again")
            await asyncio.sleep(self._hub.store.lease_s / RENEWALS_PER_LEASE)

    async def _look(self) -> None:
        store, in_thread = self._hub.store, self._hub.in_thread
        for front in await in_thread(store.silent_fronts):
            await self._background.adopt(front)
        for front in await in_thread(partial(store.silent_fronts, FORGET_FRONT_AFTER_S)):
            abandoned = await in_thread(partial(store.abandon_waited, front))
            await in_thread(partial(ResponseStore(store).abandon_foreground, front))
            await in_thread(partial(store.forget_fronts, [front]))
            if abandoned:
                logger.warning("%d requests whose clients went down with another service are cancelled", abandoned)
