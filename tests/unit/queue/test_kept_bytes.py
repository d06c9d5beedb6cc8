"""How many bytes files and parts take: counted by triggers as they come and go, in either database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from batch.batches.file_store import FileStore
from batch.batches.rows import Purpose
from batch.queue.open_store import open_store
from batch.queue.sqlite import schema
from batch.queue.store import Store
from payloads import keep_in


def summed(store: Store) -> int:
    """What all files and parts take by their rows, shared content counted once."""
    rows = store.read(
        "select sum(bytes) from (select max(bytes) as bytes from (select sha256, bytes from stored_file union all "
        "select sha256, bytes from upload_part) as a group by sha256) as b"
    )
    return int(rows[0][0] or 0)


def test_files_and_parts_are_counted_once_for_each_content(database: Path | str, tmp_path: Path) -> None:
    store = open_store(database, home=tmp_path)
    names = [keep_in(tmp_path, text) for text in (b"a", b"c", b"d", b"e", b"f")]
    files = FileStore(store)
    one = files.create_file(Purpose.USER_DATA, "a", 100, names[0], None)
    two = files.create_file(Purpose.USER_DATA, "b", 100, names[0], None)
    assert files.total_bytes() == summed(store) == 100
    upload = files.create_upload("c", 70, Purpose.USER_DATA, "text/plain", None)
    files.add_part(upload.id, names[0], 100)
    part = files.add_part(upload.id, names[1], 30)
    files.add_part(upload.id, names[1], 30)
    assert files.total_bytes() == summed(store) == 130
    assert files.size_of_parts(upload.id) == (3, 160)
    files.delete_file(one.id)
    files.delete_file(two.id)
    assert files.total_bytes() == summed(store) == 130, "its part is still there"
    file = files.complete_upload(upload, names[2])
    assert part.bytes == 30 and files.total_bytes() == summed(store) == file.bytes == 70
    files.delete_file(file.id)
    cancelled = files.create_upload("d", 9, Purpose.USER_DATA, "text/plain", None)
    files.add_part(cancelled.id, names[3], 9)
    files.cancel_upload(cancelled.id)
    files.create_file(Purpose.USER_DATA, "e", 5, names[4], -1)
    assert files.total_bytes() == 5 and files.delete_expired() == 1
    assert files.total_bytes() == summed(store) == 0
    store.close()


def test_files_and_parts_of_before_are_counted_when_a_database_is_brought_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, name = tmp_path / "batch.db", "0016 kept bytes"
    names = list(schema.MIGRATIONS)
    with monkeypatch.context() as before:
        earlier = {one: schema.MIGRATIONS[one] for one in names[: names.index(name)]}
        before.setattr(schema, "MIGRATIONS", earlier)
        before.setattr(schema, "VERSION", len(earlier))
        schema.migrate(path)
    with sqlite3.connect(path) as database:
        database.executescript(
            f"""insert into stored_file (id, purpose, filename, bytes, sha256, created_at) values
                ('f1', 'batch', 'a', 10, '{"a" * 64}', 1), ('f2', 'batch', 'a', 10, '{"a" * 64}', 1);
                insert into upload (id, filename, bytes, purpose, mime_type, status, created_at, expires_at)
                values ('u1', 'b', 9, 'batch', '', 'pending', 1, 99999999999);
                insert into upload_part values ('p1', 'u1', '{"b" * 64}', 4, 1), ('p2', 'u1', '{"c" * 64}', 5, 1);
                insert into batch (id, api, endpoint, input_file, input_sha256, input_bytes, completion_window, status,
                created_at, priority, total)
                values ('b1', 'openai', '/v1/embeddings', 'f1', 'x', 1, '24h', 'validating', 1, 1, 7);"""
        )
    database.close()
    store = open_store(path)
    files = FileStore(store)
    assert files.total_bytes() == 19
    assert files.size_of_parts("u1") == (2, 9)
    files.delete_file("f1")
    files.cancel_upload("u1")
    assert files.total_bytes() == 10
    assert store.read("select tasks from batch") == [(7,)]
    store.close()
