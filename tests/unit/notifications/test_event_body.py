"""What the command hook is told beside the event."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.folder.file_names import result_stem
from batch.notifications.event_body import output_path
from batch.notifications.notification_store import NotificationStore
from batch.notifications.rows import Target
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / ".batch").mkdir()
    opened = open_store(tmp_path / ".batch" / "batch.db")
    yield opened
    opened.close()


@pytest.mark.parametrize(
    "path", [b"a.jpg", b"b/\xff.jpg", b"a.error", b"x" * 250], ids=["plain", "no UTF-8", "shortened", "long"]
)
def test_the_command_is_told_where_a_files_result_lies_whatever_its_name(store: Store, tmp_path: Path, path: bytes) -> None:
    columns = "path, folder, size, mtime_ns, inode, ctime_ns, state, accepted_at"
    with store.transaction() as transaction:
        row = transaction.execute(f"insert into file ({columns}) values (?,?,1,1,1,1,'writing',1) returning id", (path, b""))
        id = row.fetchone()[0]
    NotificationStore(store).put_target(Target(id="we_1", name="n", url="", event_types=[], created_at=1, updated_at=1))
    with store.transaction() as transaction:
        transaction.execute("update file set state='done' where id=?", (id,))
    (delivery,) = NotificationStore(store).newest(9)
    told = output_path(store, Spool(tmp_path / "spool"), tmp_path / "outbox", delivery, result_stem)
    assert told == f"{tmp_path}/outbox/{result_stem(os.fsdecode(path))}.json"
    assert len(os.fsencode(told).rpartition(b"/")[2]) <= 255
