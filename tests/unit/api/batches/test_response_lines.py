"""/v1/responses as lines of a batch: what a line that says so stores, and what a line may hold."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from batch.api.batches import endpoints
from batch.api.batches.endpoints import line_endpoints
from batch.batches.line_endpoint import JsonObject, LineEndpoint
from batch.errors import TooLarge
from batch.payloads.chat import ChatPayload
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.settings import LimitSettings
from folder_stage import caption
from hub_stage import opened_hub

pytestmark = pytest.mark.anyio

DAY_S = 86_400
JOBS = ("019abc0000010a", "019abc0000020b")


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with opened_hub(tmp_path) as hub:
        yield hub


def lifetime_s(hub: Hub, id: str) -> float:
    """How long a response has still to live."""
    return float(hub.store.read("select expires_at from response where id=?", (id,))[0][0]) - time.time()


def answer_id(endpoint: LineEndpoint, body: JsonObject, job: str) -> str:
    """The id of a line's response."""
    response = endpoint.to_response(body, caption("one"), job).body
    assert isinstance(response, dict)
    return str(response["id"])


async def test_a_response_that_a_line_stores_goes_as_others_do(hub: Hub) -> None:
    """It was kept for ever, and so was one that a line went on from."""
    endpoint = line_endpoints(hub, LimitSettings(), 7 * DAY_S)["/v1/responses"]
    body: JsonObject = {"input": "hello", "store": True}
    first = answer_id(endpoint, body, JOBS[0])
    assert answer_id(endpoint, body, JOBS[0]) == first, "the same after a crash"
    assert 6 * DAY_S < lifetime_s(hub, first) <= 7 * DAY_S
    chained: JsonObject = {"input": "go on", "previous_response_id": first}
    payload = (await endpoint.create_job(chained)).payload
    assert isinstance(payload, ChatPayload) and len(payload.messages) == 3
    assert 6 * DAY_S < lifetime_s(hub, first) <= 7 * DAY_S
    second = answer_id(endpoint, chained, JOBS[1])
    assert hub.store.read("select id from response") == [(first,)], f"{second} is not stored: its line does not say so"


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions", "/v1/completions", "/v1/messages"])
async def test_a_line_holds_no_more_text_than_a_request_may(hub: Hub, path: str) -> None:
    """It would stand in its job's row, and be tokenized."""
    endpoint = line_endpoints(hub, LimitSettings(text_bytes=5000))[path]
    for size, is_refused in ((4000, False), (6000, True)):
        text = "x" * size
        message = {"role": "user", "content": text}
        body: JsonObject = {"max_tokens": 1}
        match path:
            case "/v1/responses":
                body = {"input": text}
            case "/v1/completions":
                body |= {"prompt": text}
            case _:
                body |= {"messages": [message]}
        if is_refused:
            with pytest.raises(TooLarge, match=r"limits\.text_bytes"):
                await endpoint.create_job(body)
        else:
            await endpoint.create_job(body)


def test_the_model_of_a_batch_is_the_one_that_ran_also_where_there_are_several() -> None:
    names = {"vlm": "gemma", "vlm/small": "tiny", "vlm/idle": ""}
    hub: Any = SimpleNamespace(
        queue_named=lambda kind, name: f"{kind}/{name}" if f"{kind}/{name}" in names else kind,
        model=lambda queue: SimpleNamespace(name=names[queue]),
    )
    asked = ("gpt-4o", "small", "idle")
    assert [endpoints._ran(hub, Kind.VLM, name) for name in asked] == ["gemma", "tiny", "idle"]
