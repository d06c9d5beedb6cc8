"""What others send makes nothing grow without end: names of senders, of homes, and of jobs whose end nobody tells."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from batch.payloads.events import Started
from batch.queue.jobs import Kind
from batch.queue.latest import MAX_LATEST, Latest
from batch.queue.remote.arrived_packets import ArrivedPackets
from batch.queue.remote.packet import Packet
from batch.queue.remote.relay import Relay
from batch.queue.remote.worker_port import channel as stream_channel
from batch.queue.remote.worker_port.channel import StreamChannel
from batch.queue.remote.worker_port.line import Line
from batch.queue.remote.worker_port.stream import Stream
from played_channel import PlayedNetwork


def test_what_was_set_longest_ago_goes_for_what_is_new() -> None:
    latest = Latest[str, int](3)
    for number, key in enumerate(["a", "b", "c", "a", "d"]):
        latest[key] = number
    assert dict(latest) == {"c": 2, "a": 3, "d": 4}


def test_a_packet_counts_as_new_once_however_many_senders_there_have_been() -> None:
    arrived = ArrivedPackets()
    first = Packet(sender="first", sequence=7, items=[])
    assert arrived.add(first) and not arrived.add(first)
    for number in range(MAX_LATEST - 1):
        assert arrived.add(Packet(sender=f"sender {number}", sequence=1, items=[]))
    assert arrived.last("first") == 7 and not arrived.add(first)
    assert arrived.add(Packet(sender="last", sequence=1, items=[])) and arrived.last("first") == 0


def test_jobs_whose_worker_died_are_not_remembered_for_ever() -> None:
    async def answer(*_: object) -> Any:
        raise NotImplementedError

    relay = Relay(PlayedNetwork().channel("machine"), "machine", answer)
    for number in range(MAX_LATEST + 10):
        assert relay.forward(Kind.VLM, Started(job=str(number), token=1, front="front"), "w1")
    assert len(relay._routes) == MAX_LATEST


def test_homes_that_are_written_to_no_more_make_room_and_those_with_a_stream_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_channel, "MAX_PEERS", 5)
    database: Any = None
    channel = StreamChannel(database, "f" * 16, 30.0)
    try:
        joined, written = channel._peer("joined"), channel._peer("written")
        stream: Any = object()
        joined._streams.append(stream)
        for number in range(20):
            channel._peer(str(number))
            assert channel._peer("written") is written
        assert channel._peer("joined") is joined
        assert list(channel._peers) == ["17", "18", "19", "written", "joined"]
    finally:
        channel._loop.close()
        channel._lookups.shutdown()


def test_a_home_that_is_written_to_is_known_at_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one thread writes to it another wakes all homes."""
    database: Any = None
    channel = StreamChannel(database, "f" * 16, 30.0)
    known: list[bool] = []

    class Watched(type(channel._peers)):  # type: ignore[misc]
        def __setitem__(self, key: str, value: Any) -> None:
            known.append("written" in self)
            super().__setitem__(key, value)

        def move_to_end(self, key: str, last: bool = True) -> None:
            super().move_to_end(key, last)
            known.append("written" in self)

    try:
        written = channel._peer("written")
        monkeypatch.setattr(channel, "_peers", Watched(channel._peers))
        known.clear()
        assert channel._peer("written") is written
        assert known and all(known)
    finally:
        channel._loop.close()
        channel._lookups.shutdown()


def test_what_is_yet_to_be_acknowledged_to_a_peer_that_does_not_read_has_a_bound() -> None:
    writer: Any = SimpleNamespace(transport=SimpleNamespace(is_closing=lambda: True))
    reader: Any = None

    async def play() -> int:
        stream = Stream(reader, writer, "home", Line(), "them")
        for number in range(MAX_LATEST + 10):
            stream.acknowledge(f"sender {number}", 1)
        return len(stream._acknowledgements)

    assert asyncio.run(play()) == MAX_LATEST
