"""Background responses in this process; their jobs are ended as a worker ends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from batch.api.responses import background
from batch.api.responses.background import BackgroundResponses
from batch.api.responses.request import read_responses_body
from batch.conversations.response_store import ResponseStore
from batch.errors import DiskFull
from batch.payloads.chat import ChatPayload, Message
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind, State
from batch.queue.store import Ending
from hub_stage import opened_hub
from scripted_hub import answer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with opened_hub(tmp_path) as hub:
        yield hub


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)


async def test_a_background_response_that_ends_on_a_full_disk_is_completed_once_there_is_space(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed in_progress until the service was started again."""
    monkeypatch.setattr(background, "DISK_RETRY_S", 0.02)
    responses, store = BackgroundResponses(hub), ResponseStore(hub.store)
    body = read_responses_body(msgspec.json.encode({"input": "hello", "background": True}))
    payload = ChatPayload(messages=[Message(role="user", content="hello")])
    id = (await responses.submit(body, payload, (), [], 1, None)).id
    await responses.stop()
    (lease,) = hub.store.take(Kind.VLM, "w1")
    hub.store.end([Ending(lease, State.DONE, msgspec.json.encode(answer("Hello there.")).decode())])

    end, is_full, refusals = ResponseStore.end, True, 0

    def refuse(self: ResponseStore, *arguments: Any, **options: Any) -> bool:
        nonlocal refusals
        refusals += is_full
        if is_full:
            raise DiskFull()
        return end(self, *arguments, **options)

    monkeypatch.setattr(ResponseStore, "end", refuse)
    await responses.start()
    await until(lambda: refusals > 2)
    assert store.response(id).status in ("queued", "in_progress")
    is_full = False
    await until(lambda: store.response(id).status == "completed")
    assert b"Hello there." in store.response(id).data
    await responses.stop()
