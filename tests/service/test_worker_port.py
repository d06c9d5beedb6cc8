"""A front with a worker port, and a machine that dials it: words of a chat go by TLS, and none through the database."""

from __future__ import annotations

import json
import os
import stat
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from played_homes import counted
from postgres_server import PostgresServer
from running_service import RunningService, chat, wait_until
from running_worker import RunningWorker

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

FRONT = {f"BATCH_{kind.upper()}__MODEL": "none" for kind in ("vlm", "embedding", "stt")}


@pytest.fixture
def url(postgres_server: PostgresServer) -> Iterator[str]:
    url = postgres_server.new_database()
    yield url
    postgres_server.empty_database(url)


def streamed(front: RunningService, text: str, pause_ms: int) -> tuple[str, int]:
    """What a streaming client gets of a chat: all words, and in how many moments."""
    data = json.dumps({**chat(text, pause_ms=pause_ms), "stream": True}).encode()
    request = urllib.request.Request(front.url("vlm", "/v1/chat/completions"), data, {"Content-Type": "application/json"})
    words, moments = "", set()
    with urllib.request.urlopen(request, timeout=120) as answer:
        for line in answer:
            if line.startswith(b"data: {"):
                words += json.loads(line[6:])["choices"][0]["delta"].get("content") or ""
                moments.add(round(time.monotonic(), 1))
    return words, len(moments)


def test_a_chat_streams_over_the_worker_port_and_not_through_the_database(url: str, tmp_path: Path) -> None:
    home = tmp_path / "front"
    home.mkdir()
    variables = {**FRONT, "BATCH_DATABASE": url, "BATCH_FRONT__LISTEN": "127.0.0.1:0"}
    text = " ".join(f"w{number}" for number in range(60))
    with RunningService(home, variables) as front:
        worker = RunningWorker(tmp_path / "gpu", "vlm", url)
        try:
            front.ready("vlm")
            wait_until(lambda: "is reached" in worker.output, f"it dials\n{worker.output}")
            certificate = home / ".batch" / "worker_port.pem"
            assert stat.S_IMODE(os.stat(certificate).st_mode) == 0o600
            with counted(url, (home / ".batch" / "home_id").read_text()) as notified:
                words, moments = streamed(front, text, 30)
                assert words.split() == text.split() and moments > 5, "as they come"
                status, refusal = front.call("vlm", "/tokenize", {"content": "one two"})
                assert (status, "engine without weights" in str(refusal)) == (501, True), "questions, too"
                assert notified.payloads == []
            worker.stop()
        finally:
            worker.close()
