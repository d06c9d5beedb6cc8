"""Packets and wake-ups between homes by NOTIFY."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from batch.payloads.chat import MessageDelta
from batch.payloads.events import Delta
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store
from batch.queue.remote.channel import EVERY_FRONT, Receiver
from batch.queue.remote.packet import FromWorker, Packet
from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres


class Ears:
    """What arrived at one home."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.woken: list[Kind] = []
        self.reconnections = 0
        self.changed = threading.Condition()

    def receiver(self) -> Receiver:
        return Receiver(lambda packet: self.note(self.packets.append, packet), self.note_wake, self.note_reconnection)

    def note(self, work: Callable[[Packet], None], packet: Packet) -> None:
        with self.changed:
            work(packet)
            self.changed.notify_all()

    def note_wake(self, kind: Kind) -> None:
        with self.changed:
            self.woken.append(kind)
            self.changed.notify_all()

    def note_reconnection(self) -> None:
        with self.changed:
            self.reconnections += 1
            self.changed.notify_all()

    def wait(self, is_so: Callable[[], object], what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(is_so, 30), what

    def texts(self) -> list[str | None]:
        items = [item for packet in self.packets for item in packet.items]
        return [i.frame.delta.content for i in items if isinstance(i, FromWorker) and isinstance(i.frame, Delta)]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    open_store(url).close()
    yield url
    postgres_server.empty_database(url)


@contextlib.contextmanager
def open_channel(url: str, home: str, *, is_front: bool = True) -> Iterator[tuple[Ears, Callable[[str, str], None], object]]:
    from batch.queue.postgres.channel import PostgresChannel

    channel, ears = PostgresChannel(url, home, is_front=is_front), Ears()
    channel.open(ears.receiver())

    def say(address: str, text: str) -> None:
        channel.send(address, FromWorker(worker="w", queue=Kind.VLM, frame=Delta(job="j", delta=MessageDelta(content=text))))

    try:
        yield ears, say, channel
    finally:
        channel.close()


def test_what_is_sent_to_a_home_arrives_there_in_order_and_whole_however_large_it_is(url: str) -> None:
    with open_channel(url, "a") as (a, _, _), open_channel(url, "b", is_front=False) as (b, say, _):
        texts = [f"word {n}" for n in range(500)] + ["é" * 300_000] + ["last"]
        for text in texts:
            say("a", text)
        a.wait(lambda: len(a.texts()) == len(texts), "all of it")
        assert a.texts() == texts and b.texts() == []
        numbers = [packet.sequence for packet in a.packets]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) < 100, "many words in one notification"


def test_all_fronts_hear_what_is_for_all_and_every_home_is_woken(url: str) -> None:
    with (
        open_channel(url, "a") as (a, _, one),
        open_channel(url, "b") as (b, say, _),
        open_channel(url, "c", is_front=False) as (c, _, _),
    ):
        say(EVERY_FRONT, "all")
        one.wake({Kind.STT})  # type: ignore[attr-defined]
        for ears in (a, b, c):
            ears.wait(lambda ears=ears: Kind.STT in ears.woken, "woken")
        for ears in (a, b):
            ears.wait(ears.texts, "told")
        assert c.texts() == []


def test_after_the_database_was_killed_homes_hear_one_another_again_and_know_that_something_may_be_lost(
    url: str, postgres_server: PostgresServer
) -> None:
    with open_channel(url, "a") as (a, _, _), open_channel(url, "b") as (_, say, _):
        say("a", "before")
        a.wait(a.texts, "it works")
        postgres_server.kill()
        say("a", "while it is away")
        time.sleep(0.1)
        postgres_server.start()
        a.wait(lambda: a.reconnections == 1, "heard again")
        assert set(a.woken) == set(Kind), "first listen, then look"
        for n in range(100):
            say("a", f"after {n}")
            if any(str(text).startswith("after") for text in a.texts()):
                break
            time.sleep(0.1)
        assert any(str(text).startswith("after") for text in a.texts())
