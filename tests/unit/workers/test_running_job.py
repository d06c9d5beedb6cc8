"""How a worker ends the jobs in its hands."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from batch.errors import DiskFull
from batch.payloads.embedding import EmbeddingResult
from batch.queue.channel import EventStream, socket_path
from batch.queue.frames import ABSENT, End, WorkerFrame
from batch.queue.jobs import Draft, Kind, Origin, Priority, State
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.queue.store import Ending, Store, Transaction
from batch.workers.job_context import JobContext
from batch.workers.running_job import RunningJob
from payloads import payload

RESULT = EmbeddingResult(count=1, dimensions=1, vectors="AACAPw==", tokens=[3], ms=1.0)


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The supervisor's end of the stream of events."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(socket_path(tmp_path, "events")))
    listener.listen()
    yield listener
    listener.close()


@pytest.fixture
def events(listener: socket.socket, tmp_path: Path) -> Iterator[EventStream]:
    """The worker's end."""
    assert listener
    events = EventStream(tmp_path)
    yield events
    events._socket.close()


@pytest.fixture
def connection(events: EventStream, listener: socket.socket) -> Iterator[socket.socket]:
    """What the supervisor hears on."""
    assert events
    connection = listener.accept()[0]
    yield connection
    connection.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(tmp_path / "batch.db")
    yield store
    store.close()


def claimed(store: Store, events: EventStream, folder: Path, drafts: list[Draft]) -> tuple[RunningJob, list[RunningJob]]:
    """The first of the jobs, and the others claimed to be done together with it."""
    context = JobContext(Kind.EMBEDDING, store, Spool(folder / "spool"), events, 1, "w1")
    with store.transaction() as transaction:
        for draft in drafts:
            transaction.submit(draft)
    (lease,) = store.take(Kind.EMBEDDING, context.worker_id)
    lead = RunningJob(context, lease, report_start_late=True)
    context.running.append(lead)
    mates = lead.claim_batch_mates(len(drafts))
    return lead, [mate for mate in mates if isinstance(mate, RunningJob)]


def draft(priority: Priority = Priority.INBOX) -> Draft:
    waited = priority is Priority.INTERACTIVE
    return Draft(payload("embed"), Origin.HTTP if waited else Origin.INBOX, priority, waited=waited)


def ends(connection: socket.socket, count: int) -> list[End]:
    """So many ends of jobs, as the supervisor hears of them."""
    heard: list[End] = []
    with connection.makefile("rb") as lines:
        while len(heard) < count:
            frame = msgspec.json.decode(lines.readline(), type=WorkerFrame)
            if isinstance(frame, End):
                heard.append(frame)
    return heard


def test_jobs_that_are_done_together_end_in_one_transaction_and_each_is_told_of(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead, mates = claimed(store, events, tmp_path, [draft() for _ in range(4)])
    flushed: list[bool] = []
    begin = store.transaction

    def note(*, durable: bool = False) -> AbstractContextManager[Transaction]:
        flushed.append(durable)
        return begin(durable=durable)

    monkeypatch.setattr(store, "transaction", note)
    done = [lead, *mates[:2]]
    lead.finish_mates([(one, RESULT) for one in done])
    assert flushed == [True], "one flush to the disk for all of them"
    heard = ends(connection, 3)
    assert [end.job for end in heard] == [one.job.id for one in done]
    assert {end.resumes for end in heard} == {mates[2].job.id}, "the one that is still in hand"
    for one in done:
        row = store.job(one.job.id)
        assert row is not None and row.state is State.DONE and row.result == RESULT
    assert store.read("select job from claim") == [(mates[2].job.id,)]


def test_a_full_disk_holds_up_no_client_whose_answer_is_there_and_loses_no_other_jobs(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.workers.job_context.DISK_RETRY_S", 0.0)
    lead, mates = claimed(store, events, tmp_path, [draft()])
    assert not mates
    with store.transaction() as transaction:
        for priority in (Priority.INBOX, Priority.INTERACTIVE):
            transaction.submit(draft(priority))
    mates = [mate for mate in lead.claim_batch_mates(2) if isinstance(mate, RunningJob)]
    client, other = sorted(mates, key=lambda mate: not mate.job.waited)
    refusals = [DiskFull("The disk is full."), DiskFull("The disk is full.")]
    write = store.end
    before: list[list[End]] = []

    def refuse(endings: list[Ending], *, durable: bool = False) -> list[bool]:
        if refusals:
            raise refusals.pop()
        before.append(ends(connection, 1))
        return write(endings, durable=durable)

    monkeypatch.setattr(store, "end", refuse)
    lead.finish_mates([(one, RESULT) for one in (lead, other, client)])
    assert [end.job for end in before[0]] == [client.job.id], "told before anything could be written"
    assert {end.job for end in ends(connection, 2)} == {lead.job.id, other.job.id}
    assert store.read("select count(*) from claim") == [(0,)]


def test_a_job_that_was_put_back_is_claimed_again_as_if_for_the_first_time_also_once_the_lead_has_ended(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path
) -> None:
    assert connection
    lead, mates = claimed(store, events, tmp_path, [draft() for _ in range(3)])
    for ends_lead in (False, True):
        if ends_lead:
            lead.finish(RESULT)
        mates[0].put_back()
        row = store.job(mates[0].job.id)
        assert row is not None and row.state is State.QUEUED and row.attempts == 0
        again = lead.claim_batch_mates(5)
        assert [(work.job.id, work.job.attempts) for work in again] == [(mates[0].job.id, 1)]
        mates[:1] = [work for work in again if isinstance(work, RunningJob)]
    lead.finish_mates([(mate, RESULT) for mate in mates])
    assert store.read("select job from claim") == []


def test_a_client_has_its_vector_before_the_row_has_it_and_the_row_before_the_job_is_called_ended(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lead, _ = claimed(store, events, tmp_path, [draft(Priority.INTERACTIVE)])
    end, heard = store.end, []

    def end_later(endings: Sequence[Ending], *, durable: bool = False) -> list[bool]:
        heard.extend(ends(connection, 1))
        return end(endings, durable=durable)

    monkeypatch.setattr(store, "end", end_later)
    lead.finish(RESULT)
    heard += ends(connection, 1)
    assert [end.is_written for end in heard] == [False, True]
    assert msgspec.json.decode(heard[0].result, type=EmbeddingResult) == RESULT
    assert heard[1].result == ABSENT, "it is not sent twice"
    row = store.job(lead.job.id)
    assert row is not None and row.state is State.DONE and row.result == RESULT


@pytest.mark.parametrize("why", ["nobody waits", "others have the database", "its steps are long"])
def test_a_job_is_told_of_once_it_is_written_down_where_that_is_safer(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    lead, _ = claimed(store, events, tmp_path, [draft(Priority.BATCH if why == "nobody waits" else Priority.INTERACTIVE)])
    monkeypatch.setattr(store, "is_shared", why == "others have the database")
    monkeypatch.setattr(lead, "_report_start_late", why != "its steps are long")
    lead.finish(RESULT)
    (end,) = ends(connection, 1)
    assert end.is_written and msgspec.json.decode(end.result, type=EmbeddingResult) == RESULT


def next_claimed(context: JobContext, store: Store, *drafts: Draft) -> list[RunningJob]:
    """Further jobs in the hands of the same worker, one inside the other."""
    store.submit(*drafts)
    return [RunningJob(context, lease, report_start_late=True) for lease in store.take(Kind.EMBEDDING, "w1", limit=len(drafts))]


def states(store: Store, jobs: Sequence[RunningJob]) -> list[State]:
    rows = [store.job(one.job.id) for one in jobs]
    return [row.state for row in rows if row is not None]


def test_the_ends_of_clients_jobs_that_follow_one_another_are_written_down_together_in_a_moment_of_rest(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.workers.job_ends.MAX_UNWRITTEN_S", 3600.0)
    context = JobContext(Kind.EMBEDDING, store, Spool(tmp_path / "spool"), events, 1, "w1")
    jobs = next_claimed(context, store, *(draft(Priority.INTERACTIVE) for _ in range(3)))
    for one in jobs:
        one.yield_point()
        one.finish(RESULT)
        (end,) = ends(connection, 1)
        assert end.job == one.job.id and not end.is_written
        assert msgspec.json.decode(end.result, type=EmbeddingResult) == RESULT
    assert states(store, jobs) == [State.RUNNING] * 3 and context.ends.are_unwritten
    assert sorted(context.leases) == sorted(one.lease.token for one in jobs), "each is renewed until it is written"
    context.begin_look()
    assert states(store, jobs) == [State.DONE] * 3 and not context.ends.are_unwritten and not context.leases
    assert [(end.job, end.is_written) for end in ends(connection, 3)] == [(one.job.id, True) for one in jobs]


@pytest.mark.parametrize("why", ["many", "a while ago", "another job goes on"])
def test_an_end_that_was_told_does_not_wait_for_rest_that_may_not_come(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    assert connection
    monkeypatch.setattr("batch.workers.job_ends.MAX_UNWRITTEN", 2 if why == "many" else 1000)
    monkeypatch.setattr("batch.workers.job_ends.MAX_UNWRITTEN_S", 0.0 if why == "a while ago" else 3600.0)
    context = JobContext(Kind.EMBEDDING, store, Spool(tmp_path / "spool"), events, 1, "w1")
    first, second, third = next_claimed(context, store, *(draft(Priority.INTERACTIVE) for _ in range(3)))
    first.finish(RESULT)
    assert states(store, [first]) == [State.RUNNING]
    match why:
        case "many":
            second.finish(RESULT)
        case "a while ago":
            third.yield_point()
        case "another job goes on":
            context.running.append(third)
            second.finish(RESULT)
    assert states(store, [first]) == [State.DONE]


def test_a_full_disk_delays_what_was_told_until_the_service_stops_and_then_the_next_start_has_it(
    store: Store, events: EventStream, connection: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.workers.job_context.DISK_RETRY_S", 0.0)
    context = JobContext(Kind.EMBEDDING, store, Spool(tmp_path / "spool"), events, 1, "w1")
    first, second = next_claimed(context, store, draft(Priority.INTERACTIVE), draft(Priority.INTERACTIVE))
    write, refusals = store.end, [DiskFull("The disk is full.")] * 2

    def refuse(endings: list[Ending], *, durable: bool = False) -> list[bool]:
        if refusals:
            raise refusals.pop()
        return write(endings, durable=durable)

    monkeypatch.setattr(store, "end", refuse)
    first.finish(RESULT)
    context.ends.write_told()
    assert not refusals and states(store, [first]) == [State.DONE]
    refusals += [DiskFull("The disk is full.")] * 1000
    context.deadline = 0.0
    second.finish(RESULT)
    context.ends.write_told()
    assert states(store, [second]) == [State.RUNNING], "its claim stays"
    assert [end.is_written for end in ends(connection, 2)] == [False, True]


@pytest.mark.parametrize("takes_writes", [True, False])
def test_a_process_that_ends_writes_down_what_it_told_without_waiting_for_the_disk(
    store: Store,
    events: EventStream,
    connection: socket.socket,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    takes_writes: bool,
) -> None:
    assert connection
    context = JobContext(Kind.EMBEDDING, store, Spool(tmp_path / "spool"), events, 1, "w1")
    (job,) = next_claimed(context, store, draft(Priority.INTERACTIVE))
    job.finish(RESULT)

    def refuse(endings: list[Ending], *, durable: bool = False) -> list[bool]:
        raise DiskFull("The disk is full.")

    if not takes_writes:
        monkeypatch.setattr(store, "end", refuse)
    context.ends.leave()
    assert states(store, [job]) == [State.DONE if takes_writes else State.RUNNING] and not context.ends.are_unwritten
