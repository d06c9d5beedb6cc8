"""What is known of a request's connection beyond ASGI, which tells it only to who waits: with a task, or with a timer."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Scope

CONNECTION = "connection"
"""Where a request's state has it."""


class ClientConnection:
    """One a connection, kept by the protocol."""

    def __init__(self) -> None:
        self.has_whole_body = False
        """Whether the body of the request that came last has arrived, and so those of all before it."""
        self._is_lost = False
        self._listeners: set[Callable[[], None]] = set()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` once when the client has hung up, now if it has already."""
        if self._is_lost:
            listener()
        else:
            self._listeners.add(listener)

    def forget(self, listener: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.discard(listener)

    def lost(self) -> None:
        """The client has hung up."""
        self._is_lost = True
        listeners, self._listeners = self._listeners, set()
        for listener in listeners:
            listener()


def connection_of(scope: Scope) -> ClientConnection | None:
    """The connection of a request; None where it came over none, as in a test."""
    connection: ClientConnection | None = scope["state"].get(CONNECTION)
    return connection
