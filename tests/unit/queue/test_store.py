"""The queue's promises at the level of its database."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.errors import Conflict, NotFound
from batch.queue.jobs import TRANSITIONS, Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.sqlite.schema import VERSION, NewerDatabase
from database_roles import RoleAddresses, open_store_of
from one_worker import OneWorker
from payloads import keep_in, payload


@pytest.fixture
def store(database_or_roles: Path | str | RoleAddresses, tmp_path: Path) -> Iterator[OneWorker]:
    store = OneWorker(open_store_of(database_or_roles, front="", home=tmp_path))
    yield store
    store.close()


def draft(
    priority: Priority = Priority.INBOX,
    *,
    task: str = "chat",
    waited: bool = False,
    blobs: tuple[str, ...] = (),
) -> Draft:
    return Draft(payload(task), Origin.HTTP if waited else Origin.INBOX, priority, blobs, waited=waited)


def submitted(store: OneWorker, *drafts: Draft) -> list[str]:
    for one in drafts:
        store.submit(one)
    return [one.id for one in drafts]


def messages(store: OneWorker) -> int:
    return int(store.read("select count(*) from task")[0][0])


def claims(store: OneWorker) -> int:
    return int(store.read("select count(*) from claim")[0][0])


def test_callers_go_before_batch_lines_before_the_inbox_and_each_class_is_first_in_first_out(store: OneWorker) -> None:
    inbox = submitted(store, draft(), draft())
    batch = submitted(store, draft(Priority.BATCH), draft(Priority.BATCH))
    caller = submitted(store, draft(Priority.INTERACTIVE), draft(Priority.INTERACTIVE))
    order = [job.id for _ in range(6) if (job := store.take(Kind.VLM))]
    assert order == caller + batch + inbox
    assert store.take(Kind.VLM) is None


def test_a_taken_message_becomes_a_claim_and_ending_the_job_removes_it(store: OneWorker) -> None:
    (job,) = submitted(store, draft())
    taken = store.take(Kind.VLM)
    assert taken is not None and taken.state is State.RUNNING and taken.attempts == 1
    assert (messages(store), claims(store)) == (0, 1)
    assert store.end(job, State.DONE, result='{"text":"a"}')
    assert (messages(store), claims(store)) == (0, 0)
    row = store.job(job)
    assert row is not None and row.state is State.DONE and row.result_json == '{"text":"a"}'
    assert not store.end(job, State.FAILED, error={"message": "late"}), "an ended job ends once"


def test_a_job_left_by_a_dead_worker_returns_to_its_old_place_and_counts_an_attempt(store: OneWorker) -> None:
    first, second = submitted(store, draft(), draft())
    store.take(Kind.VLM)
    assert store.recover(Kind.VLM, limit=3) == [(first, State.QUEUED)]
    assert [job.id for _ in range(2) if (job := store.take(Kind.VLM))] == [first, second]
    row = store.job(first)
    assert row is not None and row.attempts == 2


def test_the_same_job_that_kills_its_worker_three_times_is_failed_and_kept_and_can_be_retried(store: OneWorker) -> None:
    (job,) = submitted(store, draft())
    for _ in range(2):
        store.take(Kind.VLM)
        assert store.recover(Kind.VLM, limit=3) == [(job, State.QUEUED)]
    store.take(Kind.VLM)
    assert store.recover(Kind.VLM, limit=3) == [(job, State.FAILED)]
    row = store.job(job)
    assert row is not None and row.error is not None and "died 3 times" in row.error["message"]
    store.retry(job)
    again = store.take(Kind.VLM)
    assert again is not None and again.id == job and again.attempts == 1


def test_putting_a_job_back_at_shutdown_counts_no_attempt(store: OneWorker) -> None:
    (job,) = submitted(store, draft())
    store.take(Kind.VLM)
    store.put_back(job, count=False)
    row = store.job(job)
    assert row is not None and row.state is State.QUEUED and row.attempts == 0 and row.started_at is None
    store.put_back(job, count=False)
    assert messages(store) == 1, "putting back what is not claimed changes nothing"


def test_cancelling_a_queued_job_removes_its_message_and_a_running_one_is_marked(store: OneWorker) -> None:
    queued, running = submitted(store, draft(), draft(Priority.INTERACTIVE))
    store.take(Kind.VLM)
    assert store.cancel(queued) is State.CANCELLED and messages(store) == 0
    assert store.cancel(running) is State.RUNNING and store.cancelled(running)
    assert store.recover(Kind.VLM, limit=3) == [(running, State.CANCELLED)], "a cancelled job is not taken up again"
    with pytest.raises(NotFound):
        store.cancel("no such job")


def test_only_failed_and_cancelled_jobs_can_be_retried(store: OneWorker) -> None:
    (job,) = submitted(store, draft())
    for state in State:
        allowed = State.QUEUED in TRANSITIONS[state] and state is not State.RUNNING
        assert allowed == (state in (State.FAILED, State.CANCELLED))
    with pytest.raises(Conflict, match="queued"):
        store.retry(job)


def test_requests_whose_callers_went_down_with_the_service_are_cancelled_and_bulk_jobs_stay(store: OneWorker) -> None:
    waited, bulk = submitted(store, draft(Priority.INTERACTIVE, waited=True), draft())
    assert store.abandon_waited() == 1
    states = {job: row.state for job in (waited, bulk) if (row := store.job(job))}
    assert states == {waited: State.CANCELLED, bulk: State.QUEUED}


def test_mates_are_of_the_same_task_and_at_least_as_urgent(store: OneWorker) -> None:
    embed = submitted(store, draft(Priority.BATCH, task="completion"), draft(Priority.BATCH, task="completion"))
    other = submitted(store, draft(Priority.BATCH, task="chat"))
    first = store.take(Kind.VLM)
    assert first is not None
    assert store.take_mates(first, 0) == []
    (mate,) = store.take_mates(first, 9)
    assert mate.id == embed[1] and mate.state is State.RUNNING and mate.attempts == 1
    assert store.take_mates(first, 9) == []
    last = store.take(Kind.VLM)
    assert last is not None and last.id == other[0], "a job of another task stays in the line"


def test_mates_of_a_dead_worker_are_all_blamed_but_run_alone_from_then_on(store: OneWorker) -> None:
    submitted(store, draft(Priority.BATCH, task="completion"), draft(Priority.BATCH, task="completion"))
    first = store.take(Kind.VLM)
    assert first and len(store.take_mates(first, 9)) == 1
    assert [state for _, state in store.recover(Kind.VLM, 3)] == [State.QUEUED] * 2
    again = store.take(Kind.VLM)
    assert again and again.id == first.id and again.attempts == 2
    assert store.take_mates(again, 9) == [], "a suspect takes no mates, and is none"


def test_a_job_that_waited_for_an_inner_one_is_not_blamed_for_its_crash(store: OneWorker) -> None:
    bulk, mate = submitted(store, draft(task="completion"), draft(task="completion"))
    outer = store.take(Kind.VLM)
    assert outer and outer.id == bulk
    assert len(store.take_mates(outer, 9)) == 1
    (caller,) = submitted(store, draft(Priority.INTERACTIVE))
    inner = store.take(Kind.VLM, above=Priority.INBOX)
    assert inner and inner.id == caller
    store.recover(Kind.VLM, 3)
    attempts = {id: job.attempts for id in (bulk, mate, caller) if (job := store.job(id))}
    assert attempts == {bulk: 0, mate: 0, caller: 1}


def test_a_job_put_back_while_it_ends_keeps_its_payload_and_is_not_ended(store: OneWorker, tmp_path: Path) -> None:
    blob = keep_in(tmp_path, b"a picture")
    (job,) = submitted(store, draft(blobs=(blob,)))
    assert store.take(Kind.VLM)
    store.put_back(job, count=False)
    assert not store.end(job, State.DONE, result="{}")
    assert store.referred(blob)
    row = store.job(job)
    assert row and row.state is State.QUEUED and row.attempts == 0


def test_two_takers_never_get_the_same_job(database_or_roles: Path | str | RoleAddresses) -> None:
    stores = [OneWorker(open_store_of(database_or_roles), f"w{number}") for number in range(2)]
    ids = submitted(stores[0], *(draft() for _ in range(60)))
    taken: list[str] = []

    def take(store: OneWorker) -> None:
        while job := store.take(Kind.VLM):
            taken.append(job.id)

    threads = [threading.Thread(target=take, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)
    for store in stores:
        store.close()


def test_counters_follow_every_state_and_survive_deletion(store: OneWorker) -> None:
    done, failed, queued = submitted(store, draft(Priority.INTERACTIVE), draft(Priority.BATCH), draft())
    store.take(Kind.VLM)
    store.end(done, State.DONE, result="{}")
    store.take(Kind.VLM)
    store.end(failed, State.FAILED, error={"message": "no"})
    tally = {(priority, state): n for _, _, priority, state, n in store.tally()}
    assert tally == {(20, "done"): 1, (10, "failed"): 1, (0, "queued"): 1}
    assert {(state, n) for _, state, n, _, _ in store.today()} == {("done", 1), ("failed", 1)}
    with store.transaction() as transaction:
        transaction.execute("delete from job where id=?", (done,))
    assert sum(n for *_, n in store.tally()) == 2
    assert store.ahead(queued) == 0


def test_a_done_job_lets_go_of_its_payload_and_a_failed_one_keeps_it_for_a_retry(store: OneWorker, tmp_path: Path) -> None:
    a, b = keep_in(tmp_path, b"a"), keep_in(tmp_path, b"b")
    done, failed = submitted(store, draft(blobs=(a,)), draft(blobs=(b,)))
    store.take(Kind.VLM)
    store.end(done, State.DONE, result="{}")
    store.take(Kind.VLM)
    store.end(failed, State.FAILED, error={"message": "no"})
    assert store.orphans(10) == [a]
    assert store.referred(b) and not store.referred(a)


def test_checkpoints_come_back_in_order_and_go_when_the_job_is_done(store: OneWorker) -> None:
    (job,) = submitted(store, draft())
    store.take(Kind.VLM)
    for step in (2, 0, 1):
        store.checkpoint(job, step, json.dumps({"step": step}))
    assert [json.loads(c)["step"] for c in store.checkpoints(job)] == [0, 1, 2]
    store.end(job, State.DONE, result="{}")
    assert store.checkpoints(job) == []


def test_jobs_are_listed_newest_first_and_filtered(store: OneWorker) -> None:
    ids = submitted(store, *(draft() for _ in range(5)), draft(task="transcribe"))
    assert [job.id for job in store.jobs(limit=2)] == sorted(ids, reverse=True)[:2]
    assert {job.id for job in store.jobs(kind=Kind.STT)} == {ids[5]}
    assert store.jobs(origin=Origin.BATCH) == [] and store.jobs(state=State.FAILED) == []
    assert store.find(ids[0]).id == ids[0]
    with pytest.raises(NotFound):
        store.find("zzz")


def test_expired_jobs_go_and_the_young_stay(store: OneWorker) -> None:
    old, young = submitted(store, draft(), draft())
    for job in (old, young):
        store.take(Kind.VLM)
        store.end(job, State.DONE, result="{}")
    with store.transaction() as transaction:
        transaction.execute("update job set id=?, finished_at=1 where id=?", ("0" * 20, old))
    assert store.expire(Origin.INBOX, before=1000.0) == 1
    assert [job.id for job in store.jobs()] == [young]


def test_a_database_of_a_newer_batch_is_refused_with_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "batch.db"
    open_store(path).close()
    with sqlite3.connect(path) as conn:
        conn.execute(f"pragma user_version={VERSION + 1}")
    conn.close()
    with pytest.raises(NewerDatabase, match="newer batch"):
        open_store(path)


def test_database_and_folders_are_for_their_owner_only(tmp_path: Path) -> None:
    store = open_store(tmp_path / "state" / "batch.db")
    store.submit(draft())
    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    for file in (tmp_path / "state").iterdir():
        assert file.stat().st_mode & 0o077 == 0, file
    store.close()
