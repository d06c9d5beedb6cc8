"""Payloads of homes that share a database and nothing else."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batch.errors import Unavailable
from batch.queue.open_store import open_store
from postgres_server import PostgresServer

if TYPE_CHECKING:
    from batch.queue.postgres.shared_spool import SharedSpool

pytestmark = pytest.mark.postgres
Open = Callable[..., "SharedSpool"]


@pytest.fixture
def open_spool(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Open]:
    from batch.queue.postgres.shared_spool import SharedSpool

    url = postgres_server.new_database()
    open_store(url).close()
    spools: list[SharedSpool] = []

    def open_one(home: str, max_cache_bytes: int = 4 << 30) -> SharedSpool:
        (tmp_path / home).mkdir(exist_ok=True)
        spools.append(SharedSpool(tmp_path / home / "spool", url, max_cache_bytes=max_cache_bytes))
        return spools[-1]

    yield open_one
    for spool in spools:
        spool.close()
    postgres_server.empty_database(url)


def test_what_one_home_keeps_another_reads_whole_and_by_its_hash(open_spool: Open) -> None:
    front, machine = open_spool("front"), open_spool("machine")
    for data in (b"", b"a picture", os.urandom((3 << 20) + 7)):
        sha256 = front.keep(data)
        assert machine.read(sha256) == data and hashlib.sha256(data).hexdigest() == sha256
        assert machine.keep(data) == sha256, "the same bytes are the same payload"
    assert not machine.path("ab" * 32).exists(), "what nobody kept is nowhere"

    async def upload() -> AsyncIterator[bytes]:
        yield b"in two "
        yield b"pieces"

    sha256, size = asyncio.run(machine.keep_stream(upload()))
    assert size == 13 and front.read(sha256) == b"in two pieces"
    assert set(front.names()) == set(machine.names()) and len(set(front.names())) == 4


def test_bytes_that_are_not_what_their_name_says_are_not_used(open_spool: Open) -> None:
    front, machine = open_spool("front"), open_spool("machine")
    sha256 = front.keep(b"the truth")
    front._with_connection(lambda conn: conn.execute("update payload set data = 'a lie'"))
    assert not machine.path(sha256).exists()


def test_a_payload_goes_when_nobody_needs_it_unless_it_was_put_in_again(open_spool: Open) -> None:
    front, machine = open_spool("front"), open_spool("machine")
    sha256 = front.keep(b"x")
    machine.path(sha256)
    assert not front.remove(sha256, older_than=3600) and front.path(sha256).exists()
    front._with_connection(lambda conn: conn.execute("update payload set created_at = now() - interval '2 hours'"))
    machine.keep(b"x")
    assert not front.remove(sha256, older_than=3600), "another home has just put it in again"
    assert front.remove(sha256, older_than=0)
    assert not front.path(sha256).exists() and sha256 not in set(front.names())


def test_the_folder_of_a_machine_does_not_grow_beyond_its_bound(open_spool: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batch.queue.postgres.shared_spool._SWEEP_EVERY_BYTES", 0)
    front, machine = open_spool("front"), open_spool("machine", max_cache_bytes=250)
    names = [front.keep(bytes([n]) * 100) for n in range(5)]
    for name in names[:4]:
        os.utime(machine.path(name), (time.time() - 3600,) * 2)
    machine.path(names[4])
    lying = [name for name in names if (machine.folder / name[:2] / name).exists()]
    assert len(lying) == 3 and names[4] in lying
    assert [machine.read(name) for name in names] == [bytes([n]) * 100 for n in range(5)]


def test_a_payload_cannot_be_kept_while_the_database_is_away(open_spool: Open, postgres_server: PostgresServer) -> None:
    front = open_spool("front")
    front.keep(b"before")
    postgres_server.kill()
    try:
        with pytest.raises(Unavailable):
            front.keep(b"while it is away")
    finally:
        postgres_server.start()
    sha256 = front.keep(b"while it is away")
    assert open_spool("machine").read(sha256) == b"while it is away"
