"""`batch move-to` as a command: what it refuses, and what it says."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.database_address import address_of
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.open_store import open_store
from payloads import payload
from postgres_server import PostgresServer
from run_batch import RunBatch


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)
    postgres_server.drop_schemas(url, "batch_moved_%")


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BATCH_DATABASE", raising=False)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("mysql://root@localhost/batch", "is no database to move to"),
        ("elsewhere", "elsewhere is no database to move to: write postgresql://USER@HOST/NAME, or sqlite."),
        ("postgresql", "No database is named"),
        ("postgresql://batch:secret@localhost/batch", "seen by all users of this machine"),
        ("postgresql://batch@db.example.org/batch", "sslmode=verify-full"),
        ("sqlite", "in its SQLite file already"),
    ],
)
def test_a_move_to_nowhere_is_refused_in_one_sentence(home: Path, run_batch: RunBatch, word: str, sentence: str) -> None:
    outcome = run_batch("move-to", word)
    assert outcome.status == 1 and sentence in outcome.err and "secret" not in outcome.err and outcome.err.count("\n") == 1


def test_a_folder_that_is_no_home_has_nothing_to_move(tmp_path: Path, run_batch: RunBatch) -> None:
    (tmp_path / "none").mkdir()
    outcome = run_batch("move-to", "sqlite", "--home", str(tmp_path / "none"))
    assert outcome.status == 1 and "has no queue yet" in outcome.err


def test_a_home_whose_service_runs_stays_where_it_is(home: Path, run_batch: RunBatch) -> None:
    (home / ".batch" / "run").mkdir()
    with (home / ".batch" / "run" / "service.lock").open("w") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        outcome = run_batch("move-to", "postgresql://batch@localhost/batch")
    assert outcome.status == 1 and "already running" in outcome.err and "pid 4711" in outcome.err


@pytest.mark.postgres
def test_a_home_moves_by_one_command_and_back_and_each_says_where_all_is(
    home: Path, run_batch: RunBatch, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(open_store(home / ".batch" / "batch.db")) as store:
        store.submit(Draft(payload("chat"), Origin.CLI, Priority.BATCH))
    there = run_batch("move-to", url)
    assert there.status == 0 and "1 jobs, 0 dropped files, 0 batches and 0 payloads" in there.out, there
    assert "This home is in PostgreSQL from now on." in there.out and "moved-" in there.out
    assert len(json.loads(run_batch("jobs", "--json").out)) == 1
    back = json.loads(run_batch("move-to", "sqlite", "--json").out)
    assert back["database"] == "sqlite" and back["rows"]["job"] == 1 and "schema batch_moved_" in back["aside"]
    assert back["notes"] == []

    monkeypatch.setenv("BATCH_DATABASE", url.replace("@/", ":secret@/"))
    again = run_batch("move-to", "postgresql")
    assert again.status == 0 and "remembered without its password" in again.out and "secret" not in again.out + again.err
    back_again = run_batch("move-to", "sqlite")
    assert back_again.status == 0 and "BATCH_DATABASE still names the database: unset it" in back_again.out
    monkeypatch.delenv("BATCH_DATABASE")
    assert address_of(home) == home / ".batch" / "batch.db"
    assert len(json.loads(run_batch("jobs", "--json").out)) == 1
