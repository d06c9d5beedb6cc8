"""What /metrics counts of the jobs that end."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from batch.api.server.metrics import EndedJobCounter
from batch.queue.frames import JobEnded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.sqlite.sqlite_store import SqliteStore
from batch.queue.store import Ending
from payloads import payload


def test_an_end_that_machines_tell_twice_is_counted_once_and_that_of_a_retry_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SqliteStore, "is_shared", True)

    async def play() -> None:
        with contextlib.closing(open_store(tmp_path / "batch.db")) as store:
            hub = Hub(store, Spool(tmp_path / "spool"), tmp_path)
            counter = EndedJobCounter(hub, Kind.VLM)
            store.submit(draft := Draft(payload("chat"), Origin.CLI, Priority.BATCH))

            async def end_and_tell(times: int) -> None:
                (lease,) = store.take(Kind.VLM, "w1")
                store.end([Ending(lease, State.FAILED, None, {"error": "x"})])
                for _ in range(times):
                    counter._note_end(JobEnded(job=draft.id, kind=Kind.VLM, state=State.FAILED, waited=False))
                    await counter.read()

            def count() -> float:
                return sum(
                    sample.value
                    for metric in counter.metrics.registry.collect()
                    for sample in metric.samples
                    if sample.labels.get("state") == "failed" and sample.name.endswith("_total")
                )

            await end_and_tell(3)
            assert count() == 1
            store.retry(draft.id)
            await end_and_tell(2)
            assert count() == 2
            await hub.close()

    asyncio.run(play())
