"""Requests that arrive while the service ends."""

from __future__ import annotations

import collections
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from drill_home import processes_of
from running_service import KINDS, WEIGHTLESS, RunningService, wait_until

Start = Callable[..., RunningService]

BODIES = {
    "embedding": ("/v1/embeddings", {"input": ["some words"]}),
    "vlm": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "some words"}]}),
}


def test_requests_during_shutdown_get_503_with_retry_after_and_no_traceback(start_service: Start) -> None:
    service = start_service(BATCH_QUEUE__GRACE="1").ready()
    process = service.process
    assert process is not None
    answers: collections.Counter[int] = collections.Counter()
    without_retry_after: list[int] = []

    def send(kind: str) -> None:
        path, body = BODIES[kind]
        while process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", service.ports[kind], timeout=30)
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                continue  # the port is closed, or closes
            finally:
                connection.close()
            answers[answer.status] += 1
            if answer.status == 503 and answer.headers["Retry-After"] is None:
                without_retry_after.append(answer.status)

    clients = [threading.Thread(target=send, args=(kind,), daemon=True) for kind in BODIES for _ in range(4)]
    for client in clients:
        client.start()
    while answers[200] < 20:
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    for client in clients:
        client.join(30)
    assert set(answers) <= {200, 503} and not without_retry_after, answers
    service.close()
    assert "Traceback" not in service.output


@pytest.mark.parametrize("mark", ["", "run/service.lock", "batch.db", "worker"], ids=str)
def test_a_stop_signal_during_start_up_ends_it_cleanly_and_leaves_no_process(tmp_path: Path, mark: str) -> None:
    """At the first sign of each stage."""
    service = RunningService(tmp_path, WEIGHTLESS)
    command = [sys.executable, "-m", "batch", "serve", *(f"--{kind}-port=0" for kind in KINDS)]
    process = subprocess.Popen(
        command, env=service._environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )

    def is_there() -> bool:
        return len(processes_of(tmp_path)) > 1 if mark == "worker" else (tmp_path / ".batch" / mark).exists()

    wait_until(is_there, f"{mark or 'the state folder'} is there")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in said, said
    assert "stopped while it was starting" in said or "batch is up" in said, said
    wait_until(lambda: not processes_of(tmp_path), "no process is left")
    if mark == "batch.db":  # cut off in the migration, say
        with service:
            assert service.stop() == 0
