"""Small jobs are accepted on the event loop, and never at the price of its standing still."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.errors import DiskFull
from batch.payloads.embedding import EmbeddingResult
from batch.queue.channel import MAX_HANDED_BYTES, WakeListener
from batch.queue.frames import Handed, Hello
from batch.queue.hub import immediate_writer
from batch.queue.hub.hub import Hub
from batch.queue.hub.immediate_writer import ImmediateWriter
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.selection.pauses import Pause
from batch.queue.spool import Spool
from batch.queue.sqlite.sqlite_store import SqliteStore
from batch.queue.store import DatabaseBusy, Store
from payloads import payload


def small_draft() -> Draft:
    return Draft(payload("embed", {"inputs": ["a"]}), Origin.HTTP, Priority.INTERACTIVE, waited=True)


WORKER = "w" * 24


def ready_node(**differences: Any) -> Node:
    return Node(WORKER, Kind.EMBEDDING, Kind.EMBEDDING, **{"status": "ready", **differences})


@contextlib.contextmanager
def used_store(folder: Path) -> Iterator[SqliteStore]:
    """One that has had a job, and knows a worker that is ready."""
    with contextlib.closing(open_store(folder / "batch.db")) as store:
        assert isinstance(store, SqliteStore)
        store.submit(draft := small_draft())
        store.cancel(draft.id)
        store.register(ready_node())
        yield store


def queued_jobs(store: Store) -> list[str]:
    return [lease.job.id for lease in store.take(Kind.EMBEDDING, WORKER, limit=10)]


def test_a_small_job_is_accepted_without_the_store_thread_and_wakes_its_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def submit() -> None:
        with contextlib.closing(open_store(tmp_path / "batch.db")) as store:
            hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
            woken: list[set[str]] = []
            monkeypatch.setattr(store, "submitted", woken.append)
            in_thread: list[str] = []
            submit_in_thread = store.submit

            def note(*drafts: Draft, durable: bool = False) -> None:
                in_thread.extend(draft.id for draft in drafts)
                submit_in_thread(*drafts, durable=durable)

            monkeypatch.setattr(store, "submit", note)
            small, large, durable = small_draft(), small_draft(), small_draft()
            await hub.submit(small, is_small=True)
            await hub.submit(large)
            await hub.submit(durable, is_small=True, durable=True)
            assert in_thread == [large.id, durable.id] and woken == [{Kind.EMBEDDING}] * 3
            assert queued_jobs(store) == [small.id, large.id, durable.id]
            await hub.close()

    asyncio.run(submit())


def test_while_another_process_writes_the_event_loop_goes_on_and_no_small_job_overtakes_an_earlier_one(tmp_path: Path) -> None:
    async def submit_both() -> None:
        with (
            contextlib.closing(open_store(tmp_path / "batch.db")) as store,
            contextlib.closing(sqlite3.connect(tmp_path / "batch.db", isolation_level=None)) as other,
        ):
            hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
            other.execute("begin immediate")
            first, second = small_draft(), small_draft()
            waiting = asyncio.create_task(hub.submit(first, is_small=True))
            done, _ = await asyncio.wait({waiting}, timeout=0.05)
            assert not done, "it waits for the other writer, but not on the loop, or we would not be here"
            # The first one's thread still sleeps before it looks again: the second one could be written at once.
            other.execute("rollback")
            await asyncio.wait_for(asyncio.gather(hub.submit(second, is_small=True), waiting), 20)
            assert queued_jobs(store) == [first.id, second.id]
            await hub.close()

    asyncio.run(submit_both())


@pytest.mark.parametrize(("write_s", "waits", "pause_s"), [(0.03, 1, 60.0), (2.0, 1, 2000.0), (2.0, 0, 0.0)])
def test_after_a_write_that_waited_for_the_disk_small_jobs_are_left_to_the_thread_for_a_thousand_times_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_s: float, waits: int, pause_s: float
) -> None:
    """One that was merely kept from its core has no such consequence."""
    now, write, durations, counted = [1000.0], SqliteStore.submit, [0.01, write_s, 0.01, 0.01], [0]

    def write_slowly(self: SqliteStore, *drafts: Draft, **options: Any) -> None:
        write(self, *drafts, **options)
        now[0] += (took_s := durations.pop(0))
        counted[0] += waits if took_s == write_s else 1

    monkeypatch.setattr(immediate_writer, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(SqliteStore, "submit", write_slowly)
    monkeypatch.setattr(immediate_writer, "_count_waits", lambda: counted[0])
    with contextlib.closing(open_store(tmp_path / "batch.db")) as store:
        writer = ImmediateWriter(store, lambda worker, lease: None)
        try:
            assert writer.submit(small_draft(), "") and writer.submit(small_draft(), "")
            if pause_s:
                now[0] += pause_s - 1
                assert not writer.submit(small_draft(), "")
                now[0] += 2
            assert writer.submit(small_draft(), "")
            assert len(queued_jobs(store)) == 3
        finally:
            writer.close()
        assert not writer.submit(small_draft(), ""), "the service ends"


@pytest.mark.skipif(not hasattr(resource, "RUSAGE_THREAD"), reason="this system does not count what a thread waits for")
def test_what_a_thread_waits_for_is_counted_and_what_it_computes_is_not() -> None:
    # Now and then another thread of this process has the interpreter just then.
    assert any(immediate_writer._count_waits() == immediate_writer._count_waits() for _ in range(1000))
    before = immediate_writer._count_waits()
    threading.Event().wait(0.001)
    assert before < immediate_writer._count_waits()


def test_an_immediate_connection_waits_for_no_writer_and_leaves_the_log_for_others_to_copy(tmp_path: Path) -> None:
    file = tmp_path / "batch.db"
    with contextlib.closing(open_store(file)) as store:
        immediate = store.open_immediate()
        assert immediate is not None
        with contextlib.closing(immediate):
            with store.transaction(), pytest.raises(DatabaseBusy):
                immediate.submit(small_draft())
            before = file.stat().st_size
            for _ in range(900):  # of some pages each: more than a log has when it is copied into the database
                immediate.submit(small_draft())
            assert file.stat().st_size == before
            store.submit(small_draft())
            assert file.stat().st_size > before


def test_a_small_request_is_its_idle_workers_from_the_transaction_on_that_accepts_it(tmp_path: Path) -> None:
    with used_store(tmp_path) as store:
        lease = store.submit_to(WORKER, draft := small_draft())
        assert lease is not None and lease.job == store.job(draft.id)
        assert (lease.job.state, lease.job.attempts, lease.job.started_at) == (State.RUNNING, 1, lease.job.created_at)
        assert not store.is_waiting(Kind.EMBEDDING)
        later = store.submit_to(WORKER, second := small_draft())
        assert later is None, "it holds one already"
        store.put_back(lease, count=False)
        assert queued_jobs(store) == [draft.id, second.id], "its place in the line was kept for it"


def test_a_worker_that_has_yet_to_write_down_that_its_jobs_have_ended_is_handed_the_next_one(tmp_path: Path) -> None:
    with used_store(tmp_path) as store:
        told = []
        for _ in range(3):
            lease = store.submit_to(WORKER, small_draft(), told)
            assert lease is not None
            told.append(lease.job.id)
        later = store.submit_to(WORKER, small_draft(), told[:2])
        assert later is None, "it computes the third"


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.submit(small_draft()),
        lambda store: store.drain(WORKER),
        lambda store: store.register(ready_node(status="loading")),
        lambda store: store.leave(WORKER),
        lambda store: store.recover(Kind.EMBEDDING, "x" * 24, 3),
        lambda store: store.pause([Pause(Kind.EMBEDDING, Priority.INTERACTIVE)]),
    ],
    ids=["another waits", "it is drained", "it loads its model", "it has ended", "it has a successor", "the class is paused"],
)
def test_a_request_waits_in_the_queue_where_its_worker_may_not_have_it_at_once(
    tmp_path: Path, change: Callable[[SqliteStore], object]
) -> None:
    with used_store(tmp_path) as store:
        change(store)
        lease = store.submit_to(WORKER, draft := small_draft())
        assert lease is None
        row = store.job(draft.id)
        assert row is not None and (row.state, row.attempts, row.started_at) == (State.QUEUED, 0, None)
        assert store.read("select count(*) from task where id=(select message from job where id=?)", (draft.id,)) == [(1,)]


def test_what_a_worker_was_handed_and_never_saw_is_queued_again_when_it_ends(tmp_path: Path) -> None:
    with used_store(tmp_path) as store:
        lease = store.submit_to(WORKER, draft := small_draft())
        assert lease is not None
        store.leave(WORKER)
        row = store.job(draft.id)
        assert row is not None and (row.state, row.attempts) == (State.QUEUED, 0)
        assert queued_jobs(store) == [draft.id]


@pytest.mark.parametrize("listens", ["yes", "no", "too little room"])
def test_a_worker_that_is_idle_is_handed_the_job_itself_and_one_out_of_reach_finds_it_in_its_queue(
    tmp_path: Path, listens: str
) -> None:
    async def submit() -> None:
        heard: list[Handed] = []
        with used_store(tmp_path) as store:
            hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
            if listens != "no":
                WakeListener(tmp_path, Kind.EMBEDDING, lambda: None, heard.append)
            await hub.reports.worker_connected(Hello(queue=Kind.EMBEDDING, pid=1, worker=WORKER))
            hub.models.update(Kind.EMBEDDING, WORKER, status="ready")
            text = "a" * (MAX_HANDED_BYTES if listens == "too little room" else 1)
            draft = Draft(payload("embed", {"inputs": [text]}), Origin.HTTP, Priority.INTERACTIVE, waited=True)
            await hub.submit(draft, is_small=True)
            async with asyncio.timeout(20):
                while not heard and not store.is_waiting(Kind.EMBEDDING):
                    await asyncio.sleep(0.01)
            if listens == "yes":
                (handed,) = heard
                assert handed.worker == WORKER and handed.lease.job == store.job(draft.id)
                assert handed.lease.job.payload == draft.payload
            else:
                assert not heard
                assert [(lease.job.id, lease.job.attempts) for lease in store.take(Kind.EMBEDDING, WORKER)] == [(draft.id, 1)]
            await hub.close()

    asyncio.run(submit())


def test_a_client_is_told_so_where_its_job_can_be_neither_handed_over_nor_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise DiskFull("The disk is full.")

    async def submit() -> None:
        with used_store(tmp_path) as store:
            hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
            await hub.reports.worker_connected(Hello(queue=Kind.EMBEDDING, pid=1, worker=WORKER))
            hub.models.update(Kind.EMBEDDING, WORKER, status="ready")
            monkeypatch.setattr(store, "put_back", refuse)
            ticket = await hub.submit(small_draft(), is_small=True)
            with pytest.raises(DiskFull):
                async with asyncio.timeout(20):
                    await ticket.result(EmbeddingResult)
            assert hub.waiting_clients(Kind.EMBEDDING) == 0
            await hub.close()

    asyncio.run(submit())
