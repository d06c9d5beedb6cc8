"""Homes that share a database, joined in memory: what one sends arrives at the other at once, packed and unpacked."""

from __future__ import annotations

import msgspec

from batch.queue.jobs import Kind
from batch.queue.remote.channel import EVERY_FRONT, Receiver
from batch.queue.remote.packet import Item, Packet


class PlayedNetwork:
    """All channels of a test."""

    def __init__(self) -> None:
        self.channels: dict[str, PlayedChannel] = {}

    def channel(self, home: str) -> PlayedChannel:
        self.channels[home] = PlayedChannel(self, home)
        return self.channels[home]


class PlayedChannel:
    """One home's end; while it is losing, packets to it are numbered and never arrive; while it is repeating, those that
    it sends arrive twice."""

    def __init__(self, network: PlayedNetwork, home: str) -> None:
        self.network, self.home = network, home
        self.receiver: Receiver | None = None
        self.sequences: dict[str, int] = {}
        self.woken: list[set[Kind]] = []
        self.is_losing = False
        self.is_repeating = False

    def open(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def send(self, address: str, item: Item) -> None:
        number = self.sequences[address] = self.sequences.get(address, 0) + 1
        data = msgspec.json.encode(Packet(sender=f"{self.home}>{address}", sequence=number, items=[item]))
        for home, channel in self.network.channels.items():
            if address in (home, EVERY_FRONT) and channel.receiver and not channel.is_losing:
                for _ in range(2 if self.is_repeating else 1):
                    channel.receiver.packet(msgspec.json.decode(data, type=Packet))

    def wake(self, kinds: set[Kind]) -> None:
        self.woken.append(kinds)

    def close(self) -> None:
        self.receiver = None
