"""A client that waits on its socket: when it hangs up, its job ends."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from fastapi import Request

from batch.api.http.connection import connection_of
from batch.payloads.job_payload import Result
from batch.queue.hub.ticket import Ticket

R = TypeVar("R", bound=Result)


async def result_for_client(request: Request, ticket: Ticket, type: type[R]) -> R:
    """Wait for a job's result as a struct of `type`. Cancels the job when the client disconnects, and raises Cancelled then;
    also when this is left before the job has ended.

    The request's body must have been read.
    """
    connection = connection_of(request.scope)
    cancellations: list[asyncio.Task[None]] = []  # the loop keeps no task alive

    def cancel() -> None:
        cancellations.append(asyncio.create_task(ticket.cancel()))

    if connection is not None:
        connection.listen(cancel)
    try:
        return await ticket.result(type)
    finally:
        if connection is not None:
            connection.forget(cancel)
        if not ticket.ended:
            # Shielded: this may be left because this very task is cancelled.
            await asyncio.shield(ticket.cancel())
