"""Homes that share a real database."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch.queue.open_store import open_store
from played_homes import PlayedHome
from postgres_server import PostgresServer

Home = Callable[..., PlayedHome]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    open_store(url).close()
    yield url
    postgres_server.empty_database(url)


@pytest.fixture
def home(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """`home(listen="127.0.0.1:0")` is a front with a worker port, `home(is_front=False)` a machine with a worker."""
    monkeypatch.setattr("batch.queue.postgres.channel._LISTEN_SLICE_S", 0.05)
    monkeypatch.setattr("batch.queue.remote.worker_port.channel.FIRST_LOOKS_INTERVAL_S", 0.05)
    with contextlib.ExitStack() as homes:

        def start(**options: object) -> PlayedHome:
            one = PlayedHome(tmp_path, **{"url": url, **options})  # type: ignore[arg-type]
            homes.callback(one.channel.close)
            return one.open()

        yield start
