"""How many bytes files and parts take: counted as they come and go, so that a quota costs one row to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.batches.file_store import ENDED_UPLOAD_LIFETIME_S, FileStore
from batch.batches.rows import Purpose
from batch.queue.open_store import open_store
from batch.queue.store import Store

pytestmark = pytest.mark.usefixtures("every_database")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "batch.db")
    yield opened
    opened.close()


@pytest.mark.sqlite
def test_what_a_quota_looks_at_is_one_row(store: Store) -> None:
    plan = store.read("explain query plan select part_count, part_bytes from upload where id=?", ("u",))
    assert [detail for *_, detail in plan] == ["SEARCH upload USING PRIMARY KEY (id=?)"]
    assert store.read("select count(*) from file_bytes") == [(1,)]


def test_ended_uploads_are_forgotten_a_day_later(store: Store) -> None:
    """Their rows were kept for ever, however many a client made."""
    files = FileStore(store)
    old, new, pending = (files.create_upload("a", 1, Purpose.USER_DATA, "", None).id for _ in range(3))
    files.cancel_upload(old)
    files.cancel_upload(new)
    with store.transaction() as transaction:
        transaction.execute("update upload set expires_at = expires_at - ? where id=?", (2 * ENDED_UPLOAD_LIFETIME_S, old))
    assert files.delete_expired() == 1
    assert {row[0] for row in store.read("select id from upload")} == {new, pending}
