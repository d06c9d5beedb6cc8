"""A client's hold on its job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

from batch.payloads.events import Delta, SegmentEnded, Started
from batch.payloads.job_payload import Result
from batch.queue.frames import End, TicketEvent
from batch.queue.jobs import Draft, State
from batch.queue.store import StoreAway

R = TypeVar("R", bound=Result)


class JobAccess(Protocol):
    """What a ticket needs of the hub."""

    async def outcome(self, job: str, type: type[R], end: End | None = None) -> R: ...

    async def jobs_ahead(self, job: str) -> int: ...

    async def cancel(self, job: str) -> State: ...

    def cancel_later(self, job: str) -> None: ...

    def is_shared(self, ticket: Ticket) -> bool: ...


class Ticket:
    """The events of a job, its result, and the means to cancel it."""

    def __init__(self, hub: JobAccess, job: str, queue: str) -> None:
        self._hub = hub
        self.id = job
        self.queue = queue
        self.created = time.monotonic()
        self.ended = False
        self.is_started = False
        """Whether a Started was pushed: a second one means that the job runs again."""
        self.draft: Draft | None = None
        """What was submitted, where the database may lose its last second: it can be submitted again."""
        self._events: list[TicketEvent] = []
        self._arrived = asyncio.Event()
        self._followers: list[Ticket] = []

    def add_follower(self, ticket: Ticket) -> None:
        """Another client sent the same request under its Idempotency-Key: it gets this job's later events too."""
        self._followers.append(ticket)

    def is_awaited_besides(self, ticket: Ticket) -> bool:
        """Whether this ticket or one of its followers, other than `ticket`, still waits for the job."""
        return any(other is not ticket and not other.ended for other in (self, *self._followers))

    def push(self, event: TicketEvent) -> None:
        """Hand an event of the job to whoever reads this ticket, and to its followers."""
        if self._followers and not isinstance(event, (Delta, SegmentEnded)):
            for follower in self._followers:  # they came too late for the first deltas: the result has all
                follower.push(event)
        if self.ended:
            return  # this client gave up, while followers wait on
        if isinstance(event, End):
            self.ended = True
        elif isinstance(event, Started):
            self.is_started = True
        self._events.append(event)
        self._arrived.set()

    async def bursts(self) -> AsyncIterator[list[TicketEvent]]:
        """The job's events until its End, which comes last; those that are there at once come in one list."""
        while True:
            if self._events:
                burst, self._events = self._events, []
                yield burst
                if isinstance(burst[-1], End):
                    return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    async def events(self) -> AsyncIterator[TicketEvent]:
        """The job's events one by one until its End, which comes last."""
        async for burst in self.bursts():
            for event in burst:
                yield event

    async def result(self, type: type[R]) -> R:
        """Wait for the end; the result as a struct of `type`, or the job's error raised (Cancelled when it was cancelled)."""
        # Not by way of `bursts`: an asynchronous generator that is left before its end costs the loop two more turns.
        while True:
            last = self._events[-1] if self._events else None
            if isinstance(last, End):
                return await self._hub.outcome(self.id, type, last)
            self._events.clear()
            self._arrived.clear()
            await self._arrived.wait()

    async def ahead(self) -> int:
        """How many jobs stand before this one in its queue."""
        return await self._hub.jobs_ahead(self.id)

    async def cancel(self) -> None:
        """Stop the job: at once when queued, at its next yield point when running; where the database is away, as soon as that
        is back. Harmless when it has ended, or when another client waits for it too."""
        if self.ended:
            return
        if self._hub.is_shared(self):
            self.ended = True
            self._events.append(End(job=self.id, state=State.CANCELLED))
            self._arrived.set()
        else:
            try:
                await self._hub.cancel(self.id)
            except StoreAway:
                self._hub.cancel_later(self.id)
