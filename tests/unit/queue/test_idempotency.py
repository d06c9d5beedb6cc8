"""Keys in the database: they go with their jobs, and older databases are brought forward whole."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batch.errors import Unprocessable
from batch.queue import database_schema as schema
from batch.queue.idempotency import Key, submit_once
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.store import Store
from paths import DATA
from payloads import payload


def draft(text: str = "x") -> Draft:
    return Draft(payload("completion", {"prompt": text}), Origin.HTTP, Priority.CALLER, blobs=("ab" * 32,), waited=True)


def test_a_key_goes_with_its_jobs_and_a_repeat_leaves_no_payload_behind(tmp_path: Path) -> None:
    store = Store(tmp_path / "batch.db")
    first, key = draft(), Key(Kind.VLM, "k", "f")
    assert submit_once(store, key, [first]) == []
    assert [held.job for held in submit_once(store, key, [draft()])] == [first.id]
    with pytest.raises(Unprocessable):
        submit_once(store, Key(Kind.VLM, "k", "other"), [draft()])
    store.take(Kind.VLM)
    assert store.end(first.id, State.DONE, result="{}")
    store.forget_orphans(store.orphans(10))
    assert submit_once(store, key, [draft()])[0].state is State.DONE
    assert store.orphans(10) == ["ab" * 32], "the repeat's payload is nobody's"
    with store.transaction() as transaction:
        transaction.execute("delete from job")
    assert store.read("select * from idempotency") == []
    assert submit_once(store, Key(Kind.VLM, "k", "other"), [draft()]) == []
    store.close()


def test_a_key_of_several_jobs_is_free_once_one_of_them_is_gone(tmp_path: Path) -> None:
    store = Store(tmp_path / "batch.db")
    drafts, key = [draft("a"), draft("b")], Key(Kind.VLM, "k", "f")
    submit_once(store, key, drafts)
    assert [held.job for held in submit_once(store, key, [draft(), draft()])] == [d.id for d in drafts]
    store.cancel(drafts[1].id)
    anew = [draft("a"), draft("b")]
    assert submit_once(store, key, anew) == []
    assert [held.job for held in submit_once(store, key, [draft(), draft()])] == [d.id for d in anew]
    store.close()


def test_a_database_of_the_first_schema_is_brought_forward_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "batch.db"
    old = sqlite3.connect(path)
    old.executescript((DATA / "schema-1.sql").read_text())
    shape = "select type, name from sqlite_master where name not like 'sqlite_%' order by 1, 2"
    before = old.execute("select * from job order by id").fetchall()
    assert old.execute("pragma user_version").fetchone() == (1,) and len(before) == 5
    old.close()
    store = Store(path)
    fresh = Store(tmp_path / "fresh.db")
    assert store.read("pragma user_version") == [(schema.VERSION,)]
    assert store.read(shape) == fresh.read(shape)
    for table in ("job", "task", "claim", "blob", "idempotency"):
        assert store.read(f"pragma table_info({table})") == fresh.read(f"pragma table_info({table})")
    assert store.read("select * from job order by id") == before
    # What was under way goes on, under the old rules and the new ones.
    assert [state for _, state in store.recover(Kind.STT, 3)] == [State.QUEUED]
    assert (job := store.take(Kind.STT)) is not None and store.checkpoints(job.id) == ['{"at":30.0}']
    assert store.take(Kind.EMBEDDING) is not None
    assert submit_once(store, Key(Kind.VLM, "k", "f"), [draft()]) == []
    store.close()
    Store(path).close()
    fresh.close()


def test_a_migration_that_breaks_leaves_the_old_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batch.db"
    old = sqlite3.connect(path)
    old.executescript((DATA / "schema-1.sql").read_text())
    old.close()
    monkeypatch.setattr(schema, "_KEYS", "create table idempotency (kind text);\nselect nonsense from nowhere;\n")
    with pytest.raises(sqlite3.OperationalError):
        Store(path)
    monkeypatch.undo()
    broken = sqlite3.connect(path)
    assert broken.execute("pragma user_version").fetchone() == (1,)
    assert broken.execute("select count(*) from sqlite_master where name='idempotency'").fetchone() == (0,)
    broken.close()
    Store(path).close()
