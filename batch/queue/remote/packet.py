"""What homes that share a database send one another: JSON, told apart by "type"."""

from __future__ import annotations

import msgspec

from batch.queue.frames import Ask, WorkerFrame


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

    home: str
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
