"""The hub: what it counts, what it promises to callers it turns away, and what other processes tell it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running_service import RunningService, wait_until
from scripted_work import ScriptedWork

from batch.queue.hub import Pace
from batch.queue.jobs import Kind
from batch.workers.weightless import WeightlessEngine

Start = Callable[..., RunningService]


def chat(text: str, *, pause_ms: int = 0) -> dict[str, Any]:
    return {"model": "any", "messages": [{"role": "user", "content": text}], "seed": pause_ms}


def test_refused_callers_are_called_back_one_job_after_another_and_within_two_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace()
    for _ in range(50):
        now += 3
        pace.ended(3.0)
    assert [pace.refuse() for _ in range(4)] == [3, 6, 9, 12]
    now += 3
    pace.ended(3.0)
    assert pace.refuse() == 12, "a place became free, so one promise is kept"
    assert pace.refuse(1000) == 120


def test_before_anything_is_measured_refused_callers_come_back_within_seconds() -> None:
    pace = Pace()
    assert {pace.refuse(100) for _ in range(200)} == {1, 2, 3, 4, 5}


def test_a_pack_of_jobs_that_ran_together_counts_its_time_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace()
    for _ in range(5):
        now += 10
        for _ in range(10):
            pace.ended(10.0)
    assert [pace.refuse() for _ in range(3)] == [1, 2, 3]


def test_an_idle_spell_does_not_count_as_service_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace()
    for _ in range(10):
        now += 600
        pace.ended(2.0)
    assert pace.refuse() == 2


def test_a_waiting_caller_hears_at_once_that_another_process_cancelled_its_queued_job(start_service: Start) -> None:
    service = start_service().ready("vlm")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # A waiting caller ahead keeps the second one queued, where no worker knows of it.
        first = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("a b c d e f", pause_ms=2000))
        wait_until(lambda: _jobs(service, "running"), "the first runs")
        second = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("never said"))
        (queued,) = wait_until(lambda: _jobs(service, "queued"), "the second waits")
        (running,) = _jobs(service, "running")
        assert "is cancelled" in service.command("cancel", queued["id"]).stdout
        status, body = second.result(5)
        assert status == 499 and body["error"]["type"] == "cancelled_error"
        assert not first.done()
        service.command("cancel", running["id"])
        assert first.result(10)[0] == 499


def test_a_dropped_file_whose_job_another_process_cancels_has_its_error_file_at_once(start_service: Start) -> None:
    service = start_service().ready("vlm", "embedding")
    # The worker stands still, so that the file's job stays queued.
    pid = service.worker_pid("embedding")
    os.kill(pid, signal.SIGSTOP)
    try:
        partial = service.inbox / ".note"
        partial.write_text("a note to cancel")
        partial.rename(service.inbox / "note.txt")
        (queued,) = wait_until(lambda: _jobs(service, "queued"), "the file is queued")
        service.command("cancel", queued["id"])
        found = wait_until(lambda: list(service.outbox.rglob("note*error*")), "its error file", 10)
        assert "cancelled" in json.loads(found[0].read_text())["error"]
    finally:
        os.kill(pid, signal.SIGCONT)


def test_the_weightless_engine_reads_large_embedding_calls_from_the_spool(tmp_path: Path) -> None:
    work = ScriptedWork(tmp_path, Kind.EMBEDDING, "embed", {"inputs": ["one", "two words"]})
    sha256 = work.keep(b'["one", "two words"]')
    spooled = ScriptedWork(tmp_path, Kind.EMBEDDING, "embed", {"blob": sha256})
    engine = WeightlessEngine(Kind.EMBEDDING)
    assert engine.run(work) == engine.run(spooled)


def _jobs(service: RunningService, state: str) -> list[dict[str, Any]]:
    found = service.command("jobs", "--json", "--state", state)
    return list(json.loads(found.stdout)) if found.returncode == 0 else []
