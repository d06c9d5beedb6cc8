"""Packets and wake-ups between homes by NOTIFY: what is its own, beside what every carrier promises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from batch.payloads.json_text import decode, encode
from batch.payloads.questions import Detokenize
from batch.queue.frames import Ask
from batch.queue.jobs import Kind
from batch.queue.postgres.channel import Connection, PostgresChannel
from batch.queue.remote.channel import EVERY_FRONT
from batch.queue.remote.packet import Packet
from ears import Ears, question, word

pytestmark = pytest.mark.postgres


@contextlib.contextmanager
def channel_of(url: str, home: str, *, is_front: bool = True) -> Iterator[tuple[Ears, PostgresChannel]]:
    channel, ears = PostgresChannel(url, home, is_front=is_front), Ears()
    channel.open(ears.receiver())
    try:
        yield ears, channel
    finally:
        channel.close()


def test_many_words_go_in_one_notification_and_each_packet_has_the_next_number(url: str) -> None:
    with channel_of(url, "a") as (ears, _), channel_of(url, "b", is_front=False) as (_, channel):
        for number in range(500):
            channel.send("a", word(f"word {number}"))
        ears.wait(lambda: len(ears.texts()) == 500, "all of it")
        numbers = [packet.sequence for packet in ears.packets]
        assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) < 100


def test_all_fronts_hear_what_is_for_all_and_every_home_is_woken(url: str) -> None:
    with (
        channel_of(url, "a") as (a, one),
        channel_of(url, "b") as (b, channel),
        channel_of(url, "c", is_front=False) as (c, _),
    ):
        channel.send(EVERY_FRONT, word("all"))
        one.wake({Kind.STT})
        for ears in (a, b, c):
            ears.wait(lambda ears=ears: Kind.STT in ears.woken, "woken")
        for ears in (a, b):
            ears.wait(ears.texts, "told")
        assert c.texts() == []


def test_who_asks_gives_the_id_of_a_home_and_nothing_that_the_database_refuses_as_an_address() -> None:
    packet = b'{"sender":"s","sequence":1,"items":[%s]}'
    asked = encode(question("0" * 16, Ask(number=1, question=Detokenize(tokens=[1]))))
    decode(packet % asked, Packet)
    for home in (b"", b"x" * 64, b"a b", b"0\\n"):
        with pytest.raises(msgspec.ValidationError):
            decode(packet % asked.replace(b"0" * 16, home), Packet)


def test_a_machine_that_may_not_look_for_ports_yet_stays_connected_and_says_so_once(
    url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.queue.postgres.channel._RETRY_S", 0.01)
    looks: list[None] = []

    def look(conn: Connection) -> None:
        looks.append(None)
        conn.execute("select no_such_function()")

    channel, ears = PostgresChannel(url, "a", is_front=True), Ears()
    channel.chore = look
    channel.open(ears.receiver())
    try:
        for number in range(3):
            channel.send("a", word(f"{number}"))
            ears.wait(lambda number=number: len(ears.texts()) > number, "heard nevertheless")
        ears.wait(lambda: len(looks) >= 3, "it looks again")
    finally:
        channel.close()
    assert ears.reconnections == 0
    assert len([record for record in caplog.records if "no_such_function" in record.getMessage()]) == 1
