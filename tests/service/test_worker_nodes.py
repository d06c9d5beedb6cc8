"""Machines that share a database: a service without models, and workers that come and go."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.queue.jobs import Kind, State
from batch.queue.nodes import LEASE_S
from batch.queue.open_store import open_store
from batch.queue.remote.home_id import home_id
from batch.queue.store import Store
from drill_home import chat_draft
from postgres_server import PostgresServer
from running_service import RunningService, alive, chat, wait_until
from running_worker import RunningWorker

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

FRONT = {f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}
Start = Callable[..., RunningWorker]


@pytest.fixture(scope="module")
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


@pytest.fixture(scope="module")
def front(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("front"), {**FRONT, "BATCH_DATABASE": url}) as service:
        yield service


@pytest.fixture
def start_worker(url: str, tmp_path: Path) -> Iterator[Start]:
    workers: list[RunningWorker] = []

    def start(name: str, kind: str = "vlm", *options: str) -> RunningWorker:
        workers.append(RunningWorker(tmp_path / name, kind, url, options=options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()
    with contextlib.closing(open_store(url)) as store:
        for node in store.nodes():
            store.leave(node.id)


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    with contextlib.closing(open_store(url)) as store:
        yield store


def ready_nodes(store: Store, count: int) -> bool:
    return sum(node.status == "ready" for node in store.nodes()) == count


def bulk(store: Store, text: str, pause_ms: int) -> str:
    draft = chat_draft(text, pause_ms=pause_ms)
    store.submit(draft, durable=True)
    return draft.id


def state_of(store: Store, job: str) -> State:
    return store.states([job])[job]


def test_a_service_without_a_model_answers_by_a_worker_that_joins_and_says_so_when_it_leaves(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    assert front.health("vlm")[0] == 503
    worker = start_worker("gpu1")
    front.ready("vlm")
    status, body = front.call("vlm", "/v1/chat/completions", chat("hello from afar"))
    assert status == 200 and body["choices"][0]["message"]["content"].strip() == "hello from afar", body
    status, refusal = front.call("vlm", "/tokenize", {"content": "one two"})
    assert (status, "engine without weights" in str(refusal)) == (501, True), "questions reach the worker"
    listed = json.loads(front.command("nodes", "--json").stdout)
    assert [node["status"] for node in listed] == ["ready"] and listed[0]["heard_of_s"] < LEASE_S
    told = json.loads(front.command("status", "--json").stdout)["nodes"]
    assert told["queues"]["vlm"]["ready"] == 1 and [node["id"] for node in told["first"]] == [listed[0]["id"]]
    done = json.loads(front.command("jobs", "--json", "--state", "done", "--limit", "1").stdout)
    assert done[0]["node"] == listed[0]["id"], "it tells which worker ended it"
    with urllib.request.urlopen(front.url("vlm", "/metrics"), timeout=30) as metrics:
        assert 'batch:nodes{queue="vlm",state="ready"} 1.0' in metrics.read().decode()
    assert worker.stop() == 0, worker.output
    assert store.nodes() == []
    wait_until(lambda: front.health("vlm")[0] == 503, "it says so")


def streamed(front: RunningService, body: dict[str, Any], pieces: list[tuple[float, str]], ends: list[str]) -> None:
    data = json.dumps({**body, "stream": True}).encode()
    request = urllib.request.Request(front.url("vlm", "/v1/chat/completions"), data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=180) as answer:
        for line in answer:
            text = line.decode().strip().removeprefix("data: ")
            if text == "[DONE]" or '"error"' in text:
                ends.append(text)
            elif text.startswith("{"):
                pieces.append((time.monotonic(), json.loads(text)["choices"][0]["delta"].get("content") or ""))


def test_words_of_a_worker_elsewhere_are_streamed_as_they_come(front: RunningService, start_worker: Start) -> None:
    start_worker("gpu1")
    front.ready("vlm")
    pieces: list[tuple[float, str]] = []
    ends: list[str] = []
    streamed(front, chat("word " * 40, pause_ms=50), pieces, ends)
    assert "".join(text for _, text in pieces).split() == ["word"] * 40 and ends == ["[DONE]"]
    assert len({round(when, 1) for when, _ in pieces}) > 8, "not all at once"


def test_a_machine_that_dies_loses_its_job_to_another_within_a_lease_and_the_stream_goes_on_where_it_stood(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    first = start_worker("gpu1")
    front.ready("vlm")
    pieces: list[tuple[float, str]] = []
    ends: list[str] = []
    text = " ".join(f"w{n}" for n in range(400))
    client = threading.Thread(target=streamed, args=(front, chat(text, pause_ms=50), pieces, ends))
    client.start()
    wait_until(lambda: len(pieces) > 5, "it streams")
    second = start_worker("gpu2")
    wait_until(lambda: ready_nodes(store, 2), second.output)
    (job,) = store.jobs(state=State.RUNNING, kind=Kind.VLM)
    first.signal_all(signal.SIGKILL)
    died_at = time.monotonic()
    wait_until(lambda: (row := store.job(job.id)) and row.attempts == 2, "taken by the other", LEASE_S + 15)
    restarted_after_s = time.monotonic() - died_at
    client.join(90)
    assert "".join(piece for _, piece in pieces).split() == text.split() and ends == ["[DONE]"]
    assert restarted_after_s <= LEASE_S + 3


def test_a_machine_that_was_frozen_for_longer_than_its_lease_writes_nothing_any_more(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    first = start_worker("gpu1")
    wait_until(lambda: ready_nodes(store, 1), first.output)
    job = bulk(store, "word " * 100, 50)
    wait_until(lambda: state_of(store, job) is State.RUNNING, "it runs")
    first.signal_all(signal.SIGSTOP)
    second = start_worker("gpu2")
    wait_until(lambda: (row := store.job(job)) and row.attempts == 2, f"taken\n{second.output}", LEASE_S + 15)
    first.signal_all(signal.SIGCONT)
    wait_until(lambda: "was given to another worker" in first.output, f"it hears of it\n{first.output}")
    wait_until(lambda: state_of(store, job) is State.DONE, "done by the other")
    row = store.job(job)
    assert row is not None and row.attempts == 2
    other = bulk(store, "once more", 0)
    wait_until(lambda: state_of(store, other) is State.DONE, "both go on")


def test_two_workers_share_what_there_is_to_do_and_a_drained_one_takes_nothing_new(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    workers = [start_worker("gpu1"), start_worker("gpu2")]
    wait_until(lambda: ready_nodes(store, 2), workers[1].output)
    jobs = [bulk(store, "word " * 10, 20) for _ in range(20)]
    wait_until(lambda: all(state.ended for state in store.states(jobs).values()), "all done")
    rows = [row for job in jobs if (row := store.job(job))]
    assert [row.state for row in rows] == [State.DONE] * 20
    spans = sorted((row.started_at or 0.0, row.finished_at or 0.0) for row in rows)
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans)), "two at a time"
    drained = store.nodes()[0].id
    assert front.command("drain", drained[:8]).returncode == 0
    time.sleep(6)  # it hears of it with its next renewal
    more = [bulk(store, "word " * 10, 20) for _ in range(10)]
    holders = set()

    def all_done() -> bool:
        holders.update(row[0] for row in store.read("select worker from claim"))
        return all(state.ended for state in store.states(more).values())

    wait_until(all_done, "done by the other")
    assert holders and drained not in holders


def test_a_worker_for_requests_only_answers_clients_and_leaves_bulk_work_to_the_others(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    reserved = start_worker("gpu1", "vlm", "--only", "interactive")
    front.ready("vlm")
    waiting = bulk(store, "for the others", 0)
    for n in range(3):
        status, body = front.call("vlm", "/v1/chat/completions", chat(f"question {n}"))
        assert status == 200 and f"question {n}" in body["choices"][0]["message"]["content"], reserved.output
    assert state_of(store, waiting) is State.QUEUED, "it had all the time to take it"
    assert "interactive only" in front.command("nodes").stdout
    (listed,) = json.loads(front.command("nodes", "--json").stdout)
    assert listed["takes"] == "interactive"
    start_worker("gpu2")
    wait_until(lambda: state_of(store, waiting) is State.DONE, "done by a worker for all")


def waited_s(store: Store) -> float:
    """How long the newest request waited until a worker took it."""
    (job,) = store.jobs(kind=Kind.VLM, limit=1)
    assert job.started_at is not None
    return job.started_at - job.created_at


def worker_that_runs(front: RunningService, store: Store, body: dict[str, Any]) -> tuple[str, float]:
    """Who answered a request that takes a while, when nothing else is under way, and after how many seconds it took it."""
    holders: set[str] = set()
    statuses: list[int] = []
    client = threading.Thread(target=lambda: statuses.append(front.call("vlm", "/v1/chat/completions", body)[0]))
    client.start()
    wait_until(lambda: holders.update(row[0] for row in store.read("select worker from claim")) or holders, "it runs")
    client.join(60)
    assert statuses == [200] and len(holders) == 1
    return holders.pop(), waited_s(store)


def turn(*texts: str, pause_ms: int = 40) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {**chat("", pause_ms=pause_ms), "messages": messages}


def test_a_next_turn_goes_to_the_worker_that_has_the_conversation_or_to_another_within_half_a_second_if_it_is_busy(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    start_worker("gpu1")
    start_worker("gpu2")
    front.ready("vlm")
    wait_until(lambda: sum(bool(node.prefixes) for node in store.nodes()) == 2, "both report what they hold")
    time.sleep(2.5)  # the front looks at them every two seconds
    questions = [f"question {n} is asked here" for n in range(5)]
    first = {question: worker_that_runs(front, store, turn(question))[0] for question in questions}
    at_home = 0
    for question in questions:
        worker, after_s = worker_that_runs(front, store, turn(question, "answered", "and then what"))
        at_home += worker == first[question]
        assert worker == first[question] or after_s > 0.4, "another one only where that one was not there in time"
    assert at_home >= 3
    question = "word " * 100
    long = threading.Thread(target=front.call, args=("vlm", "/v1/chat/completions", turn(question, pause_ms=50)))
    long.start()
    wait_until(lambda: store.read("select 1 from job where state = 'running' and progress is not null"), "a worker is busy")
    status, body = front.call("vlm", "/v1/chat/completions", turn(question, "answered", "something else", pause_ms=0))
    assert status == 200 and "something else" in body["choices"][0]["message"]["content"]
    assert long.is_alive(), "it did not wait for that worker"
    assert 0.4 < waited_s(store) < 2.0, "kept for half a second, as said"
    long.join(60)


def test_a_worker_that_is_told_to_end_puts_back_its_job_without_blame(start_worker: Start, store: Store) -> None:
    worker = start_worker("gpu1")
    wait_until(lambda: ready_nodes(store, 1), worker.output)
    job = bulk(store, "word " * 600, 50)
    wait_until(lambda: state_of(store, job) is State.RUNNING, "it runs")
    worker.stop()
    row = store.job(job)
    assert row is not None and row.state is State.QUEUED and row.attempts == 0
    store.cancel(job)


def test_work_goes_on_while_the_database_is_away_and_every_answer_arrives(
    front: RunningService, start_worker: Start, store: Store, postgres_server: PostgresServer
) -> None:
    worker = start_worker("gpu1")
    front.ready("vlm")
    jobs = [bulk(store, f"job {n} " + "word " * 20, 20) for n in range(6)]
    answers: list[tuple[int, Any]] = []
    body = chat("hold the line " * 20, pause_ms=50)
    client = threading.Thread(target=lambda: answers.append(front.call("vlm", "/v1/chat/completions", body, timeout=120)))
    client.start()
    wait_until(lambda: State.RUNNING in store.states(jobs).values(), "they run")
    time.sleep(1.0)
    postgres_server.kill()
    try:
        status, refusal = front.call("vlm", "/v1/chat/completions", chat("while it is away"))
        assert status == 503, refusal
    finally:
        time.sleep(2.0)
        postgres_server.start()
    client.join(120)
    assert [status for status, _ in answers] == [200], (answers, worker.output, front.output)
    wait_until(lambda: all(state.ended for state in store.states(jobs).values()), f"all done\n{worker.output}", 90)
    assert set(store.states(jobs).values()) == {State.DONE}
    rows = [row for job in jobs if (row := store.job(job))]
    assert max(row.attempts for row in rows) <= 2
    status, answer = front.call("vlm", "/v1/chat/completions", chat("and after"))
    assert status == 200, answer


def test_two_fronts_answer_their_clients_and_take_in_what_lies_in_their_inboxes(
    front: RunningService, start_worker: Start, store: Store, url: str, tmp_path: Path
) -> None:
    start_worker("gpu1")
    front.ready("vlm")
    assert "This one answers requests" not in front.output
    (tmp_path / "second").mkdir()
    with RunningService(tmp_path / "second", {**FRONT, "BATCH_DATABASE": url}) as second:
        second.ready("vlm")
        assert "Another service on this database runs its batches" in second.output
        answers: dict[str, Any] = {}

        def ask(name: str, service: RunningService) -> None:
            answers[name] = service.call("vlm", "/v1/chat/completions", chat(f"for the {name} " * 10, pause_ms=20))

        clients = [threading.Thread(target=ask, args=pair) for pair in (("first", front), ("second", second))]
        for client in clients:
            client.start()
        for client in clients:
            client.join(60)
        for name, (status, body) in answers.items():
            assert status == 200 and f"for the {name}" in body["choices"][0]["message"]["content"]
        for name, service in (("first", front), ("second", second)):
            (service.inbox / "same.txt").write_text(f"of the {name}")
        fronts = [home_id(service.home / ".batch") for service in (front, second)]
        files = "select front from file where path=cast('same.txt' as bytea)"
        wait_until(lambda: {row[0] for row in store.read(files)} >= set(fronts), "taken in, both")
        assert second.stop() == 0
    assert front.health("vlm")[0] == 200, "the end of one front is nothing to the other"


def test_a_worker_that_is_started_before_its_database_waits_for_it(
    start_worker: Start, store: Store, postgres_server: PostgresServer
) -> None:
    job = bulk(store, "at last", 0)
    postgres_server.kill()
    try:
        worker = start_worker("gpu1")
        wait_until(lambda: "cannot be reached" in worker.output or worker.process.poll() is not None, "it says so")
        assert worker.process.poll() is None and "Traceback" not in worker.output, worker.output
    finally:
        postgres_server.start()
    wait_until(lambda: state_of(store, job) is State.DONE, f"done\n{worker.output}", 90)


def test_a_worker_whose_agent_is_killed_puts_back_its_job_without_blame(start_worker: Start, store: Store) -> None:
    worker = start_worker("gpu1")
    wait_until(lambda: ready_nodes(store, 1), worker.output)
    (node,) = store.nodes()
    job = bulk(store, "word " * 600, 50)
    wait_until(lambda: state_of(store, job) is State.RUNNING, "it runs")
    worker.process.kill()
    wait_until(lambda: not alive(node.pid), "no worker outlives its agent")
    row = store.job(job)
    assert row is not None and row.state is State.QUEUED and row.attempts == 0
    store.cancel(job)


def test_a_worker_needs_the_address_of_a_database_and_takes_no_password_from_the_command_line(tmp_path: Path) -> None:
    variables = {"BATCH_HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    for arguments, sentence in (
        ((), "needs the address of the database"),
        (("--database", "postgresql://batch:secret@localhost/batch"), "seen by all users of this machine"),
    ):
        command = [sys.executable, "-m", "batch", "worker", "vlm", *arguments]
        ended = subprocess.run(command, env=variables, cwd="/", text=True, capture_output=True, timeout=60)
        assert ended.returncode != 0 and sentence in ended.stderr and "secret" not in ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


def test_files_travel_by_the_database_to_the_machine_that_works_on_them(
    front: RunningService, start_worker: Start, store: Store
) -> None:
    workers = [start_worker("gpu1", "stt"), start_worker("gpu2", "embedding")]
    front.ready("stt", "embedding")
    sound = sound_file(seconds=20)
    status, body = front.call(
        "stt",
        "/inference",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + sound + b"\r\n--x--\r\n",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert status == 200 and f"a file of {len(sound)} bytes" in body["text"], (body, workers[0].output)
    texts = [f"text number {n} " + "word " * 40 for n in range(2000)]  # too large for a job's row
    status, body = front.call("embedding", "/v1/embeddings", {"input": texts, "model": "any"})
    assert status == 200 and len(body["data"]) == 2000, body
    (front.inbox / "far.txt").write_text("a text that a machine elsewhere makes a vector of")
    (front.inbox / "far.wav").write_bytes(sound)
    results = [front.outbox / name for name in ("far.txt.json", "far.wav.json")]
    wait_until(lambda: all(result.exists() for result in results), f"results\n{front.output}", 60)
    assert f"a file of {len(sound)} bytes" in json.loads(results[1].read_text())["text"]
    spools = [worker.home / ".batch" / "workers" / kind for worker, kind in zip(workers, ("stt", "embedding"), strict=True)]
    assert all(any(len(path.name) == 64 for path in spool.rglob("spool/??/*")) for spool in spools), "fetched there"


def sound_file(seconds: int) -> bytes:
    """A tone, as a WAV file."""
    import io
    import wave

    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(bytearray(range(256)) * (seconds * 16000 * 2 // 256)))
    return buffer.getvalue()


def test_why_a_machines_model_cannot_be_loaded_is_said_by_the_front(
    front: RunningService, url: str, store: Store, tmp_path: Path
) -> None:
    worker = RunningWorker(tmp_path / "gpu1", "vlm", url, {"BATCH_VLM__MODEL": "no-such-model"})
    try:
        wait_until(lambda: "no-such-model" in str(front.health("vlm")[1]), f"it is said\n{worker.output}")
        status, body = front.call("vlm", "/v1/chat/completions", chat("hello"))
        assert status == 503 and "no-such-model" in str(body)
        listed = front.command("nodes").stdout
        assert "failed" in listed and "no-such-model" in listed
    finally:
        worker.close()
        for node in store.nodes():
            store.leave(node.id)
