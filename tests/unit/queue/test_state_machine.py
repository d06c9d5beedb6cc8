"""The store against a model of it: random lives of jobs, checked after every step."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from batch.errors import Conflict, NotFound
from batch.queue.jobs import TRANSITIONS, Draft, Kind, Origin, Priority, State
from batch.queue.nodes import Node
from batch.queue.open_store import open_store
from batch.queue.sqlite.sqlite_store import SqliteStore
from one_worker import OneWorker
from payloads import keep_in, payload
from postgres_server import PostgresServer
from property_examples import examples

SCALE = int(os.environ.get("FUZZ_SCALE", "1"))
"""How much longer than in CI the random walks are."""


@dataclass
class Expected:
    kind: Kind
    priority: int
    waited: bool
    place: int
    """Where its message stands in its class."""
    state: State = State.QUEUED
    attempts: int = 0
    cancel: bool = False
    blobs: set[str] = field(default_factory=set)
    checkpoints: int = 0


BLOBS = {hashlib.sha256(text).hexdigest(): text for text in (b"a", b"b")}


class Lives(RuleBasedStateMachine):
    jobs = Bundle("jobs")
    stranger = "insert into task (queue, data, priority) values ('vlm', ?, 20)"
    """What somebody else may write into the queue."""

    def new_database(self) -> Path | str:
        return self.folder / "batch.db"

    def remove_database(self) -> None: ...

    @initialize()
    def open(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
        self.database = self.new_database()
        for text in BLOBS.values():
            keep_in(self.folder, text)
        self.store = OneWorker(open_store(self.database, home=self.folder))
        self.model: dict[str, Expected] = {}
        self.claims: dict[Kind, list[str]] = {kind: [] for kind in Kind}
        self.places = 0

    def teardown(self) -> None:
        self.store.close()
        self.remove_database()
        shutil.rmtree(self.folder)

    # -- what doors, workers and people do

    @rule(
        target=jobs,
        kind=st.sampled_from([Kind.VLM, Kind.STT]),
        priority=st.sampled_from(Priority),
        waited=st.booleans(),
        blob=st.sampled_from(["", *BLOBS]),
    )
    def submit(self, kind: Kind, priority: Priority, waited: bool, blob: str) -> str:
        draft = Draft(
            payload("chat" if kind is Kind.VLM else "transcribe"),
            Origin.HTTP if waited else Origin.INBOX,
            priority,
            (blob,) * bool(blob),
            waited=waited,
        )
        self.store.submit(draft, durable=not waited)
        self.places += 1
        self.model[draft.id] = Expected(kind, priority, waited, self.places, blobs={blob} if blob else set())
        return draft.id

    @rule(target=jobs, kind=st.sampled_from([Kind.VLM, Kind.STT]), priority=st.sampled_from(Priority))
    def submit_to_its_worker(self, kind: Kind, priority: Priority) -> str:
        """One that is idle has the job at once, unless the queue holds anything, somebody else's messages included."""
        if not isinstance(self.store.store, SqliteStore):
            return self.submit(kind, priority, True, "")
        draft = Draft(payload("chat" if kind is Kind.VLM else "transcribe"), Origin.HTTP, priority, waited=True)
        self.store.register(Node(self.store.worker, kind, kind, status="ready"))
        others = self.store.read("select count(*) from task where queue=?", (kind,))[0][0]
        lease = self.store.submit_to(draft)
        self.places += 1
        mine = self.model[draft.id] = Expected(kind, priority, True, self.places)
        if lease is not None:
            mine.state, mine.attempts = State.RUNNING, 1
            self.claims[kind].append(draft.id)
            assert not others and self.claims[kind] == [draft.id]
        elif self.places > 1:  # the very first job of a database is queued
            assert others or self.claims[kind]
        return draft.id

    @rule(kind=st.sampled_from([Kind.VLM, Kind.STT]), above=st.sampled_from([None, *Priority]))
    def take(self, kind: Kind, above: int | None) -> None:
        line = [
            (-e.priority, e.place, job)
            for job, e in self.model.items()
            if e.kind is kind and e.state is State.QUEUED and (above is None or e.priority > above)
        ]
        taken = self.store.take(kind, above=above)
        assert (taken.id if taken else None) == (min(line)[2] if line else None)
        if taken:
            mine = self.model[taken.id]
            mine.state, mine.attempts = State.RUNNING, mine.attempts + 1
            self.claims[kind].append(taken.id)
            assert taken.state is State.RUNNING and taken.attempts == mine.attempts

    @rule(job=jobs, state=st.sampled_from([State.DONE, State.FAILED, State.CANCELLED]))
    def end(self, job: str, state: State) -> None:
        mine = self.model[job]
        running = mine.state is State.RUNNING
        result, error = ('{"a":1}', None) if state is State.DONE else (None, {"message": "no", "class": "BadRequest"})
        assert self.store.end(job, state, result=result, error=error) is running
        if running:
            self._ended(job, state)

    @rule(job=jobs)
    def cancel(self, job: str) -> None:
        mine = self.model[job]
        match mine.state:
            case State.QUEUED:
                mine.state, mine.cancel = State.CANCELLED, True
            case State.RUNNING:
                mine.cancel = True
        assert self.store.cancel(job) is mine.state

    @rule(job=jobs)
    def retry(self, job: str) -> None:
        mine = self.model[job]
        if mine.state not in (State.FAILED, State.CANCELLED):
            with pytest.raises(Conflict):
                self.store.retry(job)
            return
        self.store.retry(job)
        self.places += 1
        mine.state, mine.attempts, mine.cancel, mine.waited, mine.place = State.QUEUED, 0, False, False, self.places

    @rule(job=jobs, count=st.booleans())
    def put_back(self, job: str, count: bool) -> None:
        mine = self.model[job]
        self.store.put_back(job, count=count)
        if mine.state is State.RUNNING:
            self.claims[mine.kind].remove(job)
            mine.state, mine.attempts = State.QUEUED, mine.attempts - (not count)

    @rule(job=jobs, step=st.integers(0, 3))
    def checkpoint(self, job: str, step: int) -> None:
        if self.model[job].state is State.RUNNING:
            self.store.checkpoint(job, step, '{"step":1}')
            self.model[job].checkpoints |= 1 << step

    @rule(kind=st.sampled_from([Kind.VLM, Kind.STT]), limit=st.integers(1, 3))
    def worker_died(self, kind: Kind, limit: int) -> None:
        expected = {}
        for at, job in enumerate(list(self.claims[kind])):
            mine = self.model[job]
            waited = at < len(self.claims[kind]) - 1
            if mine.cancel:
                expected[job] = State.CANCELLED
            elif mine.attempts >= limit and not waited:
                expected[job] = State.FAILED
            else:
                expected[job] = State.QUEUED
                mine.attempts -= waited
        assert dict(self.store.recover(kind, limit)) == expected
        for job, state in expected.items():
            if state.ended:
                self._ended(job, state)
            else:
                self.claims[kind].remove(job)
                self.model[job].state = state

    @rule()
    def service_restarts(self) -> None:
        self.store.close()
        self.store.store = open_store(self.database, home=self.folder)
        gone = [e for e in self.model.values() if e.waited and e.state is State.QUEUED]
        assert self.store.abandon_waited() == len(gone)
        for mine in self.model.values():
            if mine.waited and mine.state in (State.QUEUED, State.RUNNING):
                mine.cancel = True
                if mine.state is State.QUEUED:
                    mine.state = State.CANCELLED

    @rule(data=st.binary(max_size=20) | st.sampled_from([b'{"id":"nobody"}', b'{"id":5}', b"[]", b"[" * 5000]))
    def somebody_writes_into_the_queue(self, data: bytes) -> None:
        with self.store.transaction() as transaction:
            transaction.execute(self.stranger, (data,))
        self.places += 1

    def _ended(self, job: str, state: State) -> None:
        mine = self.model[job]
        self.claims[mine.kind].remove(job)
        mine.state = state
        if state is State.DONE:
            mine.blobs, mine.checkpoints = set(), 0

    # -- what must always hold

    @invariant()
    def rows_are_as_expected(self) -> None:
        for job, mine in self.model.items():
            row = self.store.job(job)
            assert row is not None
            assert (row.state, row.attempts, row.cancel, row.waited) == (
                mine.state,
                mine.attempts,
                mine.cancel,
                mine.waited,
            )
            assert (row.finished_at is not None) == mine.state.ended
            assert (row.result_json is not None) == (mine.state is State.DONE)
            assert len(self.store.checkpoints(job)) == mine.checkpoints.bit_count()
            line = sum(
                1
                for e in self.model.values()
                if e.kind is mine.kind and e.state is State.QUEUED and (-e.priority, e.place) < (-mine.priority, mine.place)
            )
            strangers = self.store.read(
                "select count(*) from task where queue=? and id not in (select message from job where message is not null)",
                (mine.kind,),
            )[0][0]
            if not strangers:
                assert self.store.ahead(job) == (line if mine.state is State.QUEUED else 0)

    @invariant()
    def a_queued_job_has_a_message_and_a_running_one_a_claim(self) -> None:
        queued = sorted(job for job, e in self.model.items() if e.state is State.QUEUED)
        messages = "select j.id from job j join task t on t.id = j.message and t.queue = j.kind order by 1"
        assert [row[0] for row in self.store.read(messages)] == queued
        claimed = [row[0] for row in self.store.read("select job from claim order by 1")]
        assert claimed == sorted(job for line in self.claims.values() for job in line)
        assert claimed == sorted(job for job, e in self.model.items() if e.state is State.RUNNING)

    @invariant()
    def counters_and_payloads_agree(self) -> None:
        states = Counter((str(e.kind), str(e.state)) for e in self.model.values())
        told: Counter[tuple[str, str]] = Counter()
        for kind, _, _, state, n in self.store.tally():
            told[kind, state] += n
        assert told == states
        for name in BLOBS:
            assert self.store.referred(name) == any(name in e.blobs for e in self.model.values())


Lives.TestCase.settings = settings(
    max_examples=examples(25) * SCALE,
    stateful_step_count=40,
    deadline=None,
    derandomize=SCALE == 1,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
TestLivesOfJobs = Lives.TestCase


@pytest.mark.postgres
def test_lives_of_jobs_in_postgres_are_the_same(postgres_server: PostgresServer) -> None:
    class LivesInPostgres(Lives):
        stranger = "insert into task (queue, job, priority) values ('vlm', encode(?, 'hex'), 20)"

        def new_database(self) -> str:
            return postgres_server.new_database()

        def remove_database(self) -> None:
            postgres_server.empty_database(str(self.database))

    run_state_machine_as_test(LivesInPostgres, settings=settings(Lives.TestCase.settings, max_examples=12 * SCALE))


def test_every_state_can_be_reached_and_left_only_as_the_table_says() -> None:
    reached = {State.QUEUED}
    while more := {after for before in reached for after in TRANSITIONS[before]} - reached:
        reached |= more
    assert reached == set(State) == set(TRANSITIONS)
    assert all(not after.ended for state in State if state.ended for after in TRANSITIONS[state])


def test_a_message_that_is_a_pickle_is_set_aside_and_never_loaded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    import pickle

    from batch.queue.huey_storage import JobHuey

    class Bomb:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "executed"),)

    store = OneWorker(open_store(tmp_path / "batch.db"))
    ran: list[str] = []
    huey = JobHuey(Kind.VLM, store.store, "w1", ran.append)
    with sqlite3.connect(tmp_path / "batch.db") as stranger:
        for data in (pickle.dumps(Bomb()), pickle.dumps(Bomb(), 0), b"\x80", b'{"id":["x"]}'):
            stranger.execute("insert into task (queue, data, priority) values ('vlm', ?, 99)", (data,))
    stranger.close()
    store.submit(good := Draft(payload("chat"), Origin.CLI, Priority.BATCH))
    huey.storage.stopping.clear()
    task = huey.dequeue()
    assert task.args == (good.id,)
    huey.execute(task)
    assert ran == [good.id] and not (tmp_path / "executed").exists()
    assert store.read("select count(*) from task where queue='set aside'") == [(4,)]
    assert sum("set aside" in record.message for record in caplog.records) == 4
    assert store.take(Kind.VLM) is None and huey.storage.queue_size() == 0
    store.close()


def test_unknown_jobs_are_not_found(tmp_path: Path) -> None:
    store = OneWorker(open_store(tmp_path / "batch.db"))
    for act in (store.cancel, store.retry, store.find):
        with pytest.raises(NotFound):
            act("nobody")
    assert store.end("nobody", State.DONE) is False
    store.put_back("nobody", count=True)
    assert store.recover(Kind.VLM, 3) == []
    store.close()
