"""A client that waits on its socket: when it hangs up, its job ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import Request

from batch.queue.hub.ticket import Ticket


@contextlib.asynccontextmanager
async def cancel_on_disconnect(request: Request, ticket: Ticket) -> AsyncIterator[Ticket]:
    """Cancel the job when the client disconnects, or when the block is left before the job has ended.

    The request's body must have been read. After a disconnect the block goes on: `ticket.result()` raises Cancelled.
    """
    watcher = asyncio.create_task(_watch(request, ticket))
    try:
        yield ticket
    finally:
        watcher.cancel()
        if not ticket.ended:
            # Shielded: the block may be left because this very task is cancelled.
            await asyncio.shield(ticket.cancel())


async def _watch(request: Request, ticket: Ticket) -> None:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            break
    await ticket.cancel()
