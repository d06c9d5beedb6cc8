"""What homes that share a database send one another: JSON, told apart by "type"."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from batch.queue.frames import Ask, WorkerFrame

MAX_PACKET_BYTES = 7900
"""What fits into one NOTIFY, of which Postgres refuses 8,000 and more; an item that is larger is a packet of its own."""
_HEAD_BYTES = 100


class FromWorker(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True, tag_field="type", tag="frame"):
    """A worker's frame for the home that accepted its job, or that asked it something."""

    worker: str
    queue: str
    frame: WorkerFrame
    token: int = 0
    """Of the lease of the job that the frame is about."""
    number: int = 0
    """Counts the frames of a lease from 1: one that was seen is not believed again."""
    proof: str = ""
    """See batch/queue/remote/proof.py."""


class ForWorker(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ask"):
    """A question to a worker of the home that gets this; the answer goes to `home`."""

    home: Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z_-]{1,40}\Z")]
    """Its id: the database refuses a notification to any text, and with it all that goes to others at that moment."""
    worker: str
    queue: str
    ask: Ask


Item = FromWorker | ForWorker


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """Items of one sender in the order in which they were sent."""

    sender: str
    """Random at each start."""
    sequence: int
    """Counts the packets of a sender to one address from 1: a number that was seen comes twice, a missing one is lost."""
    items: list[Item]


class PacketWriter:
    """Numbers what one sender has for one address."""

    def __init__(self, sender: str) -> None:
        self.sender = sender
        self._sequence = 0

    def packets(self, items: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
        """(number, JSON of a Packet) of items that are JSON already, as many in each as fit."""
        for part in _parts(items):
            self._sequence += 1
            head = b'{"sender":"%s","sequence":%d,"items":[' % (self.sender.encode(), self._sequence)
            yield self._sequence, head + b",".join(part) + b"]}"


def _parts(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for item in items:
        if part and size + len(item) + 1 > MAX_PACKET_BYTES - _HEAD_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += len(item) + 1
    if part:
        yield part
