"""A commit whose answer is lost with the connection: whoever asks again is served once, whatever became of the first."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from batch.batches.batch_store import BatchStore
from batch.batches.line_store import LineStore
from batch.batches.rows import BatchDraft, BatchLine, LineState, RequestKey
from batch.folder.ledger.ledger import Ledger
from batch.folder.ledger.rows import Arrival, ContentWork, TextParameters
from batch.folder.safe_open import FileStamp
from batch.media.kind import MediaKind
from batch.queue.jobs import Draft, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.postgres.postgres_store import PostgresStore
from batch.queue.spool import Spool
from batch.queue.store import Key, StoreAway
from payloads import payload
from postgres_server import PostgresServer

pytestmark = pytest.mark.postgres


class CutConnection:
    """A connection that breaks at a commit, before the database has made it or after."""

    def __init__(self, conn: psycopg.Connection[Any], is_made: bool) -> None:
        self._conn, self._is_made = conn, is_made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)

    def execute(self, query: Any, params: Any = None) -> Any:
        if query != b"commit":
            return self._conn.execute(query, params)
        if self._is_made:
            self._conn.execute(query)
        self._conn.close()
        raise psycopg.OperationalError("server closed the connection unexpectedly")


@pytest.fixture
def store(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[PostgresStore]:
    url = postgres_server.new_database()
    with contextlib.closing(open_store(url, home=tmp_path, front="f1")) as store:
        assert isinstance(store, PostgresStore)
        yield store
    postgres_server.empty_database(url)


@pytest.fixture(params=[True, False], ids=["made", "not made"])
def cut(request: pytest.FixtureRequest, store: PostgresStore) -> bool:
    """The next commit's answer is lost; whether the commit itself is."""
    store._conn = CutConnection(store._connected(), request.param)  # type: ignore[assignment]
    return bool(request.param)


def chat(**more: Any) -> Draft:
    return Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE, waited=True, **more)


def kept(store: PostgresStore) -> str:
    return Spool(store.home / ".batch" / "spool").keep(b"{}")


def count(store: PostgresStore, table: str) -> int:
    return int(store.read(f"select count(*) from {table}")[0][0])


def again(work: Any) -> Any:
    """As clients, the folder and the batches do, once the database answers again."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return work()
        except StoreAway:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_job_is_submitted_again_under_its_id(store: PostgresStore, cut: bool) -> None:
    draft = chat()
    store.submit(draft)
    assert count(store, "job") == count(store, "task") == 1 and store.job(draft.id) is not None


def test_a_request_under_a_key_is_one_job(store: PostgresStore, cut: bool) -> None:
    key, draft = Key("vlm", "key", "fingerprint"), chat()
    with pytest.raises(StoreAway):
        store.submit_once(key, [draft])
    earlier = again(lambda: store.submit_once(key, [chat()]))
    assert count(store, "job") == count(store, "task") == 1
    assert [one.job for one in earlier] == ([draft.id] if cut else [])


def test_a_batch_under_a_key_is_one_batch(store: PostgresStore, cut: bool) -> None:
    def draft() -> BatchDraft:
        key = RequestKey(name="key", fingerprint="fingerprint")
        return BatchDraft(endpoint="/v1/embeddings", input_sha256=kept(store), input_bytes=1, priority=Priority.BATCH, key=key)

    first = draft()
    with pytest.raises(StoreAway):
        BatchStore(store).create(first)
    batch = again(lambda: BatchStore(store).create(draft()))
    assert count(store, "batch") == 1 and (batch.id == first.id) is cut


def test_a_batchs_line_is_one_job(store: PostgresStore) -> None:
    draft = BatchDraft(endpoint="/v1/embeddings", input_sha256=kept(store), input_bytes=1, priority=Priority.BATCH)
    batches, lines = BatchStore(store), LineStore(store)
    batch = batches.create(draft)
    line = BatchLine(
        batch=batch.sequence,
        line=1,
        custom_id="a",
        start=0,
        length=1,
        prefix="",
        state=LineState.WAITING,
        job=None,
        request_id="r",
    )
    lines.add_lines(batch, [line], [], 1, 1)
    batches.begin(batch)
    store._conn = CutConnection(store._connected(), True)  # type: ignore[assignment]
    with pytest.raises(StoreAway):
        lines.queue_lines([(line, chat(parent=batch.id))])
    assert again(lambda: lines.waiting_lines(batch, 9)) == [] and count(store, "job") == 1


def test_a_file_and_its_first_job_are_taken_in_once(store: PostgresStore, cut: bool) -> None:
    def arrival() -> Arrival:
        work = ContentWork(
            key="key",
            sha256="0" * 64,
            kind=MediaKind.TEXT,
            parameters=TextParameters(),
            step="embedding",
            draft=Draft(payload("embed"), Origin.INBOX, Priority.INBOX, source="a.txt"),
        )
        return Arrival(path="a.txt", stamp=FileStamp(1, 1, 1, 1), work=work)

    with pytest.raises(StoreAway):
        Ledger(store).accept([arrival()])
    recorded = again(lambda: Ledger(store).recorded_files(["a.txt"]))
    assert bool(recorded) is cut, "the next scan sees that it was taken"
    Ledger(store).accept([arrival()])
    assert count(store, "file") == count(store, "content") == count(store, "job") == count(store, "task") == 1
