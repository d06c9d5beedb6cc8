"""A home that is full, and a database that it may move into."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch.queue.transfer.move import MovedHome
from full_home import fill, move_to
from postgres_server import PostgresServer

Mover = Callable[[Path, str], MovedHome]


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)
    postgres_server.drop_schemas(url, "batch_moved_%")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with rows in every table."""
    monkeypatch.delenv("BATCH_DATABASE", raising=False)
    fill(tmp_path)
    return tmp_path


@pytest.fixture
def mover() -> Mover:
    return move_to
