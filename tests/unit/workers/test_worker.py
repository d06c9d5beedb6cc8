"""What a worker does with what other threads tell it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from batch.errors import Cancelled
from batch.queue.channel import socket_path
from batch.queue.frames import Handed
from batch.queue.jobs import Draft, Job, Kind, Lease, Origin, Priority, State
from batch.queue.nodes import WorkerSecret
from batch.settings import Settings
from batch.workers.fake_engine import WeightlessEngine
from batch.workers.running_job import RunningJob
from batch.workers.worker import Worker
from payloads import payload


class InterruptedEngine(WeightlessEngine):
    """Counts how often its native call is stopped."""

    def __init__(self) -> None:
        super().__init__(Kind.STT)
        self.interrupts = 0

    def interrupt(self) -> None:
        self.interrupts += 1


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(socket_path(settings.state_dir, "events")))
        listener.listen()
        worker = Worker(Kind.STT, settings, InterruptedEngine(), secret=WorkerSecret("w" * 24))
        yield worker
        worker._context.close()
        worker._events._socket.close()


def test_the_native_call_is_stopped_for_each_job_that_is_heard_in_it_and_for_no_other(worker: Worker) -> None:
    context, engine = worker._context, worker._engine
    assert isinstance(engine, InterruptedEngine)
    for _ in range(3):
        context.store.submit(Draft(payload("transcribe"), Origin.INBOX, Priority.BATCH))
    (lease,) = context.store.take(Kind.STT, context.worker_id)
    lead = RunningJob(context, lease, report_start_late=False)
    context.running.append(lead)
    (mate,) = lead.claim_batch_mates(1)
    worker._stop_jobs(frozenset({"of nobody here"}))
    assert engine.interrupts == 0
    worker._stop_jobs(frozenset({mate.job.id}))
    assert engine.interrupts == 1
    worker._stop_jobs(frozenset({lease.job.id}))
    assert engine.interrupts == 2
    mate.put_back()
    worker._stop_jobs(frozenset({mate.job.id}))
    assert engine.interrupts == 2, "its job has ended here"


def test_a_wake_up_is_seen_in_every_job_in_hand_though_another_has_looked_what_is_up_meanwhile(worker: Worker) -> None:
    context = worker._context
    for _ in range(2):
        context.store.submit(Draft(payload("transcribe"), Origin.INBOX, Priority.BATCH))
    (lease,) = context.store.take(Kind.STT, context.worker_id)
    lead = RunningJob(context, lease, report_start_late=False)
    context.running.append(lead)
    (mate,) = lead.claim_batch_mates(1)
    before = lead.wake_ups
    worker._woken()
    mate.yield_point()
    assert not context.attention
    assert lead.wake_ups == mate.wake_ups == before + 1


def test_a_job_that_its_predecessor_was_handed_is_none_of_a_workers(worker: Worker) -> None:
    job = Job("j1", Kind.STT, "transcribe", State.RUNNING, Origin.HTTP, Priority.INTERACTIVE, "{}", 0.0)
    worker._handed(Handed(worker="another", lease=Lease(job, 1)))
    assert worker._storage.claim() is None
    worker._handed(Handed(worker=worker._context.worker_id, lease=Lease(job, 2)))
    assert worker._storage.claim() is not None and worker._storage.lease == Lease(job, 2)


def test_batch_mates_of_a_job_that_was_handed_over_are_looked_for_once_another_job_has_come(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = worker._context
    context.store.submit(Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True))
    (lease,) = context.store.take(Kind.STT, context.worker_id)
    worker._handed(Handed(worker=context.worker_id, lease=lease))
    assert worker._storage.claim() is not None
    running = RunningJob(context, lease, report_start_late=True)
    context.store.submit(Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True))
    assert running.claim_batch_mates(1) == [], "nobody has told of one"
    worker._woken()
    assert len(running.claim_batch_mates(1)) == 1


def test_what_was_told_before_a_look_for_the_next_job_makes_that_job_look_no_more_and_what_comes_later_does(
    worker: Worker,
) -> None:
    context = worker._context
    context.store.submit(Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True))
    worker._woken()
    assert context.attention
    assert worker._storage.dequeue() is not None and not context.attention
    worker._woken()
    assert context.attention, "it may be cancelled"


def test_a_job_that_is_cancelled_between_its_hand_over_and_its_start_stops_at_its_first_yield_point(worker: Worker) -> None:
    context = worker._context
    context.store.submit(Draft(payload("transcribe"), Origin.HTTP, Priority.INTERACTIVE, waited=True))
    (lease,) = context.store.take(Kind.STT, context.worker_id)
    assert worker._storage.dequeue() is None, "the worker has looked, and waits"
    worker._handed(Handed(worker=context.worker_id, lease=lease))
    assert context.store.cancel(lease.job.id) is State.RUNNING
    worker._woken()
    assert worker._storage.dequeue() is not None and worker._storage.lease == lease
    with pytest.raises(Cancelled):
        RunningJob(context, lease, report_start_late=False).yield_point()
