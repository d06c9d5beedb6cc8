"""Crash drills: hundreds of mixed jobs while workers and the service are killed at random.

DRILL_ROUNDS and DRILL_SEED in the environment make a longer or another drill than the one in CI.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batch.payloads.json_text import encode
from batch.queue.channel import socket_path
from batch.queue.frames import Hello
from batch.queue.jobs import Draft, Kind, Origin, Priority, State, new_id
from batch.queue.nodes import worker_id_of
from batch.queue.open_store import open_store
from batch.supervisor import retention
from drill_home import (
    Outbox,
    alive,
    assert_tidy,
    chat_draft,
    content,
    count_running,
    drop,
    embed_draft,
    is_noted,
    opened,
    quiet,
    state,
    submit,
    worker_pid,
    worker_pids,
)
from one_worker import OneWorker
from payloads import payload
from running_service import STARTER, RunningService, chat, wait_until

Start = Callable[..., RunningService]
ROUNDS = int(os.environ.get("DRILL_ROUNDS", "5"))
SEED = int(os.environ.get("DRILL_SEED", "1848"))
FILES, BULK, CALLERS = 24, 16, 8
"""Of each kind of work, how many a round."""


def call(service: RunningService, number: int) -> int | None:
    """A waiting caller's status; None when the service went down under it. An answer must be the right one."""
    try:
        status, answer = service.call("vlm", "/v1/chat/completions", chat(f"caller {number} asks", pause_ms=20))
    except (OSError, http.client.HTTPException, KeyError):  # the last one: it has no ports while it starts again
        return None
    if status == 200:
        assert answer["choices"][0]["message"]["content"].split() == ["caller", str(number), "asks"]
    return status


@pytest.mark.drill
@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_whatever_is_killed_every_accepted_job_is_done_exactly_once_and_nothing_is_left_over(
    start_service: Start,
) -> None:
    chance = random.Random(SEED)
    service = start_service(BATCH_QUEUE__ATTEMPTS="1000")
    outbox = Outbox(service)
    files: list[str] = []
    bulk: dict[str, str] = {}
    calls: list[concurrent.futures.Future[int | None]] = []
    with concurrent.futures.ThreadPoolExecutor(CALLERS * 2) as pool:
        for round in range(ROUNDS):
            for number in range(len(files), len(files) + FILES):
                name = f"round{round}/{number}.{chance.choice(['txt', 'png', 'wav'])}"
                drop(service, name, content(name, number))
                files.append(name)
            texts = [f"bulk {len(bulk) + n} of many words" for n in range(BULK)]
            drafts = [chat_draft(text, pause_ms=15) if chance.random() < 0.7 else embed_draft(text) for text in texts]
            bulk.update(zip(submit(service, *drafts), texts, strict=True))
            for number in range(CALLERS):
                calls.append(pool.submit(call, service, round * 100 + number))
            _wait_and_kill(chance, service, outbox, round)
        service.ready()
        wait_until(lambda: outbox.holds(files), f"all results are there\n{service.output}", 120)
        quiet(service)
        wait_until(lambda: is_noted(service), "the ledger says so")
        answers = [future.result(90) for future in calls]
    assert set(answers) <= {200, 503, None}, answers
    assert 200 in answers
    with opened(service) as store:
        for id, text in bulk.items():
            job = store.job(id)
            assert job and job.state is State.DONE, f"{id} was accepted"
            if job.kind is Kind.VLM and job.result:
                assert job.result.choices[0].message.content.split() == text.split()
    assert service.stop() == 0
    jobs = assert_tidy(service, files)
    assert jobs["batch", "done"] == len(bulk)
    assert jobs["inbox", "done"] == sum(1 if name.endswith("txt") else 2 for name in files), "each file's work, once"
    assert {ended for origin, ended in jobs if origin != "http"} == {"done"}


def _wait_and_kill(chance: random.Random, service: RunningService, outbox: Outbox, round: int) -> None:
    """Let it work for a moment, then kill a worker, the service, or both."""
    until = time.monotonic() + chance.uniform(0.2, 2.5)
    wait_until(lambda: outbox.look() < 0 or time.monotonic() > until, "a moment", 30)
    pids = wait_until(lambda: worker_pids(service), "a worker has said hello")
    # Every kind of death comes in every drill, in an order of chance from the fourth round on.
    death = ["worker", "service", "both"][round] if round < 3 else chance.choice(["worker", "service", "both"])
    if death != "service":
        with contextlib.suppress(ProcessLookupError):  # it may be ending by itself
            os.kill(pids[chance.choice(sorted(pids))], signal.SIGKILL)
    if death != "worker":
        service.kill()
        outbox.look()
        service.start()


@pytest.mark.drill
def test_a_stop_signal_under_load_ends_cleanly_and_the_next_start_finishes_everything(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__GRACE="0.5").ready()
    files = [f"{number}.{'png' if number % 2 else 'txt'}" for number in range(60)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        for number, name in enumerate(files):
            drop(service, name, content(name, number))
        bulk = submit(service, *(chat_draft("some words to say " * 5, pause_ms=50) for _ in range(5)))
        calls = [pool.submit(call, service, number) for number in range(24)]
        wait_until(lambda: calls[0].done() or calls[1].done(), "some are answered")
        assert service.stop() == 0, service.output
        answers = [future.result(60) for future in calls]
    assert set(answers) <= {200, 503, None}, "each is answered, or told to come back"
    assert answers.count(200) >= 1
    with opened(service) as store:
        assert store.read("select job from claim") == [], "what ran has been put back"
        assert not store.read("select 1 from job where state='running'")
        assert store.read("select max(attempts) from job where state='queued'") in ([(0,)], [(None,)])
    service.start()
    outbox = Outbox(service)
    wait_until(lambda: outbox.holds(files), f"all results are there\n{service.output}")
    wait_until(lambda: all(state(service, job) is State.DONE for job in bulk), "the bulk jobs are done")
    quiet(service)
    wait_until(lambda: is_noted(service), "the ledger says so")
    assert service.stop() == 0
    assert_tidy(service, files)


def test_a_bulk_job_and_the_caller_inside_it_both_go_back_when_the_grace_time_ends(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__GRACE="0.3").ready("vlm")
    (bulk,) = submit(service, chat_draft("word " * 300, pause_ms=50))
    wait_until(lambda: state(service, bulk) is State.RUNNING, "the bulk job runs")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        caller = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("word " * 300, pause_ms=50))
        wait_until(lambda: count_running(service) == 2, "the caller's job runs inside it")
        assert service.stop() == 0, service.output
        status, answer = caller.result(30)
    assert status == 503 and "shutting down" in answer["error"]["message"]
    with opened(service) as store:
        assert {(job.state, job.attempts) for job in store.jobs()} == {(State.QUEUED, 0)}
        assert store.read("select job from claim") == []
    service.start()
    wait_until(lambda: _ended_http(service) == [State.CANCELLED], "nobody waits for the caller's job any more")
    wait_until(lambda: state(service, bulk) is State.RUNNING, "the bulk job is taken up again")


def test_a_job_that_reaches_no_unit_is_put_back_by_a_stop_signal_all_the_same(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__GRACE="0.3").ready("vlm")
    (stuck,) = submit(service, chat_draft("hang for ever"))
    wait_until(lambda: state(service, stuck) is State.RUNNING, "it runs")
    assert service.stop() == 0, service.output
    with opened(service) as store:
        job = store.job(stuck)
    assert job and (job.state, job.attempts) == (State.QUEUED, 0)


def test_a_job_whose_service_is_killed_is_put_back_by_its_worker_without_blame(start_service: Start) -> None:
    service = start_service().ready("vlm")
    (bulk,) = submit(service, chat_draft("word " * 600, pause_ms=50))
    wait_until(lambda: state(service, bulk) is State.RUNNING, "it runs")
    for _ in range(4):  # more often than a job may take its worker down
        service.kill()
        wait_until(lambda: state(service, bulk) is State.QUEUED, "put back")
        service.start()
        wait_until(lambda: state(service, bulk) is State.RUNNING, "it runs again")
    with opened(service) as store:
        job = store.job(bulk)
    assert job and job.attempts == 1


def test_a_worker_whose_line_to_the_service_breaks_is_replaced_and_its_job_goes_on(start_service: Start) -> None:
    service = start_service().ready("vlm")
    (bulk,) = submit(service, chat_draft("word " * 60, pause_ms=50))
    wait_until(lambda: state(service, bulk) is State.RUNNING, "it runs")
    pid, worker = worker_pid(service, "vlm"), worker_id_of((service.home / ".batch" / "run" / "vlm.lock").read_text())
    with socket.socket(socket.AF_UNIX) as stranger:
        # Says that it is the worker: the service listens to the newest, and hangs up on the one before.
        stranger.connect(str(socket_path(service.home / ".batch", "events")))
        stranger.sendall(encode(Hello(queue=Kind.VLM, pid=pid, worker=worker)) + b"\nno frame\n")
        assert stranger.recv(10) == b"", "what sends nonsense is hung up on"
    wait_until(lambda: not alive(pid), f"a worker that nobody hears ends\n{service.output}")
    wait_until(lambda: state(service, bulk) is State.DONE, f"done\n{service.output}")
    with opened(service) as store:
        job = store.job(bulk)
    assert job and job.attempts == 1
    assert service.ready("vlm").call("vlm", "/v1/chat/completions", chat("hello"))[0] == 200


def _ended_http(service: RunningService) -> list[State]:
    with opened(service) as store:
        return [job.state for job in store.jobs(origin=Origin.HTTP) if job.state.ended]


def test_a_worker_that_hangs_is_killed_and_its_job_is_failed_at_the_limit(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__HANG="1", BATCH_QUEUE__ATTEMPTS="2").ready("vlm")
    (stuck,) = submit(service, chat_draft("hang for ever"))
    wait_until(lambda: state(service, stuck) is State.FAILED, f"set aside\n{service.output}", 90)
    assert "made no progress for 1 s" in service.output
    assert service.call("vlm", "/v1/chat/completions", chat("next please"))[0] == 200


def test_a_job_that_makes_progress_for_longer_than_the_limit_is_no_hang(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__HANG="4").ready("vlm")
    (slow,) = submit(service, chat_draft("word " * 140, pause_ms=100))
    wait_until(lambda: state(service, slow) is State.DONE, f"done\n{service.output}", 120)
    with opened(service) as store:
        job = store.job(slow)
    assert job and job.attempts == 1


def test_a_mate_goes_back_with_the_rest_when_the_worker_dies_and_a_poison_takes_none_with_it(
    start_service: Start,
) -> None:
    service = start_service().ready("vlm", "embedding")
    (busy,) = submit(service, chat_draft("word " * 40, pause_ms=50))
    wait_until(lambda: state(service, busy) is State.RUNNING, "the bulk job runs")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        poison = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("crash inside"))
        status, answer = poison.result(60)
    assert status == 500 and "died 3 times" in answer["error"]["message"]
    wait_until(lambda: state(service, busy) is State.DONE, "the job around the poison is done")
    with opened(service) as store:
        job = store.job(busy)
    assert job and job.attempts == 1, "it is not blamed for what ran inside it"


def test_cancelling_while_a_job_ends_leaves_it_either_done_or_cancelled_and_no_claim(start_service: Start) -> None:
    service = start_service().ready("embedding")
    jobs = submit(service, *(embed_draft(f"text {n}") for n in range(300)))
    with opened(service) as store:
        for job in jobs:
            store.cancel(job)
    quiet(service)
    with opened(service) as store:
        rows = [row for job in jobs if (row := store.job(job))]
        assert {row.state for row in rows} <= {State.DONE, State.CANCELLED}
        assert all((row.result_json is not None) == (row.state is State.DONE) for row in rows)
        assert store.read("select job from claim") == [] and store.read("select id from task") == []


def test_retrying_a_job_whose_payload_is_gone_fails_with_a_sentence(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__ATTEMPTS="1").ready("vlm")
    drop(service, "one.png", content("one.png", 1))
    outbox = Outbox(service)
    wait_until(lambda: outbox.holds(["one.png"]), "done once")
    gone = "ab" * 32
    request = {"messages": [{"role": "user", "content": [{"type": "image", "blob": gone}]}]}
    draft = Draft(payload("chat", request), Origin.BATCH, Priority.BATCH, blobs=(gone,))
    (job,) = submit(service, draft)
    for _ in range(2):
        wait_until(lambda: state(service, job) is State.FAILED, "failed")
        with opened(service) as store:
            row = store.job(job)
        assert row and row.error and "no longer holds this job's payload" in row.error["message"]
        assert row.error["message"].endswith("send the file or request again.")
        assert service.command("retry", job).returncode == 0
    assert service.call("vlm", "/v1/chat/completions", chat("still here"))[0] == 200


# -- with the real engines

REAL_CHAT = {**STARTER, "BATCH_VLM__MODEL": "", "BATCH_EMBEDDING__MODEL": "weightless"}
REAL_EMBEDDING = {**STARTER, "BATCH_EMBEDDING__MODEL": ""}


def test_a_stop_signal_inside_nested_runs_of_the_real_engine_puts_both_jobs_back(start_service: Start) -> None:
    service = start_service(**REAL_CHAT, BATCH_QUEUE__GRACE="0.2").ready("vlm")
    long = {
        "messages": [{"role": "user", "content": "Tell me of shapes."}],
        "generation": {"max_tokens": 100_000, "ignore_eos": True, "seed": 1},
    }
    submit(service, Draft(payload("chat", long), Origin.BATCH, Priority.BATCH))
    wait_until(lambda: count_running(service) == 1, "the bulk job runs")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = {**chat("Tell me more."), "max_tokens": 100_000, "ignore_eos": True}
        caller = pool.submit(service.call, "vlm", "/v1/chat/completions", body)
        wait_until(lambda: count_running(service) == 2, "the caller's job runs inside it")
        assert service.stop() == 0, service.output
        assert caller.result(30)[0] == 503
    with opened(service) as store:
        assert {(job.state, job.attempts) for job in store.jobs()} == {(State.QUEUED, 0)}
        assert store.read("select job from claim") == []


def test_a_pack_of_embeddings_whose_worker_is_killed_is_done_to_the_last_mate(start_service: Start) -> None:
    service = start_service(**REAL_EMBEDDING).ready("embedding")
    pid = worker_pid(service, "embedding")
    jobs = submit(service, *(embed_draft(f"text {n} " * 20) for n in range(300)))

    def held_in_a_pack() -> bool:
        """Stand still inside a pack: between a look and the kill it might end."""
        os.kill(pid, signal.SIGSTOP)
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it stands still")
        if _claims(service) > 1:
            return True
        os.kill(pid, signal.SIGCONT)
        return False

    wait_until(held_in_a_pack, "a pack is under way")
    os.kill(pid, signal.SIGKILL)
    quiet(service, 90)
    with opened(service) as store:
        rows = [row for job in jobs if (row := store.job(job))]
        attempts = [row.attempts for row in rows if row.state is State.DONE]
        assert store.read("select job from claim") == []
    assert len(attempts) == len(jobs) and sorted(set(attempts)) == [1, 2]
    assert attempts.count(2) > 1, "the whole pack was taken up again"


def _claims(service: RunningService) -> int:
    with opened(service) as store:
        return int(store.read("select count(*) from claim")[0][0])


# -- a stream whose worker is killed


def _stream(service: RunningService, body: dict[str, Any]) -> Iterator[str]:
    """The content of a streamed chat, piece by piece; the end is checked."""
    connection = http.client.HTTPConnection("127.0.0.1", service.ports["vlm"], timeout=90)
    connection.request(
        "POST", "/v1/chat/completions", json.dumps({**body, "stream": True}), {"Content-Type": "application/json"}
    )
    try:
        for line in connection.getresponse():
            if line.strip() == b"data: [DONE]":
                return
            if line.startswith(b"data: "):
                chunk = json.loads(line[6:])
                assert "error" not in chunk, chunk
                for choice in chunk["choices"]:
                    if piece := choice["delta"].get("content"):
                        yield piece
        raise AssertionError("the stream broke off")
    finally:
        connection.close()


def test_a_stream_whose_worker_is_killed_goes_on_where_it_stood(start_service: Start) -> None:
    service = start_service().ready("vlm")
    words = [f"word{n}" for n in range(30)]
    pid = worker_pid(service, "vlm")
    told = []
    for piece in _stream(service, chat(" ".join(words), pause_ms=100)):
        told.append(piece)
        if len(told) == 8:
            os.kill(pid, signal.SIGKILL)
    assert "".join(told).split() == words, "nothing twice, nothing missing"


def test_a_stream_of_the_real_model_at_a_fixed_seed_goes_on_where_it_stood(start_service: Start) -> None:
    service = start_service(**REAL_CHAT).ready("vlm")
    body = {
        "model": "any",
        "messages": [{"role": "user", "content": "Tell me of shapes."}],
        "seed": 7,
        "max_tokens": 6000,
        "ignore_eos": True,
        "temperature": 0.8,
    }
    whole = "".join(_stream(service, body))
    pid = worker_pid(service, "vlm")
    told = []
    for piece in _stream(service, body):
        told.append(piece)
        if len(told) == 1:
            os.kill(pid, signal.SIGKILL)
    with opened(service) as store:
        assert sorted(job.attempts for job in store.jobs()) == [1, 2]
    assert "".join(told) == whole


# -- clocks


def test_a_clock_that_jumps_neither_reorders_a_class_nor_loses_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = OneWorker(open_store(tmp_path / "batch.db"))
    clock = time.time()
    order = []
    for jump in (0, -86400 * 400, 86400 * 400, -5, 3600, 0):
        monkeypatch.setattr(time, "time", lambda jump=jump: clock + jump)
        monkeypatch.setattr(time, "time_ns", lambda jump=jump: int((clock + jump) * 1e9))
        draft = Draft(payload("embed"), Origin.BATCH, Priority.BATCH, id=new_id())
        store.submit(draft)
        order.append(draft.id)
    taken = []
    for jump in (0, 86400, -86400, 5, 0, 86400 * 1000):
        monkeypatch.setattr(time, "time", lambda jump=jump: clock + jump)
        job = store.take(Kind.EMBEDDING)
        assert job is not None
        taken.append(job.id)
        assert store.end(job.id, State.DONE, result="{}")
    assert taken == order
    rows = [row for id in order if (row := store.job(id)) and row.started_at and row.finished_at]
    assert all(row.created_at <= row.started_at <= row.finished_at for row in rows) and len(rows) == len(order)
    store.close()


def test_nothing_is_deleted_for_its_age_in_the_hour_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = retention.WallClock()
    assert clock.is_trusted()
    wall, running = time.time, retention._machine_uptime_s
    monkeypatch.setattr(retention.time, "time", lambda: wall() + 86400 * 365)
    assert not clock.is_trusted(), "a year went by in no time"
    monkeypatch.setattr(retention, "_machine_uptime_s", lambda: running() + 1800)
    monkeypatch.setattr(retention.time, "time", lambda: wall() + 86400 * 365 + 1800)
    assert not clock.is_trusted()
    monkeypatch.setattr(retention, "_machine_uptime_s", lambda: running() + 3700)
    monkeypatch.setattr(retention.time, "time", lambda: wall() + 86400 * 365 + 3700)
    assert clock.is_trusted(), "nobody set it back, so it is right"
