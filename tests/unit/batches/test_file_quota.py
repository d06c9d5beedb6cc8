"""How many bytes files and parts take: counted as they come and go, so that a quota costs one row to look at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.queue.open_store import open_store
from batch.queue.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(tmp_path / "batch.db")
    yield opened
    opened.close()


def test_what_a_quota_looks_at_is_one_row(store: Store) -> None:
    plan = store.read("explain query plan select part_count, part_bytes from upload where id=?", ("u",))
    assert [detail for *_, detail in plan] == ["SEARCH upload USING PRIMARY KEY (id=?)"]
    assert store.read("select count(*) from file_bytes") == [(1,)]
