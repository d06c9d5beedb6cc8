"""The table "What happens when", row by row, with real processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from batch.queue.jobs import Origin
from drill_home import chat_draft, drop, opened, submit
from running_service import RunningService, alive, chat, wait_until

Start = Callable[..., RunningService]


def jobs(service: RunningService, *arguments: str) -> list[dict[str, Any]]:
    found = service.command("jobs", "--json", "--limit", "1000", *arguments)
    return list(json.loads(found.stdout)) if found.returncode == 0 else []


def running(service: RunningService) -> list[dict[str, Any]]:
    return jobs(service, "--state", "running")


def in_state(service: RunningService, *states: str) -> list[str]:
    """The ids of jobs in these states, seen without starting a command, which takes a busy machine a second."""
    with opened(service) as store:
        return [str(row[0]) for row in store.read(f"select id from job where state in ({','.join('?' * len(states))})", states)]


def test_worker_killed_mid_job_restarts_and_the_waiting_caller_gets_its_answer_late(start_service: Start) -> None:
    service = start_service().ready()
    pid = service.worker_pid("vlm")
    words = [f"word{number}" for number in range(20)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        waiting = pool.submit(service.call, "vlm", "/v1/chat/completions", chat(" ".join(words), pause_ms=400))
        wait_until(lambda: in_state(service, "running"), "the job runs")
        os.kill(pid, signal.SIGKILL)
        status, answer = waiting.result(60)
    assert status == 200 and answer["choices"][0]["message"]["content"].split() == words
    (job,) = jobs(service, "--kind", "vlm")
    assert job["state"] == "done" and job["attempts"] == 2


def test_the_same_job_killing_the_worker_three_times_is_failed_with_the_reason_and_others_go_on(
    start_service: Start,
) -> None:
    service = start_service().ready()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        poison = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("crash now"))
        good = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("good day"))
        assert good.result(60)[0] == 200
        status, answer = poison.result(60)
    assert status == 500 and "died 3 times" in answer["error"]["message"]
    (job,) = jobs(service, "--state", "failed")
    assert job["attempts"] == 3 and "died 3 times" in job["error"]
    retried = service.command("retry", job["id"])
    assert retried.returncode == 0 and "queued again" in retried.stdout


def test_service_killed_loses_no_accepted_file_and_writes_nothing_twice(start_service: Start) -> None:
    service = start_service().ready()
    for number in range(20):
        drop(service, f"{number}.txt", f"text number {number}".encode())
    wait_until(lambda: len(jobs(service, "--origin", "inbox")) >= 5, "some files are accepted")
    workers = [service.worker_pid(kind) for kind in ("vlm", "embedding", "stt")]
    service.kill()
    wait_until(lambda: not any(alive(pid) for pid in workers), "workers end with their supervisor")
    service.start()
    wait_until(lambda: len(list(service.outbox.glob("*.json"))) == 20, "all results are there")
    for file in service.outbox.glob("*.json"):
        assert json.loads(file.read_text())["source"] == file.name.removesuffix(".json")
    ended = [job["state"] for job in jobs(service, "--origin", "inbox")]
    assert ended == ["done"] * 20


def test_a_caller_that_went_down_with_the_service_leaves_no_job_behind(start_service: Start) -> None:
    service = start_service().ready()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [pool.submit(service.call, "vlm", "/v1/chat/completions", chat("w " * 200, pause_ms=300)) for _ in range(2)]
        wait_until(lambda: len(jobs(service, "--kind", "vlm")) == 2 and running(service), "both are accepted")
        service.kill()
        for call in calls:
            with pytest.raises((OSError, http.client.HTTPException)):
                call.result(30)
    service.start().ready("vlm")
    wait_until(lambda: [j["state"] for j in jobs(service)] == ["cancelled"] * 2, "both are cancelled")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_puts_the_running_job_back_without_counting_an_attempt(
    start_service: Start, number: signal.Signals
) -> None:
    service = start_service(BATCH_QUEUE__GRACE="0.3").ready()
    text = service.home / "words.txt"
    text.write_text("x")
    submit_bulk(service, " ".join(["word"] * 200), pause_ms=100)
    wait_until(lambda: running(service), "the job runs")
    assert service.process is not None
    service.process.send_signal(number)
    assert service.process.wait(30) == 0
    (job,) = jobs(service)
    assert (job["state"], job["attempts"]) == ("queued", 0)


def test_a_stop_signal_lets_a_running_job_end_within_the_grace_time(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__GRACE="60").ready()
    submit_bulk(service, "word " * 16, pause_ms=500)
    wait_until(lambda: in_state(service, "running"), "the job runs")
    assert service.stop(90) == 0, service.output
    assert [job["state"] for job in jobs(service)] == ["done"]


def test_a_second_signal_exits_at_once(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__GRACE="600").ready()
    submit_bulk(service, " ".join(["word"] * 1000), pause_ms=500)
    wait_until(lambda: running(service), "the job runs")
    pid = service.worker_pid("vlm")
    assert service.process is not None
    service.process.send_signal(signal.SIGTERM)
    # Until the first one has been seen, the second would be one with it.
    wait_until(lambda: not _accepts(service, "vlm") or _stopping(service), "the first signal is seen")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 130
    wait_until(lambda: not alive(pid), "its worker ends too")


def test_the_caller_hanging_up_cancels_its_queued_job_and_stops_its_running_one(start_service: Start) -> None:
    service = start_service().ready()
    connections = []
    for _ in range(2):
        connection = http.client.HTTPConnection("127.0.0.1", service.ports["vlm"], timeout=30)
        connection.request(
            "POST",
            "/v1/chat/completions",
            json.dumps(chat("w " * 500, pause_ms=100)),
            {"Content-Type": "application/json"},
        )
        connections.append(connection)
        wait_until(lambda: len(jobs(service)) == len(connections), "accepted")
    wait_until(lambda: running(service), "one runs")
    for connection in connections:
        connection.close()
    wait_until(lambda: [job["state"] for job in jobs(service)] == ["cancelled"] * 2, "both are cancelled")
    assert service.call("vlm", "/v1/chat/completions", chat("still here"))[0] == 200


def test_an_interactive_request_runs_inside_a_bulk_job_which_then_goes_on(start_service: Start) -> None:
    service = start_service().ready()
    bulk = submit_bulk(service, " ".join(str(n) for n in range(60)), pause_ms=100)
    wait_until(lambda: in_state(service, "running"), "the bulk job runs")
    assert service.call("vlm", "/v1/chat/completions", chat("quick"))[0] == 200
    wait_until(lambda: len(in_state(service, "done")) == 2, "the bulk job ends")
    (quick,) = [job for job in jobs(service) if job["id"] != bulk]
    (long,) = [job for job in jobs(service) if job["id"] == bulk]
    assert long["started_at"] < quick["started_at"] <= quick["finished_at"] < long["finished_at"]
    shown = json.loads(service.command("show", bulk, "--json").stdout)
    assert shown["result"]["choices"][0]["message"]["content"].split() == [str(n) for n in range(60)]
    assert shown["attempts"] == 1


def test_a_cancelled_running_job_stops_and_is_kept_as_cancelled(start_service: Start) -> None:
    service = start_service().ready()
    job = submit_bulk(service, "w " * 500, pause_ms=200)
    wait_until(lambda: running(service), "it runs")
    assert "stopping at its next yield point" in service.command("cancel", job).stdout
    wait_until(lambda: jobs(service)[0]["state"] == "cancelled", "cancelled")


def test_too_long_a_queue_is_429_with_a_retry_after_of_120_seconds_at_most(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__WAITING="2").ready()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        held = []
        for count in (1, 2):
            held.append(pool.submit(service.call, "vlm", "/v1/chat/completions", chat("w " * 8, pause_ms=500)))
            wait_until(lambda count=count: len(in_state(service, "queued", "running")) == count, "accepted")
        connection = http.client.HTTPConnection("127.0.0.1", service.ports["vlm"], timeout=60)
        connection.request("POST", "/v1/chat/completions", json.dumps(chat("x")), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        connection.close()
        assert answer.status == 429 and body["error"]["type"] == "rate_limit_error"
        assert 1 <= int(answer.headers["Retry-After"]) <= 120
        assert [call.result(60)[0] for call in held] == [200, 200]


def test_a_missing_or_corrupt_model_file_is_a_503_saying_why_and_the_other_ports_work(start_service: Start) -> None:
    service = start_service(BATCH_VLM__MODEL="./broken.gguf")
    (service.home / "broken.gguf").write_bytes(b"this is no model")
    service.ready("embedding", "stt")
    status, body = wait_until(
        lambda: (found := service.health("vlm"))[0] == 503 and "broken.gguf" in str(found[1]) and found, "told why"
    )
    assert status == 503 and body["error"]["type"] == "unavailable_error"
    assert service.call("embedding", "/v1/embeddings", {"input": "x", "model": "any"})[0] == 200
    wait_until(lambda: "broken.gguf" in service.command("status").stdout.replace("\n", ""), "status says why")


def test_a_caller_of_a_model_that_could_not_be_loaded_is_told_so_and_bulk_jobs_wait(start_service: Start) -> None:
    broken = {f"BATCH_{kind}__MODEL": "./broken" for kind in ("VLM", "EMBEDDING", "STT")}
    service = start_service(**broken)
    (service.home / "broken").write_bytes(b"this is no model")
    bulk = submit_bulk(service, "later")
    sound = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nsound\r\n--x--\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    calls: list[tuple[str, str, Any, dict[str, str]]] = [
        ("vlm", "/v1/chat/completions", chat("hello"), {}),
        ("vlm", "/v1/completions", {"prompt": "hello"}, {}),
        ("vlm", "/v1/chat/completions", {**chat("hello"), "stream": True}, {}),
        ("vlm", "/v1/chat/completions", chat("hello"), {"Idempotency-Key": "one"}),
        ("embedding", "/v1/embeddings", {"input": "x", "model": "any"}, {}),
        ("stt", "/inference", sound, form),
        ("stt", "/v1/audio/transcriptions", sound, form),
    ]
    for _ in range(2):  # at first they load yet
        for kind, path, body, headers in calls:
            status, answer = service.call(kind, path, body, headers=headers)
            assert status == 503 and "broken" in str(answer), (path, status, answer)
    assert json.loads(service.command("show", bulk, "--json").stdout)["state"] == "queued"


def test_a_port_in_use_is_one_sentence_naming_the_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        found = subprocess.run(
            [
                sys.executable,
                "-m",
                "batch",
                "serve",
                "--home",
                str(tmp_path),
                "--vlm-port",
                str(port),
                "--embedding-port",
                "0",
                "--stt-port",
                "0",
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert found.returncode == 1 and f"Port {port} (vlm) is in use" in found.stderr
    told = [line for line in found.stderr.splitlines() if "becomes a new home" not in line]
    assert len(told) == 1, found.stderr


def test_another_instance_in_the_same_home_is_one_sentence_naming_the_pid(start_service: Start) -> None:
    service = start_service()
    assert service.process is not None
    found = service.command("serve", "--vlm-port", "0", "--embedding-port", "0", "--stt-port", "0")
    assert found.returncode == 1 and f"pid {service.process.pid}" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1


def test_status_works_with_the_service_down(start_service: Start) -> None:
    service = start_service().ready()
    assert service.call("vlm", "/v1/chat/completions", chat("hello"))[0] == 200
    up = json.loads(service.command("status", "--json").stdout)
    assert up["running"] and up["models"]["vlm"]["status"] == "ready" and up["models"]["vlm"]["done_today"] == 1
    service.stop()
    down = json.loads(service.command("status", "--json").stdout)
    assert not down["running"] and down["models"]["vlm"]["done_today"] == 1
    assert "not running" in service.command("status").stdout


def submit_bulk(service: RunningService, text: str, *, pause_ms: int = 0) -> str:
    """A bulk chat, put into the queue from another process, as the folder and `batch submit` do."""
    (job,) = submit(service, replace(chat_draft(text, pause_ms=pause_ms), origin=Origin.CLI))
    return job


def _accepts(service: RunningService, kind: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", service.ports[kind]), timeout=20):
        return True
    return False


def _stopping(service: RunningService) -> bool:
    """The workers get their signal right after the service saw its own."""
    with contextlib.closing(sqlite3.connect(service.home / ".batch" / "batch.db")) as conn:
        row = conn.execute("select value from service where name='stopping'").fetchone()
    return row is not None and row[0] == "true"
