"""Who runs what where several workers share a queue: order, jobs that are kept for a worker or for a build, and the first
milliseconds that belong to idle workers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from batch.errors import Cancelled
from batch.queue.channel import EventStream
from batch.queue.huey_storage import IDLE_LOOK_S, JobHuey
from batch.queue.jobs import Draft, Kind, Lease, Origin, Priority
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Store
from batch.workers import job_context
from batch.workers.job_context import JobContext
from batch.workers.running_job import RunningJob
from payloads import payload
from postgres_server import PostgresServer
from running_service import wait_until

pytestmark = pytest.mark.postgres
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def store(postgres_server: PostgresServer) -> Iterator[Store]:
    url = postgres_server.new_database()
    store = open_store(url, front="f1")
    yield store
    store.close()
    postgres_server.empty_database(url)


class Queue:
    """A queue of a test's own, and the workers that share it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.model = f"m{next(_NUMBERS)}"
        self.name = f"vlm:{self.model}"
        self.free_in_s: list[float] = []
        """What takes were told of jobs that they passed over."""

    def submit(self, priority: Priority = Priority.INTERACTIVE, *, holder: str = "", hold_s: float = 0.0) -> str:
        draft = Draft(payload("chat"), Origin.HTTP, priority, model=self.model, holder=holder, hold_s=hold_s)
        self.store.submit(draft)
        return draft.id

    def join(self, worker: str, build: str = "one", **fields: object) -> str:
        id = f"{worker}-{self.model}"
        node = Node(id, Kind.VLM, self.name, "ready", build=build)
        for name, value in fields.items():
            object.__setattr__(node, name, value)
        self.store.register(node)
        return id

    def lease(self, worker: str, **options: float) -> Lease | None:
        self.free_in_s.clear()
        leases = self.store.take(self.name, worker, passed_over=self.free_in_s.append, **options)  # type: ignore[arg-type]
        return leases[0] if leases else None

    def take(self, worker: str, **options: float) -> str | None:
        lease = self.lease(worker, **options)
        return lease.job.id if lease else None

    def age(self, seconds: float) -> None:
        """As if all jobs had been submitted so much earlier."""
        with self.store.transaction() as transaction:
            transaction.execute("update job set created_at = created_at - ? where model = ?", (seconds, self.model))

    def let_holds_run_out(self) -> None:
        with self.store.transaction() as transaction:
            transaction.execute("update task set held_until = held_until - interval '9 seconds' where queue = ?", (self.name,))


@pytest.fixture
def queue(store: Store) -> Queue:
    return Queue(store)


def test_the_order_is_priority_then_age_whichever_worker_takes(queue: Queue) -> None:
    bulk = [queue.submit(Priority.BATCH) for _ in range(3)]
    inbox = queue.submit(Priority.INBOX)
    urgent = [queue.submit() for _ in range(3)]
    assert [queue.take(f"w{n % 3}") for n in range(8)] == [*urgent, *bulk, inbox, None]
    assert queue.free_in_s == []


def test_a_job_that_is_kept_for_a_worker_is_passed_over_by_others_until_then_and_by_nobody_later(queue: Queue) -> None:
    kept = queue.submit(holder="w1", hold_s=0.5)
    second = queue.submit()
    assert queue.take("w2") == second and queue.free_in_s == [], "there is other work"
    assert queue.take("w2") is None
    assert 0 < queue.free_in_s[0] <= 0.5, "when to look again"
    assert queue.take("w1") == kept
    later, first_again = queue.submit(holder="w1", hold_s=0.5), queue.submit()
    assert queue.take("w1") == later, "for its worker the order stays"
    assert queue.take("w1") == first_again
    orphan = queue.submit(holder="gone", hold_s=0.5)
    queue.let_holds_run_out()
    assert queue.take("w2") == orphan


def test_an_idle_worker_looks_again_at_the_moment_a_kept_job_is_free(queue: Queue) -> None:
    ran: list[str] = []
    storage = JobHuey(queue.name, queue.store, "w2", ran.append).storage
    queue.submit(holder="w1", hold_s=0.2)
    begun = time.monotonic()
    assert storage.dequeue() is None
    assert time.monotonic() - begun < IDLE_LOOK_S / 2
    assert storage.dequeue() is not None, "it is another's no more"
    assert storage.claim() is None and storage.next_look_s == IDLE_LOOK_S


def test_a_second_attempt_is_kept_for_workers_of_the_same_build(queue: Queue) -> None:
    first, other, same = queue.join("first"), queue.join("other", "two"), queue.join("same")
    job = queue.submit()
    lease = queue.lease(first)
    assert lease is not None
    queue.store.put_back(lease, count=True)
    assert queue.take(other) is None
    assert 0 < queue.free_in_s[0] <= 0.5
    assert queue.take(same) == job


def test_a_worker_of_another_build_takes_a_second_attempt_once_the_half_second_is_over(queue: Queue) -> None:
    first, other = queue.join("first"), queue.join("other", "two")
    queue.join("same")
    job = queue.submit()
    lease = queue.lease(first)
    assert lease is not None
    queue.store.put_back(lease, count=True)
    assert queue.take(other) is None
    queue.let_holds_run_out()
    assert queue.take(other) == job


@pytest.mark.parametrize("why", ["none", "silent", "draining", "loading", "interactive", "the dead one itself"])
def test_a_second_attempt_waits_for_no_build_of_which_no_worker_could_take_it(queue: Queue, why: str) -> None:
    first, other = queue.join("first"), queue.join("other", "two")
    if why not in ("none", "the dead one itself"):
        same = queue.join("same", takes="interactive" if why == "interactive" else "all")
        if why == "silent":
            with queue.store.transaction() as transaction:
                transaction.execute("update node set beat = beat - interval '20 seconds' where id = ?", (same,))
        elif why == "draining":
            queue.store.drain(same)
        elif why == "loading":
            queue.join("same", status="loading")
    job = queue.submit(Priority.BATCH)
    assert queue.take(first) == job
    if why == "the dead one itself":
        queue.store.recover(queue.name, queue.join("successor", status="loading"), 3, predecessor=first)
        assert first not in [node.id for node in queue.store.nodes()]
    else:
        lease = queue.store.take(queue.name, first, above=99)
        assert lease == []
        ((token,),) = queue.store.read("select token from claim where job = ?", (job,))
        row = queue.store.job(job)
        assert row is not None
        queue.store.put_back(Lease(row, token), count=True)
    assert queue.take(other) == job


def test_the_jobs_of_a_dead_worker_are_kept_for_its_build_by_its_successor_too(queue: Queue) -> None:
    first, other, same = queue.join("first"), queue.join("other", "two"), queue.join("same")
    job = queue.submit()
    assert queue.take(first) == job
    queue.store.recover(queue.name, queue.join("successor", "", status="loading"), 3, predecessor=first)
    assert queue.take(other) is None
    assert queue.take(same) == job


def test_a_busy_worker_leaves_the_first_milliseconds_of_a_request_to_idle_ones(queue: Queue) -> None:
    urgent = queue.submit()
    assert queue.take("busy", above=0.0, waited_s=30.0) is None
    assert 0 < queue.free_in_s[0] <= 30.0
    assert queue.take("idle") == urgent
    large, urgent = queue.submit(Priority.LARGE_REQUEST), queue.submit()
    queue.age(31.0)
    late = queue.submit()
    assert [queue.take("busy", above=0.0, waited_s=30.0) for _ in range(3)] == [urgent, large, None]
    assert queue.take("idle") == late


class PlayedWorker:
    """A worker that is busy with a bulk job; what it runs inside that is noted."""

    def __init__(self, queue: Queue, folder: Path) -> None:
        self.nested: list[str] = []
        self.context = JobContext(queue.name, queue.store, Spool(folder / "spool"), _Silent(), 1, "busy")
        self.context.huey = JobHuey(queue.name, queue.store, "busy", self.nested.append)
        lease = queue.lease("busy")
        assert lease is not None
        self.bulk = RunningJob(self.context, lease, report_start_late=False)
        self.context.running.append(self.bulk)


class _Silent(EventStream):
    """Nobody listens."""

    def __init__(self) -> None:
        pass

    def hurry(self, now: float) -> None:
        pass

    def send(self, frame: object) -> None:
        pass


@pytest.fixture
def busy_worker(queue: Queue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], PlayedWorker]]:
    workers: list[PlayedWorker] = []

    def play() -> PlayedWorker:
        queue.submit(Priority.INBOX)
        workers.append(PlayedWorker(queue, tmp_path))
        return workers[-1]

    yield play
    for worker in workers:
        worker.context._cores.close()


def test_a_worker_busy_with_bulk_work_runs_a_request_inside_it_once_that_has_waited_25_milliseconds(
    queue: Queue, busy_worker: Callable[[], PlayedWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = busy_worker()
    assert job_context.NEST_AFTER_S == 0.025
    monkeypatch.setattr(job_context, "NEST_AFTER_S", 30.0)
    urgent = queue.submit()
    for _ in range(3):
        worker.context.attention = True
        worker.bulk.yield_point(1)
    assert worker.nested == []
    queue.age(31.0)  # however many wake-ups there were for other jobs
    worker.context.attention = True
    worker.bulk.yield_point(1)
    assert worker.nested == [urgent]


def test_a_request_that_no_idle_worker_takes_is_run_without_another_wake_up(
    queue: Queue, busy_worker: Callable[[], PlayedWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = busy_worker()
    monkeypatch.setattr("batch.workers.running_job.LOOK_INTERVAL_S", 600.0)
    urgent = queue.submit()
    worker.context.attention = True
    wait_until(lambda: worker.bulk.yield_point(1) and worker.nested == [urgent], "it is run inside")


def test_a_running_job_looks_into_a_shared_database_every_two_seconds_and_at_once_when_it_is_told_to(
    queue: Queue, busy_worker: Callable[[], PlayedWorker], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = time.monotonic()
    monkeypatch.setattr("batch.workers.running_job.time.monotonic", lambda: clock)
    looks: list[float] = []
    is_cancelled = queue.store.cancelled

    def note(job: str) -> bool:
        looks.append(clock)
        return is_cancelled(job)

    monkeypatch.setattr(queue.store, "cancelled", note)
    worker = busy_worker()
    mate = queue.submit(Priority.INBOX)
    (claimed,) = worker.bulk.claim_batch_mates(1)
    assert claimed.job.id == mate
    for _ in range(200):
        clock += 0.05
        worker.bulk.yield_point(1)
    assert 5 <= len(looks) <= 6, looks
    looks.clear()
    queue.store.cancel(mate)
    worker.context.attention = True
    worker.bulk.yield_point(1)
    assert looks == [clock]
    with pytest.raises(Cancelled):
        for _ in range(10):
            clock += 0.05
            claimed.yield_point(1)
