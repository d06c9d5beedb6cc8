"""Nothing that one client can make long stands in another's way: large bodies of every kind, and /health meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from running_service import WEIGHTLESS, RunningService

LATEST_S = 1.5
"""Within this another port's /health answers, on a machine whose cores are taken by others."""
MEGABYTES = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    with RunningService(tmp_path_factory.mktemp("large"), WEIGHTLESS) as service:
        yield service.ready()


def resident_bytes(service: RunningService, field: str = "VmRSS") -> int:
    """Memory of the service's own process; VmHWM: its most so far."""
    assert service.process is not None
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(field))


CHAT, EMBED, RESPOND, MESSAGE = "/v1/chat/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"
MANY = 64 * MEGABYTES
HELLO = b'"messages":[{"role":"user","content":"hi"}]'

BODIES = {
    "empty arrays to embed": (EMBED, lambda: b'{"input":[' + b"[]," * (MANY // 3) + b"[]]}", 400),
    "empty arrays to chat": (CHAT, lambda: b'{"messages":[' + b"[]," * (MANY // 3) + b"[]]}", 413),
    "empty texts as a prompt": ("/completion", lambda: b'{"prompt":[' + b'"",' * (MANY // 3) + b'""]}', 413),
    "objects in a schema": (
        CHAT,
        lambda: b"{" + HELLO + b',"json_schema":{"a":[' + b"{}," * (MANY // 3) + b"{}]}}",
        413,
    ),
    "objects in an unknown field": (CHAT, lambda: b"{" + HELLO + b',"x":[' + b"{}," * (MANY // 3) + b"{}]}", 413),
    "messages": (
        CHAT,
        lambda: b'{"messages":[' + b'{"role":"user","content":"x"},' * 100_000 + b'{"role":"user","content":"x"}]}',
        400,
    ),
    "blocks": (
        MESSAGE,
        lambda: (
            b'{"max_tokens":1,"messages":[{"role":"user","content":['
            + b'{"type":"text","text":"x"},' * 100_000
            + b'{"type":"text","text":"x"}]}]}'
        ),
        400,
    ),
    "items": (RESPOND, lambda: b'{"input":[' + b'{"role":"user","content":"x"},' * 100_000 + b'{"role":"user"}]}', 400),
    "one text": (CHAT, lambda: b'{"messages":[{"role":"user","content":"' + b"x" * MANY + b'"}]}', 413),
    "one text without an end": (CHAT, lambda: b'{"messages":[{"role":"user","content":"' + b"[," * (MANY // 2), 400),
    "escapes": (CHAT, lambda: b'{"messages":[{"role":"user","content":"' + b"\\u00e9" * (MANY // 6) + b'"}]}', 413),
    "numbers": ("/detokenize", lambda: b'{"tokens":[' + b"1," * (MANY // 2) + b"1]}", 413),
    "tools": (
        CHAT,
        lambda: b"{" + HELLO + b',"tools":[' + b'{"function":{"name":"f"}},' * 60_000 + b'{"function":{"name":"f"}}]}',
        400,
    ),
    "biases": (
        CHAT,
        lambda: json.dumps({"messages": [], "logit_bias": {f"word {n}": 1 for n in range(500_000)}}).encode(),
        400,
    ),
    "depth": (CHAT, lambda: b'{"messages":' + b"[" * (MANY // 2) + b"]" * (MANY // 2) + b"}", 413),
    "a picture": (
        CHAT,
        lambda: (
            b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,'
            + b"A" * MANY
            + b'"}}]}]}'
        ),
        400,
    ),
    "a picture in lines": (
        CHAT,
        lambda: (
            b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,'
            + b"AAAA\\n" * (MANY // 6)
            + b'"}}]}]}'
        ),
        400,
    ),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_large_body_of_any_kind_holds_up_nobody_and_takes_bounded_memory(served: RunningService, case: str) -> None:
    path, make, status = BODIES[case]
    body = make()
    before = resident_bytes(served)
    answers: list[int] = []
    sender = threading.Thread(target=lambda: answers.append(served.call("vlm", path, body, timeout=120)[0]))
    sender.start()
    slowest = peak = 0.0
    while sender.is_alive():
        started = time.monotonic()
        assert served.get("stt", "/health")[0] == 200
        slowest = max(slowest, time.monotonic() - started)
        peak = max(peak, resident_bytes(served) - before)
        sender.join(0.02)
    assert answers == [status]
    assert slowest < LATEST_S, f"/health of another port took {slowest:.1f} s"
    assert peak < 8 * len(body) + 200 * MEGABYTES, f"{peak / MEGABYTES:.0f} MB for {len(body) / MEGABYTES:.0f} MB"


def test_several_large_bodies_at_once_hold_up_nobody(served: RunningService) -> None:
    body = b'{"messages":[' + b"[]," * (16 * MEGABYTES) + b"[]]}"
    senders = [threading.Thread(target=lambda: served.call("vlm", CHAT, body, timeout=120)) for _ in range(4)]
    for sender in senders:
        sender.start()
    slowest = 0.0
    while any(sender.is_alive() for sender in senders):
        started = time.monotonic()
        assert served.get("embedding", "/health")[0] == 200
        slowest = max(slowest, time.monotonic() - started)
        time.sleep(0.02)  # between two looks, so that the looks are no load of their own
    assert slowest < 2 * LATEST_S
