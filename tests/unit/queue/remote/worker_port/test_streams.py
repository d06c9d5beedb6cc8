"""Words between a machine and a front by a stream of their own: cut, away and back, without one twice and without one lost."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterator

import pytest

from batch.queue.jobs import Kind
from batch.queue.remote.channel import EVERY_FRONT
from cut_line import CutLine
from ears import until, word
from played_homes import PlayedHome, counted
from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres
Home = Callable[..., PlayedHome]


@pytest.fixture
def line() -> Iterator[CutLine]:
    line = CutLine()
    yield line
    line.close()


@pytest.fixture
def front(home: Home, line: CutLine) -> PlayedHome:
    """Workers reach it over a line that can be cut."""
    front = home(listen="127.0.0.1:0", address=line.address)
    line.target = front.bound_address
    return front


@pytest.fixture
def machine(home: Home, front: PlayedHome) -> PlayedHome:
    machine = home(is_front=False)
    machine.wait_for_stream(front)
    return machine


def test_while_a_stream_stands_no_word_goes_through_the_database(front: PlayedHome, machine: PlayedHome, url: str) -> None:
    with counted(url, front.id) as notified:
        texts = [f"{n} " for n in range(300)]
        for text in texts:
            machine.channel.send(front.id, word(text))
        front.ears.wait(lambda: len(front.ears.texts()) == len(texts), "all of it")
        machine.channel.send(EVERY_FRONT, word("to all"))
        front.ears.wait(lambda: front.ears.texts()[-1] == "to all", "what is for all fronts is heard too")
        assert notified.payloads == [] and len(front.ears.packets) < 100, "gathered"
    until(lambda: machine.channel._peer(front.id).line.is_idle, "all of it is acknowledged, and not kept any longer")


@pytest.mark.parametrize("is_swallowed", [False, True], ids=["cut", "swallowed, then cut"])
def test_a_line_that_is_cut_in_mid_stream_loses_no_word_and_brings_none_twice(
    front: PlayedHome, machine: PlayedHome, line: CutLine, url: str, monkeypatch: pytest.MonkeyPatch, is_swallowed: bool
) -> None:
    monkeypatch.setattr("batch.queue.remote.worker_port.peer.GRACE_S", 20.0)
    texts: list[str] = []

    def say(count: int) -> None:
        for _ in range(count):
            texts.append(f"{len(texts)} ")
            machine.channel.send(front.id, word(texts[-1]))

    with counted(url, front.id) as notified:
        for round_number in range(1, 6):
            machine.wait_for_stream(front)
            say(100)
            until(lambda: len(front.ears.texts()) > len(texts) - 100, "some of it")
            line.is_swallowing = is_swallowed
            say(100)
            if is_swallowed:  # let them go into the void
                until(lambda: not machine.channel._peer(front.id).line._items, "packed")
            line.cut()
            say(100)
            front.ears.wait(lambda: len(front.ears.texts()) >= len(texts), f"all of it after cut {round_number}")
        assert front.ears.texts() == texts
        assert line.connections > 5 and notified.payloads == [], "all of it by streams"


def test_a_port_that_is_away_is_passed_by_through_the_database_until_it_is_back(
    front: PlayedHome,
    machine: PlayedHome,
    line: CutLine,
    url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("batch.queue.remote.worker_port.dialer.MAX_PAUSE_S", 0.2)
    numbers, texts = itertools.count(), list[str]()

    def say(count: int) -> None:
        for _ in range(count):
            texts.append(f"{next(numbers)} ")
            machine.channel.send(front.id, word(texts[-1]))
        front.ears.wait(lambda: len(front.ears.texts()) >= len(texts), "all of it")

    with counted(url, front.id) as notified, caplog.at_level(logging.INFO):
        say(100)
        line.is_swallowing = True
        machine.channel.send(front.id, word("into the void"))
        texts.append("into the void")
        line.take_away()
        say(100)
        until(lambda: notified.payloads, "by the database")
        line.bring_back()
        machine.wait_for_stream(front)
        by_database = len(notified.payloads)
        say(100)
        assert front.ears.texts() == texts
        assert len(notified.payloads) == by_database, "and not any more"
    lines = [record.getMessage() for record in caplog.records]
    assert len([text for text in lines if "cannot be reached" in text]) == 1, "one sentence"
    assert lines[-1].endswith("is reached") or any(text.endswith("is reached") for text in lines)


def test_two_fronts_hear_each_what_is_theirs_over_a_stream_of_their_own(
    home: Home, front: PlayedHome, machine: PlayedHome, url: str
) -> None:
    other = home(listen="127.0.0.1:0")
    machine.wait_for_stream(other)
    with counted(url, front.id) as one, counted(url, other.id) as two:
        for number in range(50):
            machine.channel.send(front.id, word(f"one {number}"))
            machine.channel.send(other.id, word(f"two {number}"))
        for ears, name in ((front.ears, "one"), (other.ears, "two")):
            ears.wait(lambda ears=ears: len(ears.texts()) == 50, "all of it")
            assert ears.texts() == [f"{name} {number}" for number in range(50)]
        other.channel.wake({Kind.STT})
        machine.ears.wait(lambda: Kind.STT in machine.ears.woken, "both wake it")
        assert (one.payloads, two.payloads) == ([], [])
    other.channel.close()
    machine.channel.send(front.id, word("and on"))
    front.ears.wait(lambda: front.ears.texts()[-1] == "and on", "one that ends takes nothing from the other")


def test_what_went_through_the_database_is_not_kept_for_ever(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.queue.remote.worker_port.peer.KEPT_BY_DATABASE_S", 0.5)
    front, machine = home(), home(is_front=False)
    machine.channel.send(front.id, word("by the database"))
    front.ears.wait(front.ears.texts, "it arrives")
    until(lambda: machine.channel._peer(front.id).line.is_idle, "forgotten")
    machine.channel.send(front.id, word("and on"))
    front.ears.wait(lambda: front.ears.texts() == ["by the database", "and on"], "the next one has the next number")


def test_two_fronts_with_workers_of_their_own_dial_one_another_and_each_word_arrives_once(home: Home, url: str) -> None:
    one, two = home(listen="127.0.0.1:0", has_worker=True), home(listen="127.0.0.1:0", has_worker=True)
    until(lambda: len(one.channel._peer(two.id)._streams) == len(two.channel._peer(one.id)._streams) == 2, "two streams")
    with counted(url, one.id) as notified:
        texts = [f"{number} " for number in range(100)]
        for text in texts:
            one.channel.send(two.id, word(text))
            two.channel.send(one.id, word(text))
        for ears in (one.ears, two.ears):
            ears.wait(lambda ears=ears: len(ears.texts()) >= len(texts), "all of it")
            assert ears.texts() == texts
        assert notified.payloads == []


def test_words_go_on_while_the_database_is_away_and_afterwards_homes_hear_one_another_through_it_again(
    front: PlayedHome, machine: PlayedHome, postgres_server: PostgresServer
) -> None:
    machine.channel.send(front.id, word("before"))
    front.ears.wait(front.ears.texts, "it works")
    postgres_server.kill()
    try:
        machine.channel.send(front.id, word("meanwhile"))
        front.ears.wait(lambda: front.ears.texts() == ["before", "meanwhile"], "it needs no database")
    finally:
        postgres_server.start()
    for ears in (front.ears, machine.ears):
        ears.wait(lambda ears=ears: ears.reconnections == 1, "heard again")
        assert set(ears.woken) == set(Kind), "first listen, then look"
    machine.channel.send(front.id, word("after"))
    front.ears.wait(lambda: front.ears.texts() == ["before", "meanwhile", "after"], "and on")
    for number in range(100):
        machine.channel.send(EVERY_FRONT, word(f"to all {number}"))
        with contextlib.suppress(AssertionError):
            front.ears.wait(lambda: str(front.ears.texts()[-1]).startswith("to all"), "", 0.1)
            break
    assert str(front.ears.texts()[-1]).startswith("to all")


def test_a_peer_that_falls_silent_is_left_for_the_database(
    front: PlayedHome, machine: PlayedHome, line: CutLine, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.queue.remote.worker_port.stream.SILENCE_S", 2.0)
    monkeypatch.setattr("batch.queue.remote.worker_port.stream.PING_INTERVAL_S", 0.2)
    before = line.connections + 1
    line.cut()  # the next stream has these times
    until(lambda: line.connections == before and machine.is_joined_to(front), "the next stream")
    with counted(url, front.id):
        with contextlib.suppress(AssertionError):  # longer than SILENCE_S
            front.ears.wait(lambda: False, "", 2.5)
        assert line.connections == before, "signs of life keep a stream that has nothing to say"
        line.is_swallowing = True
        machine.channel.send(front.id, word("heard"))
        front.ears.wait(lambda: "heard" in front.ears.texts(), "by another way")
        assert front.ears.texts() == ["heard"]
