"""Lists of files a page at a time: what a page costs does not depend on how many files there are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from batch.folder.ledger.rows import FileState
from batch.media.kind import MediaKind
from batch.page.reading import file_pages
from batch.page.reading.file_pages import FileChoice, FilePage, read_file_page
from batch.queue.open_store import open_store
from batch.queue.sqlite.sqlite_store import SqliteStore

LIMIT = 50
CONTENT = """
with recursive n(i) as (select :first union all select i + 1 from n where i < :last)
insert into content (id, key, sha256, size, kind, parameters, state, step, job, jobs, error, created_at)
select i, 'key ' || i, printf('%064x', i), 1000, 'image', '{}', iif(i % 10, 'done', 'failed'), 'caption', 'job', '{}',
  iif(i % 10, null, json_object('message', 'Damaged: number ' || i)), i from n
"""
FILES = """
with recursive n(i) as (select :first union all select i + 1 from n where i < :last)
insert into file (id, path, folder, size, mtime_ns, inode, ctime_ns, state, content, accepted_at, finished_at)
select i, cast('folder ' || (i % 100) || '/' || i || '.jpg' as blob), cast('folder ' || (i % 100) as blob), 1000, 1, i, 1,
  iif(i % 10, 'done', 'failed'), i, i, i from n
"""
CHOICES = {
    "every file": FileChoice(states=tuple(FileState)),
    "failures": FileChoice(states=(FileState.FAILED,)),
    "a folder": FileChoice(states=tuple(FileState), folder="folder 7"),
    "an error": FileChoice(states=(FileState.FAILED,), error="number 1"),
    "an error that nobody has": FileChoice(states=tuple(FileState), error="nobody says this"),
    "sound": FileChoice(states=tuple(FileState), kind=MediaKind.AUDIO),
}


def fill(store: SqliteStore, first: int, last: int) -> None:
    with store.transaction() as transaction:
        for statement in (CONTENT, FILES):
            transaction.execute(statement, {"first": first, "last": last})


def steps_of(store: SqliteStore, read: Callable[[], FilePage]) -> int:
    """What SQLite's machine did for a page, in its own steps: no clock tells it."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    store._conn.set_progress_handler(tick, 10)
    try:
        read()
    finally:
        store._conn.set_progress_handler(None, 0)
    return count * 10


@pytest.mark.slow
def test_a_page_of_files_looks_at_as_many_rows_among_many_as_among_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_pages, "SCAN_S", 0.0)  # one slice a page, however fast or slow this machine is
    store = open_store(tmp_path / "batch.db")
    assert isinstance(store, SqliteStore)
    fill(store, 1, 30_000)
    some = {
        name: steps_of(store, lambda choice=choice: read_file_page(store, choice, None, LIMIT))
        for name, choice in CHOICES.items()
    }
    fill(store, 30_001, 100_000)
    many = {
        name: steps_of(store, lambda choice=choice: read_file_page(store, choice, None, LIMIT))
        for name, choice in CHOICES.items()
    }
    assert all(many[name] <= 1.5 * some[name] + 100 for name in CHOICES), (some, many)
    assert max(many.values()) <= 100 * file_pages.SLICE_ROWS and many["every file"] < 20_000
    assert read_file_page(store, CHOICES["sound"], None, LIMIT).before, "it leads on"
    store.close()


@pytest.mark.parametrize("name", CHOICES)
def test_pages_of_files_that_follow_each_other_show_every_match_once(tmp_path: Path, name: str) -> None:
    store = open_store(tmp_path / "batch.db")
    assert isinstance(store, SqliteStore)
    fill(store, 1, 6000)
    ids: list[int] = []
    before, pages = None, 0
    while True:
        page = read_file_page(store, CHOICES[name], before, 500)
        ids += [row.id for row in page.rows]
        pages += 1
        assert pages < 1000
        if page.before is None:
            break
        before = page.before
    choice = CHOICES[name]
    expected = [
        id
        for id in range(6000, 0, -1)
        if (FileState.DONE in choice.states or id % 10 == 0)
        and (choice.folder is None or id % 100 == 7)
        and (choice.error is None or f"Damaged: number {id}".find(choice.error) >= 0)
        and choice.kind is None
    ]
    assert ids == expected
    store.close()
