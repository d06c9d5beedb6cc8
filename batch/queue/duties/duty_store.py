"""Duties: what only one of the services that share a database does, held for a time by the one that asked first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from batch.queue.full_text.search_tables import Statements
    from batch.queue.selection.inbox_scope import InboxScope

COMMON_DUTY = "duties"
"""Running batches, sending notifications, deleting what is past its time, and what silent fronts have left."""
_INBOX, _FRONT = "inbox ", "front "


def inbox_duty(inbox: str) -> str:
    """The duty of watching an inbox, by its id."""
    return _INBOX + inbox


def presence_of(front: str) -> str:
    """What a front holds for as long as it lives."""
    return _FRONT + front


def front_of(presence: str) -> str:
    """Whose presence that is."""
    return presence.removeprefix(_FRONT)


class DutyStore(Protocol):
    """The part of a store by which services live beside one another."""

    @property
    def is_shared(self) -> bool:
        """Whether other services and workers of other machines may use the database too."""
        ...

    @property
    def lease_s(self) -> float:
        """How many seconds a lease lasts unless it is renewed: the same for all who share the database's address."""
        ...

    @property
    def front(self) -> str:
        """The service that jobs are accepted for; empty where there is only one."""
        ...

    @property
    def inbox_scope(self) -> InboxScope:
        """Which rows of the folder's tables belong to this home's inbox."""
        ...

    def hold(self, duties: Sequence[str]) -> dict[str, bool]:
        """Those of the duties that this front has, for `lease_s` from now on, and of each whether it was the last to have it
        before, too. A front keeps what it asks for in time, and gets what its holder has not asked for in so long; it has all
        where its home has the database to itself."""
        ...

    def release(self, duties: Sequence[str]) -> None:
        """Another front may have them at once."""
        ...

    def confirm(self, transaction: Statements, duty: str) -> None:
        """Let a transaction stand only if this front has a duty until it ends. Raises DutyLost."""
        ...

    def silent_fronts(self, silence_s: float = 0.0) -> list[str]:
        """Other fronts that were stopped, or whose presence ended `silence_s` seconds ago or earlier."""
        ...

    def forget_fronts(self, fronts: Iterable[str]) -> None:
        """Nothing of these fronts is left to look after, unless they came back."""
        ...
