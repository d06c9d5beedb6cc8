"""How packets and wake-ups get from home to home: a Protocol, so that nobody knows what carries them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from batch.queue.remote.packet import Item, Packet

EVERY_FRONT = "fronts"
"""The address of all services at once; a home's own is its id."""


@dataclass(frozen=True, slots=True)
class Receiver:
    """What a channel calls, from threads of its own."""

    packet: Callable[[Packet], None]
    wake: Callable[[str], None]
    """Something was queued, or a job was cancelled."""
    reconnected: Callable[[], None]
    """Packets may have been lost."""


class Channel(Protocol):
    """Nothing here blocks or raises for want of a connection: what is sent meanwhile waits, up to a bound."""

    def open(self, receiver: Receiver) -> None:
        """Begin to receive. Raises StoreAway where no connection can be made at the start."""
        ...

    def send(self, address: str, item: Item) -> None:
        """Send to a home or to all fronts; in order for one address, gathered for some milliseconds."""
        ...

    def wake(self, queues: set[str]) -> None:
        """Let the workers of these queues look, wherever they are. A lost wake-up costs two seconds."""
        ...

    def close(self) -> None: ...
