"""Streams of the chat port over real processes, with the engine without weights: it says the prompt word by word, a
seed's milliseconds apart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from running_service import RunningService, wait_until

Start = Callable[..., RunningService]
WORDS = [f"word{n}" for n in range(30)]


@pytest.fixture
def weightless(start_service: Start) -> RunningService:
    return start_service().ready("vlm")


@contextlib.contextmanager
def streaming(service: RunningService, pause: int, words: list[str], **more: Any) -> Iterator[Iterator[str]]:
    """The lines of a stream that says `words`, `pause` milliseconds apart."""
    body = {"messages": [{"role": "user", "content": " ".join(words)}], "seed": pause, "stream": True, **more}
    with httpx.stream("POST", service.url("vlm", "/v1/chat/completions"), json=body, timeout=60) as reply:
        assert reply.status_code == 200
        yield (line for line in reply.iter_lines() if line)


def said(lines: list[str]) -> str:
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c.get("choices"))


def until(lines: Iterator[str], word: str) -> list[str]:
    """Lines up to the one that says `word`."""
    seen = []
    for line in lines:
        seen.append(line)
        if word in line:
            return seen
    raise AssertionError(seen)


def test_a_stream_goes_on_where_it_stood_after_its_worker_was_killed(weightless: RunningService) -> None:
    pid = weightless.worker_pid("vlm")
    with streaming(weightless, 100, WORDS) as lines:
        before = until(lines, "word5")
        os.kill(pid, signal.SIGKILL)
        whole = before + list(lines)
    assert said(whole).split() == WORDS
    assert whole[-1] == "data: [DONE]"


def test_a_silent_stream_is_pinged(weightless: RunningService) -> None:
    with streaming(weightless, 2500, ["one", "two"], sse_ping_interval=1) as lines:
        assert ":" in list(lines)


def test_pings_can_be_switched_off(weightless: RunningService) -> None:
    with streaming(weightless, 2500, ["one", "two"], sse_ping_interval=-1) as lines:
        assert ":" not in list(lines)


def test_each_waiting_stream_is_told_its_place(weightless: RunningService) -> None:
    with (
        streaming(weightless, 400, WORDS) as first,
        streaming(weightless, 0, ["second"]) as second,
        streaming(weightless, 0, ["third"]) as third,
    ):
        assert [next(second), next(third)] == [": queued 1 ahead", ": queued 2 ahead"]
        rest = list(first)
        assert said(rest).split() == WORDS
        assert said(list(second)).split() == ["second"] and said(list(third)).split() == ["third"]


def test_a_caller_that_hangs_up_while_it_waits_leaves_the_queue(weightless: RunningService) -> None:
    def cancelled() -> list[Any]:
        return [job for job in json.loads(weightless.command("jobs", "--json").stdout) if job["state"] == "cancelled"]

    with streaming(weightless, 400, WORDS):
        with streaming(weightless, 0, ["second"]) as second:
            next(second)
        wait_until(cancelled, "the waiting job is cancelled")
