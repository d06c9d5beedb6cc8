"""The tickets of jobs that have not ended, and how many clients wait for them."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable

import msgspec

from batch.errors import NotFound
from batch.queue.frames import End
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Draft, State
from batch.queue.store import WRITE_REFUSED, DamagedDatabase, Store


class OpenTickets:
    """One a hub. A job has one ticket here; whoever waits for it besides follows that one."""

    def __init__(self, *, keeps_drafts: bool = False) -> None:
        """`keeps_drafts`: the database may lose its last second, or more when a standby takes over that was behind."""
        self._keeps_drafts = keeps_drafts
        self._tickets: dict[str, Ticket] = {}
        self._waiting: Counter[str] = Counter()
        self._unwaited: set[str] = set()
        """Jobs with a ticket for which no client waits on a socket."""

    def get(self, job: str) -> Ticket | None:
        """A job's ticket."""
        return self._tickets.get(job)

    def add(self, ticket: Ticket, *, waited: bool = True) -> Ticket:
        """Keep a job's ticket; `waited`: a client waits for it on a socket."""
        self._tickets[ticket.id] = ticket
        if waited:
            self._waiting[ticket.queue] += 1
        else:
            self._unwaited.add(ticket.id)
        return ticket

    def keep_drafts(self, *drafts: Draft) -> None:
        """These were accepted: they can be submitted again, as long as they have a ticket."""
        for draft in drafts if self._keeps_drafts else ():
            if ticket := self._tickets.get(draft.id):
                ticket.draft = draft

    def remove(self, job: str) -> Ticket | None:
        """A job's ticket, which is not kept any longer."""
        ticket = self._tickets.pop(job, None)
        if ticket is not None and job not in self._unwaited:
            self._waiting[ticket.queue] -= 1
        self._unwaited.discard(job)
        return ticket

    def ids(self) -> list[str]:
        """The jobs that have a ticket."""
        return list(self._tickets)

    def of_queue(self, queue: str) -> list[Ticket]:
        """The tickets of one queue."""
        return [ticket for ticket in self._tickets.values() if ticket.queue == queue]

    def refuse(self, queue: str, error: msgspec.Raw, *, waited_only: bool = False) -> list[str]:
        """End one queue's tickets with an error, those on which a client waits or all; returns the ids of their jobs."""
        tickets = [ticket for ticket in self.of_queue(queue) if not (waited_only and ticket.id in self._unwaited)]
        for ticket in tickets:
            self.remove(ticket.id)
            ticket.push(End(job=ticket.id, state=State.FAILED, error=error))
        return [ticket.id for ticket in tickets]

    def waiting(self, queue: str) -> int:
        """How many clients wait for jobs of a queue."""
        return self._waiting[queue]

    def clear(self) -> list[Ticket]:
        """All tickets, none of which is kept any longer."""
        tickets = list(self._tickets.values())
        self._tickets.clear()
        self._unwaited.clear()
        self._waiting = Counter()
        return tickets


def cancel_jobs(store: Store, jobs: Iterable[str]) -> None:
    """Cancel jobs whose clients were refused. Where the disk takes that no more, the next start cancels them."""
    for job in jobs:
        with contextlib.suppress(NotFound, *WRITE_REFUSED, DamagedDatabase):
            store.cancel(job)
