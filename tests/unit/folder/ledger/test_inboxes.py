"""Homes that share a database have an inbox each: what one does with its files is nothing to the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.errors import AlreadyRunning
from batch.folder.ledger.file_counts import FileCounts, count_files
from batch.folder.ledger.file_listing import FileFilter, find_file, list_files
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Arrival, ContentWork, FileState, TextParameters
from batch.folder.safe_open import FileStamp
from batch.media.kind import MediaKind
from batch.page.reading.file_pages import FileChoice, ids_of_paths, read_file, read_file_page
from batch.queue.duties.held_duty import REINDEX_DUTY, held_duty
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.postgres import schema
from batch.queue.store import Store
from batch.search.index.shadow_index import ShadowIndex
from payloads import payload
from postgres_server import PostgresServer
from search_stage import SearchStage

pytestmark = pytest.mark.postgres


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


@pytest.fixture
def stores(url: str) -> Iterator[tuple[Store, Store]]:
    with contextlib.closing(open_store(url, front="f1")) as one, contextlib.closing(open_store(url, front="f2")) as other:
        yield one, other


def arrival(path: str, key: str) -> Arrival:
    draft = Draft(payload("embed"), Origin.INBOX, Priority.INBOX, source=path)
    work = ContentWork(
        key=key, sha256="0" * 64, kind=MediaKind.TEXT, parameters=TextParameters(), step="embedding", draft=draft
    )
    return Arrival(path=path, stamp=FileStamp(6, 1, 1, 1), work=work)


def test_files_of_the_same_name_and_content_are_each_inboxs_own(stores: tuple[Store, Store]) -> None:
    one, other = stores
    for store in stores:
        Ledger(store).accept([arrival("a/same.txt", "key"), arrival("a/twin.txt", "key")])
    assert [len(store.read("select 1 from job where front=?", (store.front,))) for store in stores] == [1, 1], "a job each"
    Ledger(one).mark_gone(["a/same.txt"])
    assert Ledger(one).present_paths("a") == ["a/twin.txt"] and Ledger(other).count_present("a") == 2
    assert Ledger(one).present_folders() == Ledger(other).present_folders() == ["a"]
    assert Ledger(other).recorded_files(["a/same.txt"])["a/same.txt"].gone is False
    contents = [Ledger(store).unfinished_contents() for store in stores]
    assert [len(some) for some in contents] == [1, 1] and contents[0][0].id != contents[1][0].id
    assert count_files(one) == count_files(other) == FileCounts(waiting=2)


def test_one_inboxs_files_are_not_listed_delivered_or_opened_by_another_home(stores: tuple[Store, Store]) -> None:
    one, other = stores
    error = {"message": "Nothing can be made of it."}
    Ledger(one).accept([Arrival(path="bad.bin", stamp=FileStamp(1, 1, 1, 1), error=error)])
    (delivery,) = Ledger(one).deliveries()
    assert Ledger(other).deliveries() == [] and read_file(other, delivery.id) is None
    Ledger(one).record_deliveries([(delivery, FileState.FAILED, False)])
    choice = FileChoice((FileState.FAILED,))
    listed = [[file.path for file in list_files(store, FileFilter())] for store in stores]
    assert listed == [["bad.bin"], []]
    assert [len(read_file_page(store, choice, None, 10).rows) for store in stores] == [1, 0]
    assert find_file(other, "bad.bin") is None and ids_of_paths(other, [b"bad.bin"]) == {}
    assert count_files(one) == FileCounts(failed=1) and count_files(other) == FileCounts()


def test_a_search_finds_what_lies_in_its_own_inbox_and_a_rebuild_of_one_index_keeps_the_others(url: str) -> None:
    one, other = SearchStage(url, "f1"), SearchStage(url, "f2")
    first, second = one.store, other.store
    with contextlib.closing(first), contextlib.closing(second):
        one.put("same.txt", "a red fox", content="shared")
        other.put("same.txt", "a red fox", content="shared")
        other.put("b.txt", "a red hen")
        assert one.sources("red") == ["same.txt"]
        assert set(other.sources("red")) == {"same.txt", "b.txt"}
        with held_duty(first, REINDEX_DUTY, "busy") as guarded_store:
            shadow = ShadowIndex(guarded_store)
            shadow.begin("new")
            with pytest.raises(AlreadyRunning, match="busy"), held_duty(second, REINDEX_DUTY, "busy"):
                pass
            other.put("c.txt", "a red hat")  # while it is made
            shadow.swap()
        assert one.sources("red") == [], "nothing lay in the outbox that it was made of"
        assert set(other.sources("red")) == {"same.txt", "b.txt", "c.txt"}
        with held_duty(second, REINDEX_DUTY, "busy"):
            pass  # at once


def test_a_database_with_one_inbox_gives_it_to_the_home_that_watched_it(
    url: str,
) -> None:
    at = schema.MIGRATIONS.index("0011_inboxes.sql")
    import psycopg

    with psycopg.connect(url, autocommit=True) as conn, conn.transaction():
        folder = Path(schema.__file__).parent / "migrations"
        conn.execute("create table batch_schema (version integer primary key, applied_at timestamptz default now())")
        for number, file in enumerate(schema.MIGRATIONS[:at], 1):
            conn.execute((folder / file).read_bytes())
            conn.execute("insert into batch_schema (version) values (%s)", (number,))
        conn.execute(
            "insert into service values ('', 'duties', '{\"front\": \"f1\", \"until\": 1}'), ('f0', 'service', '{}');"
            "insert into file (path, folder, size, mtime_ns, inode, ctime_ns, state, accepted_at) "
            "values ('a.txt', '', 1, 1, 1, 1, 'failed', 1);"
            "insert into entry (content, sha256, kind, created) values ('c', 's', 'text', 1);"
            "insert into entry_source values ('a.txt', 1)"
        )
    with contextlib.closing(open_store(url, front="f1")) as one, contextlib.closing(open_store(url, front="f0")) as other:
        assert [file.path for file in list_files(one, FileFilter())] == ["a.txt"] and not list(list_files(other, FileFilter()))
        assert count_files(one) == FileCounts(failed=1) and count_files(other) == FileCounts()
        assert one.read("select front, path from entry_source") == [("f1", os.fsencode("a.txt"))]
        Ledger(other).accept([arrival("a.txt", "key")])
        assert find_file(other, "a.txt") is not None
