"""How a worker waits for its next job."""

from __future__ import annotations

import threading
from pathlib import Path

from batch.queue.huey_storage import ClaimStorage
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.open_store import open_store
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
