"""Bulk classes that are held back."""

from __future__ import annotations

import time
from math import inf
from pathlib import Path

import pytest

from batch.payloads.embedding import EmbeddingPayload
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.open_store import open_store
from batch.queue.selection.pauses import Pause, open_ranges
from one_worker import OneWorker

INBOX = Pause(Kind.EMBEDDING, Priority.INBOX)
BATCH = Pause(Kind.EMBEDDING, Priority.BATCH)


def submit(store: OneWorker, priority: Priority) -> str:
    draft = Draft(EmbeddingPayload(inputs=["x"]), Origin.CLI, priority)
    store.submit(draft)
    return draft.id


def taken(store: OneWorker) -> list[str]:
    jobs = []
    while job := store.take(Kind.EMBEDDING):
        jobs.append(job.id)
    return jobs


@pytest.mark.parametrize(
    ("floor", "paused", "ranges"),
    [
        (-1, [], [(-1, inf)]),
        (-1, [0], [(0, inf), (-1, 0)]),
        (-1, [10], [(10, inf), (-1, 10)]),
        (-1, [0, 10], [(10, inf), (0, 10), (-1, 0)]),
        (10, [0, 10], [(10, inf)]),
        (0, [10], [(10, inf), (0, 10)]),
    ],
)
def test_the_open_ranges_leave_out_what_is_paused(floor: float, paused: list[float], ranges: list[tuple[float, float]]) -> None:
    assert open_ranges(floor, paused) == ranges


def test_paused_classes_wait_and_interactive_requests_go_on(database: Path | str) -> None:
    store = OneWorker(open_store(database))
    inbox, batch, call = (submit(store, priority) for priority in (Priority.INBOX, Priority.BATCH, Priority.INTERACTIVE))
    store.pause([INBOX, BATCH])
    assert taken(store) == [call]
    store.close()
    store = OneWorker(open_store(database))  # after a restart
    assert store.paused() == {INBOX, BATCH} and taken(store) == []
    store.resume([INBOX])
    assert taken(store) == [inbox]
    store.resume([BATCH])
    assert taken(store) == [batch] and store.paused() == set()
    store.close()


def test_other_models_are_not_paused(database: Path | str) -> None:
    store = OneWorker(open_store(database))
    job = submit(store, Priority.INBOX)
    store.pause([Pause(Kind.VLM, Priority.INBOX)])
    assert taken(store) == [job]
    store.close()


def test_batch_mates_of_a_paused_class_are_not_claimed(database: Path | str) -> None:
    store = OneWorker(open_store(database))
    for _ in range(3):
        submit(store, Priority.INBOX)
    first = store.take(Kind.EMBEDDING)
    assert first is not None
    store.pause([INBOX])
    assert store.take_mates(first, 8) == []
    store.resume([INBOX])
    assert len(store.take_mates(first, 8)) == 2
    store.close()


def test_a_look_past_a_million_paused_messages_costs_nothing(tmp_path: Path) -> None:
    store = OneWorker(open_store(tmp_path / ".batch" / "batch.db"))
    with store.transaction() as transaction:
        transaction.execute(
            "with recursive n(i) as (select 1 union all select i + 1 from n where i < 300000) "
            "insert into task (queue, data, priority) select 'embedding', x'7b7d', 10 from n"
        )
    inbox = submit(store, Priority.INBOX)
    store.pause([BATCH])
    started = time.process_time()
    for _ in range(100):
        assert store.is_waiting(Kind.EMBEDDING)
    assert time.process_time() - started < 1
    assert taken(store) == [inbox]
    store.close()
