"""A database that takes statements and answers none."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.postgres.channel import PostgresChannel
from batch.queue.postgres.liveness import answer_watch
from batch.queue.remote.worker_port.port_rows import NonceReader
from batch.queue.store import StoreAway
from ears import Ears, until, word
from frozen_proxy import FrozenProxy, frozen_proxy
from payloads import payload
from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


@pytest.fixture
def proxy(postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FrozenProxy]:
    monkeypatch.setattr(answer_watch, "PATIENCE_S", 1.0)
    monkeypatch.setattr(answer_watch, "LOOK_INTERVAL_S", 0.1)
    with frozen_proxy(postgres_server) as proxy:
        yield proxy


@pytest.mark.parametrize("direction", ["to", "from"])
def test_who_waits_for_a_database_behind_a_frozen_proxy_is_told_so_and_goes_on_when_it_thaws(
    url: str, proxy: FrozenProxy, direction: str
) -> None:
    with contextlib.closing(open_store(f"{proxy.url(url)}&connect_timeout=2")) as store:
        store.submit(Draft(payload("chat"), Origin.INBOX, Priority.INBOX), durable=True)
        proxy.freeze(direction)
        begun = time.monotonic()
        with pytest.raises(StoreAway):
            store.submit(draft := Draft(payload("chat"), Origin.INBOX, Priority.INBOX), durable=True)
        assert time.monotonic() - begun < 25
        proxy.thaw()
        deadline = time.monotonic() + 20
        while True:
            try:
                store.submit(draft, durable=True)
                break
            except StoreAway:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        assert store.queue_size(Kind.VLM) == 2


def test_a_statement_may_take_its_time_as_long_as_the_database_answers_others(url: str, proxy: FrozenProxy) -> None:
    with contextlib.closing(open_store(proxy.url(url))) as store:
        assert store.read("select 7 from pg_sleep(3.5)") == [(7,)]


def test_neither_who_asks_for_nonces_nor_who_notifies_waits_for_a_frozen_proxy_and_what_was_said_arrives_afterwards(
    url: str, proxy: FrozenProxy
) -> None:
    open_store(url).close()
    frozen_url = f"{proxy.url(url)}&connect_timeout=2"
    reader, ears = NonceReader(frozen_url), Ears()
    channel = PostgresChannel(frozen_url, "a", is_front=True, listen_url=url)
    channel.open(ears.receiver())
    try:
        channel.send("a", word("before"))
        ears.wait(ears.texts, "it works")
        assert reader.nonces("0" * 16) == []
        proxy.freeze("to")
        sends_by = channel.connection
        assert sends_by is not None
        channel.send("a", word("meanwhile"))
        with pytest.raises(StoreAway):
            reader.nonces("0" * 16)
        until(lambda: sends_by.closed, "it does not wait either")
        proxy.thaw()
        ears.wait(lambda: "meanwhile" in ears.texts(), "sent again")
    finally:
        channel.close()
        reader.close()
