"""Many batches, page by page, on the app in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch.api.app import create_app
from batch.api.batches.endpoints import line_endpoints
from batch.batches.batch_store import BatchStore
from batch.batches.rows import BatchApi, BatchDraft
from batch.batches.service import BatchService
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind, Priority
from batch.settings import LimitSettings, Settings
from hub_stage import opened_hub

pytestmark = pytest.mark.anyio


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with opened_hub(tmp_path) as hub:
        yield hub


@pytest.fixture
async def client(hub: Hub, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(Kind.VLM, hub, Settings(home=tmp_path))
    app.state.batches = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as running:
        yield running


def new_batches(hub: Hub, api: BatchApi, count: int) -> list[str]:
    """Ids, the newest first."""
    store = BatchStore(hub.store)
    drafts = [
        BatchDraft(
            api=api, endpoint="/v1/messages", input_file="f", input_sha256="0" * 64, input_bytes=1, priority=Priority.BATCH
        )
        for _ in range(count)
    ]
    return [store.create(draft).id for draft in drafts][::-1]


async def test_more_batches_than_a_page_holds_are_listed_each_once(hub: Hub, client: httpx.AsyncClient) -> None:
    import openai  # here: every test process would pay for it

    ids = new_batches(hub, BatchApi.OPENAI, 45)
    new_batches(hub, BatchApi.ANTHROPIC, 3)
    openai_client = openai.AsyncOpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client)
    page = await openai_client.batches.list()
    assert [batch.id for batch in page.data] == ids[:20] and page.has_more
    assert [batch.id async for batch in openai_client.batches.list()] == ids
    assert [batch.id async for batch in openai_client.batches.list(after=ids[40])] == ids[41:]
    with pytest.raises(openai.BadRequestError):
        await openai_client.batches.list(after="batch_none")
    with pytest.raises(openai.BadRequestError):
        await openai_client.batches.list(limit=101)


async def test_anthropics_pages_go_both_ways(hub: Hub, client: httpx.AsyncClient) -> None:
    ids = new_batches(hub, BatchApi.ANTHROPIC, 45)
    new_batches(hub, BatchApi.OPENAI, 3)
    listed: list[str] = []
    page: dict[str, Any] = {"has_more": True, "last_id": None}
    while page["has_more"]:  # as Anthropic's client goes on
        after = {} if page["last_id"] is None else {"after_id": page["last_id"]}
        page = (await client.get("/v1/messages/batches", params=after)).json()
        listed += [batch["id"] for batch in page["data"]]
    assert listed == ids
    before = (await client.get("/v1/messages/batches", params={"before_id": ids[30], "limit": 10})).json()
    assert [batch["id"] for batch in before["data"]] == ids[20:30] and before["has_more"]
    refused = await client.get("/v1/messages/batches", params={"before_id": ids[0], "after_id": ids[1]})
    assert refused.status_code == 400
