"""Homes that keep payloads in each of the places where they may lie: a folder, a database, a bucket."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.open_store import open_spool, open_store
from batch.queue.spool import Spool
from batch.queue.store import Store

PLACES = (
    "folder",
    pytest.param("postgres", marks=pytest.mark.postgres),
    pytest.param("s3", marks=pytest.mark.postgres),
)


class PayloadHomes:
    """What several homes see of one another's payloads; those of a folder are all the same home."""

    def __init__(self, kind: str, folder: Path, database: str | None, place: str) -> None:
        self.kind, self.folder, self.place = kind, folder, place
        self.database = database
        self._opened: list[Spool | Store] = []

    def home(self, name: str) -> Path:
        """The folder of a home."""
        folder = self.folder / ("one" if self.database is None else name)
        folder.mkdir(exist_ok=True)
        return folder

    def spool(self, name: str = "front", **options: int) -> Spool:
        """A home's payloads, as one of its processes has them."""
        home = self.home(name)
        spool = open_spool(self.database or home / ".batch" / "batch.db", home / ".batch" / "spool", self.place, **options)
        self._opened.append(spool)
        return spool

    def store(self, name: str = "front") -> Store:
        """The jobs, as one of a home's processes has them."""
        home = self.home(name)
        store = open_store(self.database or home / ".batch" / "batch.db", home=home)
        self._opened.append(store)
        return store

    def hold(self, sha256: str, owner: str = "file-1", name: str = "front") -> None:
        """Tie a payload to a row."""
        with self.store(name).transaction() as transaction:
            transaction.hold(owner, [sha256], "file")

    def let_go(self, owner: str = "file-1") -> None:
        """Of everything that is tied to a row."""
        with self.store().transaction() as transaction:
            transaction.execute("delete from blob where job=?", (owner,))

    def age(self, sha256: str, seconds: float) -> None:
        """As if it had been put in and used so long ago."""
        then = time.time() - seconds
        for path in self.folder.glob(f"*/.batch/spool/*/{sha256}"):
            os.utime(path, (then, then))
        if self.database is not None:
            for table in ("payload", "payload_object"):
                self.execute(
                    f"update {table} set created_at = created_at - make_interval(secs => %s) where sha256 = %s", seconds, sha256
                )

    def execute(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """A statement in the shared database."""
        import psycopg

        assert self.database is not None
        with psycopg.connect(self.database, autocommit=True) as conn:
            cursor = conn.execute(statement.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def close(self) -> None:
        for one in self._opened:
            one.close()


def payload_homes(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[PayloadHomes]:
    """Homes of one kind of place, closed afterwards."""
    database, place = None, "postgres"
    if kind != "folder":
        server = request.getfixturevalue("postgres_server")
        database = server.new_database()
        open_store(database, home=folder).close()
    if kind == "s3":
        monkeypatch = request.getfixturevalue("monkeypatch")
        for name, value in request.getfixturevalue("s3_server").variables.items():
            monkeypatch.setenv(name, value)
        place = f"s3://payloads/{secrets.token_hex(4)}"
    homes = PayloadHomes(kind, folder, database, place)
    yield homes
    homes.close()
    if database is not None:
        server.empty_database(database)
