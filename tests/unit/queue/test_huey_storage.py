"""How a worker waits for its next job."""

from __future__ import annotations

import threading
from pathlib import Path

from batch.queue.huey_storage import ClaimStorage
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.messages import message_for
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.sqlite.sqlite_store import SqliteStore
from batch.queue.store import Ending
from batch.settings import Settings
from payloads import payload


def test_work_ahead_of_the_next_job_is_done_once_no_job_has_waited_for_a_moment_and_only_after_a_job(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    store = open_store(settings.database_address)
    storage = ClaimStorage(Kind.STT, store, "w" * 24)
    done: list[str] = []

    def settle() -> bool:
        done.append("settled")
        if len(done) == 2:
            threading.Timer(0.01, storage.woken.set).start()
        return len(done) == 1

    storage.settle = settle
    try:
        threading.Timer(0.1, storage.woken.set).start()
        assert storage.dequeue() is None and done == [], "nothing ran that could have left anything"
        for _ in range(2):
            store.submit(Draft(payload("transcribe"), Origin.INBOX, Priority.BATCH))
        assert storage.dequeue() is not None and storage.dequeue() is not None and done == []
        assert storage.dequeue() is None and done == ["settled"] * 2
    finally:
        store.close()


def test_a_job_that_was_handed_over_is_run_before_any_that_waits_and_inside_one_only_if_it_is_more_urgent(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    store = open_store(settings.database_address)
    assert isinstance(store, SqliteStore)
    storage = ClaimStorage(Kind.EMBEDDING, store, "w" * 24)

    def draft(priority: Priority) -> Draft:
        return Draft(payload("embed", {"inputs": ["a"]}), Origin.HTTP, priority, waited=True)

    try:
        store.submit(first := draft(Priority.INTERACTIVE))
        assert storage.claim() == message_for(first.id)
        store.end([Ending(storage.lease, State.DONE, "{}")])  # type: ignore[list-item]
        store.register(Node("w" * 24, Kind.EMBEDDING, Kind.EMBEDDING, status="ready"))
        handed = store.submit_to("w" * 24, draft(Priority.LARGE_REQUEST))
        assert handed is not None
        store.submit(urgent := draft(Priority.INTERACTIVE))
        storage.hand(handed)
        assert storage.woken.is_set()
        assert storage.claim(above=Priority.LARGE_REQUEST) == message_for(urgent.id)
        assert storage.claim(above=Priority.LARGE_REQUEST) is None
        assert storage.claim() == message_for(handed.job.id) and storage.lease == handed
        assert storage.claim() is None
    finally:
        store.close()


def test_the_next_request_is_waited_for_before_a_look_that_something_would_be_done_ahead_of(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    store = open_store(settings.database_address)
    assert isinstance(store, SqliteStore)
    storage = ClaimStorage(Kind.EMBEDDING, store, "w" * 24)
    looks: list[str] = []
    storage.before_look = lambda: looks.append("look")
    storage.rest_s = lambda: 20.0
    try:
        store.submit(first := Draft(payload("embed", {"inputs": ["a"]}), Origin.HTTP, Priority.INTERACTIVE, waited=True))
        (lease,) = store.take(Kind.EMBEDDING, "w" * 24)
        threading.Timer(0.05, storage.hand, [lease]).start()
        assert storage.dequeue() == message_for(first.id) and not looks
        store.submit(second := Draft(payload("embed", {"inputs": ["a"]}), Origin.INBOX, Priority.INBOX))
        threading.Timer(0.05, storage.woken.set).start()
        assert storage.dequeue() == message_for(second.id) and looks == ["look"], "told to look, it does not wait on"
        store.submit(Draft(payload("embed", {"inputs": ["a"]}), Origin.INBOX, Priority.INBOX))
        threading.Timer(0.05, lambda: (storage.stopping.set(), storage.woken.set())).start()
        assert storage.dequeue() is None and looks == ["look"], "told to stop, it takes nothing more"
        storage.stopping.clear()
        assert storage.claim() is not None
        storage.rest_s = lambda: 0.01
        threading.Timer(0.2, storage.woken.set).start()
        assert storage.dequeue() is None and looks == ["look"] * 2
    finally:
        store.close()
