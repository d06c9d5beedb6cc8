"""A database that is damaged, emptied, copied and repaired."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from batch.errors import DiskFull
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.sqlite.repair import repair
from batch.queue.sqlite.sqlite_store import SqliteStore
from batch.queue.store import DamagedDatabase
from one_worker import OneWorker
from payloads import payload


def home_with_jobs(home: Path, count: int = 400) -> list[str]:
    """A home whose jobs take many pages; their ids."""
    store = open_store(home / ".batch" / "batch.db")
    drafts = [
        Draft(payload("completion", {"prompt": f"{number} " * 100}), Origin.CLI, Priority.BATCH) for number in range(count)
    ]
    store.submit(*drafts, durable=True)
    store.read("pragma wal_checkpoint(truncate)")
    store.close()
    return [draft.id for draft in drafts]


def overwrite_pages(path: Path, share: float = 0.5, pages: int = 8) -> None:
    """Inner pages become noise."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(int(size * share) // 4096 * 4096)
        file.write(b"\x5a" * 4096 * pages)


def test_overwritten_pages_are_told_in_one_sentence_wherever_the_database_is_used(tmp_path: Path) -> None:
    home_with_jobs(tmp_path)
    path = tmp_path / ".batch" / "batch.db"
    overwrite_pages(path)
    with (
        pytest.raises(DamagedDatabase, match=r"is damaged .*run `batch repair`\.$"),
        contextlib.closing(open_store(path)) as store,
    ):
        store.check()
    path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    for readonly in (True, False):
        with pytest.raises(DamagedDatabase, match="run `batch repair`"):
            open_store(path, readonly=readonly)


def test_a_database_that_was_emptied_is_not_taken_for_a_new_home(tmp_path: Path) -> None:
    home_with_jobs(tmp_path, 3)
    path = tmp_path / ".batch" / "batch.db"
    Spool(tmp_path / ".batch" / "spool").keep(b"a payload")
    path.write_bytes(b"")
    with pytest.raises(DamagedDatabase, match="is empty, though this home has been used"):
        open_store(path)
    new = tmp_path / "new" / ".batch" / "batch.db"
    new.parent.mkdir(parents=True)
    new.touch()
    open_store(new).close()


def test_a_backup_is_whole_readable_and_bounded(tmp_path: Path) -> None:
    ids = home_with_jobs(tmp_path)
    store = open_store(tmp_path / ".batch" / "batch.db")
    target = tmp_path / "copies" / "copy.db"
    assert store.back_up(target, max_bytes=4096) is None and not target.exists()
    assert store.back_up(target) == target.stat().st_size
    store.submit(Draft(payload("chat"), Origin.CLI, Priority.BATCH))
    assert store.back_up(target) == target.stat().st_size, "a newer one takes its place"
    assert [file.name for file in target.parent.iterdir()] == ["copy.db"] and target.stat().st_mode & 0o077 == 0
    copy = open_store(target, readonly=True)
    copy.check()
    assert {row[0] for row in copy.read("select id from job")} > set(ids)
    copy.close()
    with pytest.raises(DiskFull, match="cannot be written"):
        store.back_up(Path("/proc/no/such.db"))
    store.close()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_repair_loses_nothing_that_can_be_read_or_that_the_backup_holds(tmp_path: Path, share: float) -> None:
    ids = home_with_jobs(tmp_path)
    path, backup = tmp_path / ".batch" / "batch.db", tmp_path / ".batch" / "backup" / "batch.db"
    store = OneWorker(open_store(path))
    done, running = (store.take(Kind.VLM) for _ in range(2))
    assert done is not None and running is not None and store.end(done.id, State.DONE, result="{}")
    store.back_up(backup)
    store.submit(late := Draft(payload("chat"), Origin.CLI, Priority.BATCH))
    store.read("pragma wal_checkpoint(truncate)")
    store.close()
    overwrite_pages(path, share)
    outcome = repair(path, backup)
    again = open_store(path)
    again.check()
    rows = {row[0]: row[1] for row in again.read("select id, state from job")}
    assert set(ids) <= set(rows) and outcome.jobs == len(rows), "late ones are lost where their page is, no other"
    assert rows[done.id] == "done" and rows[running.id] == "running"
    assert rows.get(late.id, "queued") == "queued"
    assert dict(again.recover(Kind.VLM, "w2", 3)) == {running.id: State.QUEUED}
    assert sum(n for *_, n in again.tally()) == len(rows), "counters fit"
    taken = [lease.job.id for lease in again.take(Kind.VLM, "w2", limit=1000)]
    assert sorted(taken) == sorted(set(rows) - {done.id}), "what was queued is queued once"
    assert (outcome.aside / "batch.db").exists()
    again.close()


def test_repair_of_an_emptied_database_takes_the_backup(tmp_path: Path) -> None:
    ids = home_with_jobs(tmp_path, 50)
    path, backup = tmp_path / ".batch" / "batch.db", tmp_path / ".batch" / "backup" / "batch.db"
    store = open_store(path)
    store.back_up(backup)
    store.close()
    path.write_bytes(b"")
    outcome = repair(path, backup)
    assert (outcome.jobs, outcome.from_backup) == (50, 50)
    again = open_store(path)
    assert isinstance(again, SqliteStore) and {row[0] for row in again.read("select id from job")} == set(ids)
    again.close()


def test_jobs_that_lost_their_message_or_their_claim_wait_again_and_strangers_go(tmp_path: Path) -> None:
    ids = home_with_jobs(tmp_path, 4)
    path = tmp_path / ".batch" / "batch.db"
    with sqlite3.connect(path) as conn:
        conn.execute("update job set state='running', started_at=created_at, message=null where id=?", (ids[0],))
        conn.execute("delete from task where id=(select message from job where id=?)", (ids[0],))
        conn.execute("delete from task where id=(select message from job where id=?)", (ids[1],))
        conn.execute("insert into task (queue, data, priority) values ('vlm', x'7b7d', 99)")
    conn.close()
    assert repair(path, tmp_path / "none.db").queued_again == 2
    store = open_store(path)
    assert sorted(lease.job.id for lease in store.take(Kind.VLM, "w1", limit=10)) == sorted(ids)
    store.close()


def test_a_repair_that_finds_no_room_leaves_all_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = home_with_jobs(tmp_path)
    path = tmp_path / ".batch" / "batch.db"
    before = path.read_bytes()
    connect = sqlite3.connect

    def connect_small(target: Path, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(target, **options)
        if target == path:
            connection.execute("pragma max_page_count=100")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_small)
    with pytest.raises(DiskFull, match="is as it was"):
        repair(path, tmp_path / "no backup")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert not list(path.parent.glob("damaged-*"))
    assert repair(path, tmp_path / "no backup").jobs == len(ids)
