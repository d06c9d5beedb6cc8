"""Which packets have arrived: one may come on two ways, or again where its sender does not know that it has."""

from __future__ import annotations

from batch.queue.latest import Latest
from batch.queue.remote.packet import Packet


class ArrivedPackets:
    """By sender the number of the last packet, of those that were heard of last."""

    def __init__(self) -> None:
        self._last = Latest[str, int]()

    def last(self, sender: str) -> int:
        """The number of the last packet of a sender; 0: none has come."""
        return self._last.get(sender, 0)

    def add(self, packet: Packet) -> bool:
        """Note a packet; returns False for one that has come before."""
        if packet.sequence <= self.last(packet.sender):
            return False
        self._last[packet.sender] = packet.sequence
        return True
