"""The tickets of jobs that have not ended, and how many clients wait for them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec

from batch.errors import NotFound
from batch.queue.frames import End
from batch.queue.hub.ticket import Ticket
from batch.queue.jobs import Kind, State
from batch.queue.store import WRITE_REFUSED, DamagedDatabase, Store


class OpenTickets:
    """One a hub. A job has one ticket here; whoever waits for it besides follows that one."""

    def __init__(self) -> None:
        self._tickets: dict[str, Ticket] = {}
        self._waiting = dict.fromkeys(Kind, 0)
        self._unwaited: set[str] = set()
        """Jobs with a ticket for which no client waits on a socket."""

    def get(self, job: str) -> Ticket | None:
        """A job's ticket."""
        return self._tickets.get(job)

    def add(self, ticket: Ticket, *, waited: bool = True) -> Ticket:
        """Keep a job's ticket; `waited`: a client waits for it on a socket."""
        self._tickets[ticket.id] = ticket
        if waited:
            self._waiting[ticket.kind] += 1
        else:
            self._unwaited.add(ticket.id)
        return ticket

    def remove(self, job: str) -> Ticket | None:
        """A job's ticket, which is not kept any longer."""
        ticket = self._tickets.pop(job, None)
        if ticket is not None and job not in self._unwaited:
            self._waiting[ticket.kind] -= 1
        self._unwaited.discard(job)
        return ticket

    def ids(self) -> list[str]:
        """The jobs that have a ticket."""
        return list(self._tickets)

    def of_kind(self, kind: Kind) -> list[Ticket]:
        """The tickets of one kind of job."""
        return [ticket for ticket in self._tickets.values() if ticket.kind is kind]

    def refuse(self, kind: Kind, error: msgspec.Raw, *, waited_only: bool = False) -> list[str]:
        """End one kind's tickets with an error, those on which a client waits or all; returns the ids of their jobs."""
        tickets = [ticket for ticket in self.of_kind(kind) if not (waited_only and ticket.id in self._unwaited)]
        for ticket in tickets:
            self.remove(ticket.id)
            ticket.push(End(job=ticket.id, state=State.FAILED, error=error))
        return [ticket.id for ticket in tickets]

    def waiting(self, kind: Kind) -> int:
        """How many clients wait for jobs of a kind."""
        return self._waiting[kind]

    def clear(self) -> list[Ticket]:
        """All tickets, none of which is kept any longer."""
        tickets = list(self._tickets.values())
        self._tickets.clear()
        self._unwaited.clear()
        self._waiting = dict.fromkeys(Kind, 0)
        return tickets


def cancel_jobs(store: Store, jobs: Iterable[str]) -> None:
    """Cancel jobs whose clients were refused. Where the disk takes that no more, the next start cancels them."""
    for job in jobs:
        with contextlib.suppress(NotFound, *WRITE_REFUSED, DamagedDatabase):
            store.cancel(job)
