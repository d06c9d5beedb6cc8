"""The schema's migrations, from databases that earlier versions left."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import pytest

from batch.folder.ledger.file_counts import count_files
from batch.folder.ledger.ledger import Ledger
from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload, NamedToolChoice
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.speech import TranscriptionResult
from batch.queue.jobs import Draft, Kind, Origin, Priority, State, UnreadableJob
from batch.queue.open_store import open_store
from batch.queue.sqlite import schema
from batch.queue.store import Key, Store
from one_worker import OneWorker
from paths import DATA
from payloads import payload

SHAPE = "select type, name from sqlite_master where name not like 'sqlite_%' order by 1, 2"
TABLES = ("job", "task", "claim", "blob", "idempotency", "content", "file", "stored_file", "upload", "batch", "batch_line")


def draft(text: str = "x") -> Draft:
    return Draft(payload("completion", {"prompt": text}), Origin.HTTP, Priority.INTERACTIVE, blobs=("ab" * 32,), waited=True)


def left_by(path: Path, version: str) -> list[tuple[object, ...]]:
    """A database as an earlier version left it; its jobs."""
    old = sqlite3.connect(path)
    old.executescript((DATA / version).read_text())
    jobs = old.execute("select * from job order by id").fetchall()
    old.close()
    return jobs


def assert_current(store: Store, tmp_path: Path) -> None:
    """It has the very tables, columns, indexes and triggers that a new database has."""
    fresh = open_store(tmp_path / "fresh.db")
    assert store.read("pragma user_version") == [(schema.VERSION,)]
    assert store.read(SHAPE) == fresh.read(SHAPE)
    for table in TABLES:
        assert store.read(f"pragma table_info({table})") == fresh.read(f"pragma table_info({table})")
    fresh.close()


def test_a_database_of_the_first_schema_is_brought_forward_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "batch.db"
    before = left_by(path, "schema-1.sql")
    assert len(before) == 5
    store = OneWorker(open_store(path))
    assert_current(store.store, tmp_path)
    assert [row[: len(before[0])] for row in store.read("select * from job order by id")] == before
    # What was under way goes on, under the old rules and the new ones.
    assert [state for _, state in store.recover(Kind.STT, 3)] == [State.QUEUED]
    assert (job := store.take(Kind.STT)) is not None and store.checkpoints(job.id) == ['{"at":30.0}']
    assert store.take(Kind.EMBEDDING) is not None
    assert store.submit_once(Key(Kind.VLM, "k", "f"), [draft()]) == []
    store.close()
    open_store(path).close()


def test_a_migration_that_breaks_leaves_the_old_database_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "batch.db"
    left_by(path, "schema-1.sql")
    broken_script = tmp_path / "broken.sql"
    broken_script.write_text("create table idempotency (kind text);\nselect nonsense from nowhere;\n")
    monkeypatch.setitem(schema.MIGRATIONS, "0002 idempotency keys", str(broken_script))
    with pytest.raises(sqlite3.OperationalError):
        open_store(path)
    monkeypatch.undo()
    broken = sqlite3.connect(path)
    assert broken.execute("pragma user_version").fetchone() == (1,)
    assert broken.execute("select count(*) from sqlite_master where name='idempotency'").fetchone() == (0,)
    broken.close()
    open_store(path).close()


def test_a_home_of_version_0_1_is_brought_forward_with_its_folder_and_every_row_still_reads(tmp_path: Path) -> None:
    path = tmp_path / "batch.db"
    before = left_by(path, "schema-3-with-folder.sql")
    store = open_store(path)
    assert_current(store, tmp_path)
    assert [row[: len(before[0])] for row in store.read("select * from job order by id")] == before
    counts = count_files(store)
    assert (counts.waiting, counts.done, counts.failed) == (0, 3, 1), "the folder's tables were made outside the migrations"
    jobs = store.jobs(limit=100)
    assert len(jobs) == 10 and Ledger(store).content_of_job(jobs[1].id) is not None
    by_task = {}
    for job in jobs:
        by_task.setdefault(job.task, []).append(job)
        assert isinstance(job.payload, msgspec.Struct) and (job.result is not None) is (job.state is State.DONE)
    named = next(job.payload for job in by_task["chat"] if job.origin is Origin.HTTP and job.state is State.DONE)
    assert isinstance(named, ChatPayload) and named.tool_choice == NamedToolChoice(name="look")
    assert named.generation.logit_bias == [(15, -100.0), ("no", False)] and named.generation.stop == ["END"]
    assert [message.role for message in named.messages] == ["system", "user", "assistant", "tool"]
    assert isinstance(by_task["completion"][0].payload, CompletionPayload) and by_task["completion"][0].payload.prompt == [
        1,
        "two",
    ]
    assert isinstance(by_task["chat"][0].result, ChatResult | None)
    assert isinstance(by_task["transcribe"][0].result, TranscriptionResult)
    assert all(isinstance(job.payload, EmbeddingPayload) for job in by_task["embed"])
    assert all(isinstance(job.result, EmbeddingResult) for job in by_task["embed"] if job.state is State.DONE)
    taken = store.take(Kind.EMBEDDING, "w1")
    assert [lease.job.origin for lease in taken] == [Origin.CLI], "what was queued goes on"
    store.close()


def test_a_prefilled_answer_of_an_earlier_version_is_still_known_to_be_one(tmp_path: Path) -> None:
    store = open_store(tmp_path / "batch.db")
    store.submit(one := Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE))
    usage = '{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}'
    written = f'{{"choices":[{{"finish_reason":"stop","given":{{"content":3}}}}],"usage":{usage}}}'
    with store.transaction() as transaction:
        transaction.execute("update job set state='done', finished_at=created_at, result=? where id=?", (written, one.id))
    row = store.job(one.id)
    assert row is not None and isinstance(row.result, ChatResult) and row.result.choices[0].prefill == {"content": 3}
    store.close()


def test_a_row_that_no_version_can_read_is_listed_and_refused_with_one_sentence(tmp_path: Path) -> None:
    store = open_store(tmp_path / "batch.db")
    store.submit(one := Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE))
    for written in ('{"messages":7}', "{", '{"messages":[{"role":"wizard"}]}'):
        with store.transaction() as transaction:
            transaction.execute("update job set request=? where id=?", (written, one.id))
        (row,) = store.jobs()
        assert row.payload_json == written
        with pytest.raises(UnreadableJob, match=r"job \w+ \(chat\) was written by another version of batch"):
            _ = row.payload
    store.close()
