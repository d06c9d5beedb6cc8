"""What another process cancels is told at once to whoever waits for it."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
from collections.abc import Callable
from typing import Any

from running_service import RunningService, chat, wait_until

Start = Callable[..., RunningService]


def test_a_waiting_caller_hears_at_once_that_another_process_cancelled_its_queued_job(start_service: Start) -> None:
    service = start_service().ready("vlm")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # A waiting caller ahead keeps the second one queued, where no worker knows of it.
        first = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("word " * 60, pause_ms=2000))
        wait_until(lambda: _jobs(service, "running"), "the first runs")
        second = pool.submit(service.call, "vlm", "/v1/chat/completions", chat("never said"))
        (queued,) = wait_until(lambda: _jobs(service, "queued"), "the second waits")
        (running,) = _jobs(service, "running")
        assert "is cancelled" in service.command("cancel", queued["id"]).stdout
        status, body = second.result(30)  # long before the first one's end
        assert status == 499 and body["error"]["type"] == "cancelled_error"
        assert not first.done()
        service.command("cancel", running["id"])
        assert first.result(60)[0] == 499


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
        found = wait_until(lambda: list(service.outbox.rglob("note*error*")), "its error file")
        assert "cancelled" in json.loads(found[0].read_text())["error"]
    finally:
        os.kill(pid, signal.SIGCONT)


def _jobs(service: RunningService, state: str) -> list[dict[str, Any]]:
    found = service.command("jobs", "--json", "--state", state)
    return list(json.loads(found.stdout)) if found.returncode == 0 else []
