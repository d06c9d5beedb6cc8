"""Leases that run out, and the workers that hold them: what every store promises."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.errors import NotFound
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.nodes import LEASE_S, Node
from batch.queue.store import Ending, Lease, LeaseLost, Store
from database_roles import RoleAddresses, open_store_of
from payloads import payload


@pytest.fixture
def store(database_or_roles: Path | str | RoleAddresses, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    if not isinstance(database_or_roles, Path):  # its server may have been started a moment ago, after which no lease runs out
        monkeypatch.setattr("batch.queue.postgres.leases.PostgresLeases._grace_s", 0.0)
    store: Store = open_store_of(database_or_roles)
    yield store
    store.close()


def submitted(store: Store, count: int = 1, priority: Priority = Priority.INBOX) -> list[str]:
    drafts = [Draft(payload("chat"), Origin.INBOX, priority) for _ in range(count)]
    store.submit(*drafts)
    return [draft.id for draft in drafts]


def taken(store: Store, worker: str) -> Lease:
    (lease,) = store.take(Kind.VLM, worker)
    return lease


def run_out(store: Store, *leases: Lease) -> None:
    """As if nobody had renewed them for long."""
    with store.transaction() as transaction:
        for lease in leases:
            earlier = "until - interval '1000 seconds'" if store.is_shared else "until - 1000"
            transaction.execute(f"update claim set until = {earlier} where token=?", (lease.token,))


def states(store: Store, *jobs: str) -> list[State]:
    return [store.states(jobs)[job] for job in jobs]


def test_a_lease_that_runs_out_goes_to_another_worker_and_late_writes_of_the_first_are_refused(store: Store) -> None:
    (job,) = submitted(store)
    first = taken(store, "w1")
    assert store.reap(3) == [], "it has only begun"
    run_out(store, first)
    assert store.reap(3) == [(job, State.QUEUED)]
    second = taken(store, "w2")
    assert second.token > first.token and second.job.attempts == 2
    assert store.end([Ending(first, State.DONE, '{"text":"late"}')]) == [False]
    with pytest.raises(LeaseLost):
        store.checkpoint(first, 0, "{}")
    with pytest.raises(LeaseLost):
        store.refer(first, "ab" * 32)
    store.put_back(first, count=True)
    assert states(store, job) == [State.RUNNING], "a late return changes nothing"
    assert store.end([Ending(second, State.DONE, '{"text":"b"}')]) == [True]
    row = store.job(job)
    assert row is not None and row.result_json == '{"text":"b"}' and row.attempts == 2


def test_a_renewed_lease_is_not_reaped_and_its_worker_hears_what_is_lost_and_what_is_cancelled(store: Store) -> None:
    kept, cancelled, lost = submitted(store, 3)
    leases = [taken(store, "w1") for _ in range(3)]
    run_out(store, *leases)
    store.cancel(cancelled)
    assert store.renew("w1", [(lease.job.id, lease.token) for lease in leases[:2]]).cancelled == {cancelled}
    assert store.reap(3) == [(lost, State.QUEUED)]
    renewal = store.renew("w1", [(lease.job.id, lease.token) for lease in leases])
    assert (renewal.lost, renewal.cancelled) == ({lost}, {cancelled})
    assert states(store, kept, cancelled, lost) == [State.RUNNING, State.RUNNING, State.QUEUED]


def test_a_job_that_takes_its_workers_down_is_set_aside_and_a_cancelled_one_is_not_run_again(store: Store) -> None:
    poison, unwanted = submitted(store, 2)
    leases = [taken(store, "w1"), taken(store, "w2")]
    store.cancel(unwanted)
    run_out(store, *leases)
    assert dict(store.reap(1)) == {poison: State.FAILED, unwanted: State.CANCELLED}
    row = store.job(poison)
    assert row is not None and row.error is not None and f"batch retry {poison}" in row.error["message"]


def test_a_job_that_only_waited_for_a_more_urgent_one_is_not_blamed(store: Store) -> None:
    (outer,) = submitted(store)
    leases = [taken(store, "w1")]
    (inner,) = submitted(store, 1, Priority.INTERACTIVE)
    leases += store.take(Kind.VLM, "w1", above=0)
    run_out(store, *leases)
    assert dict(store.reap(1)) == {outer: State.QUEUED, inner: State.FAILED}


def test_what_is_reaped_returns_to_its_old_place_and_wakes_its_queue_at_most_a_hundred_at_once(store: Store) -> None:
    jobs = submitted(store, 5)
    run_out(store, *[taken(store, f"w{n}") for n in range(3)])
    woken: list[set[Kind]] = []
    store.submitted = woken.append
    assert [job for job, _ in store.reap(3, batch=2)] == jobs[:2]
    assert [job for job, _ in store.reap(3, batch=2)] == jobs[2:3]
    assert store.reap(3) == [] and woken and set().union(*woken) == {Kind.VLM}
    assert [taken(store, "w9").job.id for _ in range(5)] == jobs


def test_a_worker_has_a_row_from_its_start_to_its_end(store: Store) -> None:
    store.register(Node("a1", Kind.VLM, Kind.VLM, version="1.0", pid=7, started_at=1.0, home="h"))
    store.register(Node("b2", Kind.STT, Kind.STT, started_at=2.0))
    submitted(store)
    lease = taken(store, "a1")
    store.register(Node("a1", Kind.VLM, Kind.VLM, "ready", model="m", build="m, cpu", info='{"model":"m"}', started_at=1.0))
    by_id = {node.id: node for node in store.nodes()}
    assert (by_id["a1"].status, by_id["a1"].model, by_id["a1"].leases) == ("ready", "m", 1)
    assert (by_id["b2"].status, by_id["b2"].leases) == ("loading", 0)
    assert all(0 <= node.beat_age_s < LEASE_S for node in by_id.values())
    renewal = store.renew("a1", [(lease.job.id, lease.token)])
    assert renewal.is_known and not renewal.is_draining
    store.drain("a1")
    store.register(by_id["a1"])
    assert store.renew("a1", []).is_draining, "what it reports of itself does not end that"
    store.drain("a1", on=False)
    assert not store.renew("a1", []).is_draining
    store.leave("a1")
    assert [node.id for node in store.nodes()] == ["b2"] and not store.renew("a1", []).is_known
    with pytest.raises(NotFound, match="batch nodes"):
        store.drain("a1")


def test_a_dead_workers_successor_gets_its_jobs_back_at_once(store: Store) -> None:
    (job,) = submitted(store)
    store.register(Node("w1", Kind.VLM, Kind.VLM))
    taken(store, "w1")
    assert store.recover(Kind.VLM, "w2", 3, "it was killed", predecessor="w1") == [(job, State.QUEUED)]
    assert store.nodes() == []
    assert taken(store, "w2").job.attempts == 2
    assert store.recover(Kind.VLM, "w2", 3, predecessor="w1") == [], "its own lease stays"


def test_a_job_that_is_submitted_again_under_its_id_is_there_once(store: Store) -> None:
    draft = Draft(payload("chat"), Origin.HTTP, Priority.INTERACTIVE)
    store.submit(draft)
    store.submit(draft)
    assert store.queue_size(Kind.VLM) == 1
    lease = taken(store, "w1")
    store.submit(draft)
    assert store.queue_size(Kind.VLM) == 0 and store.end([Ending(lease, State.DONE, "{}")]) == [True]
    store.submit(draft)
    assert states(store, draft.id) == [State.DONE] and store.states(["unknown"]) == {}


def test_a_lease_lasts_as_long_as_is_said_by_the_databases_clock(store: Store) -> None:
    submitted(store)
    before = time.time()
    lease = taken(store, "w1")
    assert lease.front == store.front
    if not store.is_shared:
        ((until,),) = store.read("select until from claim")
        assert before + LEASE_S <= until <= time.time() + LEASE_S
