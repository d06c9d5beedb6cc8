"""Batches created under an Idempotency-Key, by clients that send a create again; how many requests one is said to hold."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from batch.api.app import create_app
from batch.api.batches.endpoints import line_endpoints
from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.rows import Purpose
from batch.batches.service import BatchService
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.settings import LimitSettings, Settings
from hub_stage import opened_hub

pytestmark = pytest.mark.anyio

KEY = {"Idempotency-Key": "one"}
PARAMS = {"max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}


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


async def test_a_batch_created_twice_under_a_key_is_one(hub: Hub, client: httpx.AsyncClient) -> None:
    file = FileStore(hub.store).create_file(Purpose.BATCH, "a.jsonl", 1, hub.spool.keep(b"x"), None).id
    body: dict[str, Any] = {"input_file_id": file, "endpoint": "/v1/embeddings", "completion_window": "24h"}
    first = await client.post("/v1/batches", json=body, headers=KEY)
    assert first.status_code == 200 and "idempotent-replayed" not in first.headers
    FileStore(hub.store).delete_file(file)
    again = await client.post("/v1/batches", json=body, headers=KEY)
    assert again.json()["id"] == first.json()["id"] and again.headers["idempotent-replayed"] == "true"
    assert len(BatchStore(hub.store).batches(None)[0]) == 1
    other = await client.post("/v1/batches", json={**body, "completion_window": "7d"}, headers=KEY)
    assert other.status_code == 422 and "Idempotency-Key" in other.text
    assert (await client.post("/v1/batches", json=body, headers={"Idempotency-Key": "x" * 300})).status_code == 400
    assert (await client.post("/v1/batches", json=body)).status_code == 400, "without a key its file is looked for"


async def test_a_message_batch_created_twice_under_a_key_is_one(hub: Hub, client: httpx.AsyncClient) -> None:
    body = {"requests": [{"custom_id": "a", "params": PARAMS}, {"custom_id": "b", "params": PARAMS}]}
    first = await client.post("/v1/messages/batches", json=body, headers=KEY)
    again = await client.post("/v1/messages/batches", json=body, headers=KEY)
    assert first.status_code == 200 and first.json() == again.json()
    assert "idempotent-replayed" not in first.headers and again.headers["idempotent-replayed"] == "true"
    body["requests"][1]["custom_id"] = "c"
    assert (await client.post("/v1/messages/batches", json=body, headers=KEY)).status_code == 422
    assert (await client.delete(f"/v1/messages/batches/{first.json()['id']}")).status_code == 409


async def test_a_message_batch_counts_all_its_requests_before_they_are_read(hub: Hub, client: httpx.AsyncClient) -> None:
    """Until they were read, fewer were said to be in processing than the client had sent."""
    body = {"requests": [{"custom_id": f"n{n}", "params": PARAMS} for n in range(7)]}
    created = (await client.post("/v1/messages/batches", json=body)).json()
    seen = (await client.get(f"/v1/messages/batches/{created['id']}")).json()
    assert created == seen and seen["request_counts"]["processing"] == 7
