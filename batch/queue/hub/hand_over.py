"""Hands workers the jobs that were leased to them as they were accepted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from batch.errors import BatchError
from batch.payloads.json_text import encode
from batch.queue.channel import Waker
from batch.queue.frames import End
from batch.queue.hub.open_tickets import OpenTickets
from batch.queue.jobs import Lease, State
from batch.queue.store import Store


class HandOver:
    """One a hub, on its event loop."""

    def __init__(
        self, store: Store, in_thread: Callable[[Callable[[], None]], Awaitable[None]], waker: Waker, tickets: OpenTickets
    ) -> None:
        """`in_thread` is the hub's, which uses `store` there."""
        self._store, self._in_thread = store, in_thread
        self._waker = waker
        self._tickets = tickets
        self._put_backs: set[asyncio.Task[None]] = set()

    def hand(self, worker: str, lease: Lease) -> None:
        """Give a worker a job that is leased to it; one that cannot be reached finds it in its queue."""
        if not self._waker.hand(worker, lease):
            task = asyncio.get_running_loop().create_task(self._put_back(lease))
            self._put_backs.add(task)
            task.add_done_callback(self._put_backs.discard)

    async def _put_back(self, lease: Lease) -> None:
        """Put a job into its queue that its worker has not heard of. Where the database takes that no more its client is told
        so: nobody would do the job before the worker has ended."""
        try:
            await self._in_thread(lambda: self._store.put_back(lease, count=False, durable=False))
        except BatchError as error:
            if ticket := self._tickets.remove(lease.job.id):
                ticket.push(End(job=ticket.id, state=State.FAILED, error=msgspec.Raw(encode(error.record()))))
