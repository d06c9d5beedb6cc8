"""What a worker learns when it renews its leases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.nodes import LEASE_S, Node
from batch.queue.open_store import open_store
from batch.queue.remote.prompt_prefix import HeldPrefixes
from batch.queue.spool import Spool
from batch.queue.store import Lease, Store, StoreAway
from batch.workers.job_context import JobContext
from batch.workers.lease_keeper import LeaseKeeper
from payloads import payload


class PlayedWorker:
    """Store, context and keeper of one worker; its events go nowhere."""

    def __init__(self, folder: Path) -> None:
        self.store: Store = open_store(folder / "batch.db")
        self.context = JobContext(Kind.VLM, self.store, Spool(folder / "spool"), None, 1, "w1")  # type: ignore[arg-type]
        self.stopped: list[frozenset[str]] = []
        self.keeper = LeaseKeeper(self.context, Node("w1", Kind.VLM, Kind.VLM), self.stopped.append, attempts=3)

    def take(self) -> Lease:
        self.store.submit(Draft(payload("chat"), Origin.CLI, Priority.BATCH))
        (lease,) = self.store.take(Kind.VLM, "w1")
        self.context.leases[lease.token] = lease
        return lease


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[PlayedWorker]:
    worker = PlayedWorker(tmp_path)
    yield worker
    worker.context.close()


def test_a_worker_hears_of_jobs_that_are_another_workers_by_now_or_cancelled_and_stops_those(worker: PlayedWorker) -> None:
    kept, lost, cancelled = worker.take(), worker.take(), worker.take()
    worker.keeper._register()
    worker.keeper._renew()
    assert worker.stopped == [] and worker.context.lost == set()
    worker.store.put_back(lost, count=True)
    worker.store.cancel(cancelled.job.id)
    worker.keeper._renew()
    assert worker.stopped == [frozenset({lost.job.id, cancelled.job.id})]
    assert worker.context.lost == {lost.token}
    worker.context.forget(lost)
    worker.context.forget(cancelled)
    worker.keeper._renew()
    assert len(worker.stopped) == 1 and worker.context.leases == {kept.token: kept}


def test_a_worker_that_drains_takes_nothing_and_one_that_was_forgotten_registers_again(worker: PlayedWorker) -> None:
    worker.keeper._renew()
    assert [node.id for node in worker.store.nodes()] == ["w1"], "its row was not there"
    assert worker.keeper.may_take()
    worker.store.drain("w1")
    worker.keeper._renew()
    assert not worker.keeper.may_take()
    worker.store.drain("w1", on=False)
    worker.keeper._renew()
    assert worker.keeper.may_take()


def test_a_worker_that_shares_a_queue_and_has_no_answer_for_two_thirds_of_a_lease_takes_nothing(
    worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_away(*_: object, **__: object) -> None:
        raise StoreAway()

    now = 1000.0
    monkeypatch.setattr("batch.workers.lease_keeper.time.monotonic", lambda: now)
    worker.keeper._renew()
    monkeypatch.setattr(worker.store, "renew", is_away)
    now += LEASE_S * 0.6
    with pytest.raises(StoreAway):
        worker.keeper._renew()
    assert worker.keeper.may_take()
    now += LEASE_S * 0.1
    assert worker.keeper.may_take(), "a home of its own has nobody who could take its leases"
    monkeypatch.setattr(type(worker.store), "is_shared", True)
    assert not worker.keeper.may_take()


def test_why_a_model_cannot_be_loaded_is_listed_until_the_next_process_tries(worker: PlayedWorker) -> None:
    worker.keeper._register()
    worker.keeper.report(status="failed", error="The file is cut short.")
    worker.keeper.end()
    assert [(node.status, node.error) for node in worker.store.nodes()] == [("failed", "The file is cut short.")]
    assert worker.store.recover(Kind.VLM, "w2", 3, predecessor="w1") == []
    assert worker.store.nodes() == []


def test_a_worker_that_becomes_ready_while_its_leases_are_renewed_is_ready_from_then_on(
    worker: PlayedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[threading.Thread] = []

    def replace_slowly(node: Node, **changes: str) -> Node:
        changed = replace(node, **changes)
        if "prefixes" in changes:  # in the midst of it the worker's thread reports
            reports.append(threading.Thread(target=worker.keeper.report, kwargs={"status": "ready"}))
            reports[0].start()
            reports[0].join(0.2)
        return changed

    monkeypatch.setattr("batch.workers.lease_keeper.replace", replace_slowly)
    worker.keeper.held_prefixes = lambda: HeldPrefixes(1.0, ["digest"])
    worker.keeper._renew()
    reports[0].join()
    assert worker.keeper._node.status == "ready" and "digest" in worker.keeper._node.prefixes
