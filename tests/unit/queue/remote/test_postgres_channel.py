"""Packets and wake-ups between homes by NOTIFY: what is its own, beside what every carrier promises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from batch.queue.jobs import Kind
from batch.queue.postgres.channel import PostgresChannel
from batch.queue.remote.channel import EVERY_FRONT
from ears import Ears, word

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
