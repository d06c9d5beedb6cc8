"""Lists of jobs a page at a time: what a page costs depends on what it shows, not on how many jobs there are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch.errors import BadRequest
from batch.queue.jobs import Draft, Kind, Origin, Priority, State, SummaryPage
from batch.queue.open_store import open_store
from batch.queue.reading import job_reader
from batch.queue.selection.job_filter import EVERY_JOB, JobFilter
from batch.queue.sqlite.sqlite_store import SqliteStore
from one_worker import OneWorker
from payloads import payload

NUMBER = 100_000
LIMIT = 50
FILL = """
with recursive n(i) as (select 1 union all select i + 1 from n where i < :number)
insert into job (id, kind, task, state, origin, priority, request, result, error, source, parent, created_at)
select printf('%012x%08x', i, i), iif(i % 3, 'vlm', 'stt'), 'chat', iif(i % 10, 'done', 'failed'),
  iif(i % 4, 'inbox', 'batch'), 0, '{}', :result, iif(i % 10, null, json_object('message', 'Damaged: number ' || i)),
  'folder ' || (i % 100) || '/' || i || '.jpg', iif(i % 4, null, 'batch_' || (i % 8)), i from n
"""


def filled_store(path: Path, number: int) -> SqliteStore:
    """Jobs of which every tenth failed and every fourth belongs to one of two batches."""
    opened = open_store(path)
    assert isinstance(opened, SqliteStore)
    with opened.transaction() as transaction:
        transaction.execute(FILL, {"number": number, "result": "x" * 500})
    return opened


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    """A hundred thousand jobs."""
    opened = filled_store(tmp_path_factory.mktemp("home") / "batch.db", NUMBER)
    yield opened
    opened.close()


def steps_of(store: SqliteStore, read: Callable[[], SummaryPage]) -> tuple[int, SummaryPage]:
    """What SQLite's machine did for a page, in its own steps (a row that is looked at takes some): no clock tells it."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    store._conn.set_progress_handler(tick, 10)
    try:
        page = read()
    finally:
        store._conn.set_progress_handler(None, 0)
    return count * 10, page


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No page ends early on a busy machine."""
    monkeypatch.setattr(job_reader, "SCAN_S", math.inf)


FILTERS = {
    "every job": EVERY_JOB,
    "a state": JobFilter(states=(State.FAILED,)),
    "a model and an origin": JobFilter(kinds=(Kind.STT,), origins=(Origin.BATCH,)),
    "a batch": JobFilter(parent="batch_4"),
    "failures of a batch": JobFilter(parent="batch_0", states=(State.FAILED,)),
    "a folder": JobFilter(folder="folder 7"),
    "an error": JobFilter(error="number 99"),
    "an old error": JobFilter(error="number 50."),
    "an error that nobody has": JobFilter(error="nobody says this"),
    "a folder that is not there": JobFilter(folder="none"),
    "nothing": JobFilter(states=(State.RUNNING,)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("name", FILTERS)
def test_a_page_looks_at_a_bounded_number_of_rows(store: SqliteStore, name: str) -> None:
    for before in (None, f"{NUMBER // 2:012x}", f"{2000:012x}"):
        steps, page = steps_of(store, lambda before=before: store.summary_page(FILTERS[name], LIMIT, before))
        assert steps <= 30 * job_reader.MAX_SCANNED_ROWS, "a walk through all of them takes ten times as many"
        assert len(page.rows) <= LIMIT
    if "error" not in name and "folder" not in name:
        steps, _ = steps_of(store, lambda: store.summary_page(FILTERS[name], LIMIT))
        assert steps <= 20_000, "what an index knows is not looked for"


@pytest.mark.slow
@pytest.mark.usefixtures("patient")
def test_the_bound_is_what_keeps_a_page_from_looking_at_all(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_reader, "MAX_SCANNED_ROWS", NUMBER * 2)
    steps, page = steps_of(store, lambda: store.summary_page(FILTERS["a folder that is not there"], LIMIT))
    assert page == ([], None) and steps > 30 * 10_000


def test_time_ends_a_look_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled_store(tmp_path / "batch.db", 2000)
    monkeypatch.setattr(job_reader, "SCAN_S", 0.0)
    page = store.summary_page(FILTERS["a folder that is not there"], LIMIT)
    assert page.rows == [] and page.before == f"{1501:012x}{1501:08x}", "one slice, and it leads on"
    store.close()


@pytest.mark.parametrize("name", FILTERS)
def test_pages_that_follow_each_other_show_every_match_once_the_newest_first(tmp_path: Path, name: str) -> None:
    store, job_filter = filled_store(tmp_path / "batch.db", 5000), FILTERS[name]
    ids: list[str] = []
    before, pages = None, 0
    while True:
        page = store.summary_page(job_filter, 300, before)
        ids += [summary.id for summary in page.rows]
        pages += 1
        if page.before is None:
            break
        before = page.before
        assert pages < 1000
    assert ids == list(store.ids_matching(job_filter))[::-1]
    assert len(ids) == store.count_matching(job_filter)
    store.close()


def test_both_databases_give_the_same_pages(database: Path | str) -> None:
    worker = OneWorker(open_store(database))
    for number in range(40):
        origin, parent = (Origin.INBOX, None) if number % 4 else (Origin.BATCH, f"batch_{number % 8}")
        task = "chat" if number % 3 else "transcribe"
        worker.submit(
            Draft(payload(task), origin, Priority.BATCH, source=f"folder {number % 9}/{number}.jpg", parent=parent),
        )
        if number % 5 == 1:
            job = worker.take(Kind.VLM)
            assert job is not None
            worker.end(job.id, State.FAILED, error=BadRequest(f"Damaged: number {number}").record())
    for name, job_filter in {**FILTERS, "queued": JobFilter(states=(State.QUEUED,))}.items():
        ids: list[str] = []
        page = worker.summary_page(job_filter, 7)
        while True:
            ids += [summary.id for summary in page.rows]
            if page.before is None:
                break
            page = worker.summary_page(job_filter, 7, page.before)
        assert ids == list(worker.ids_matching(job_filter))[::-1] and len(ids) == worker.count_matching(job_filter), name
    worker.close()
