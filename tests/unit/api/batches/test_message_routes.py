"""Anthropic's batches: what is refused at once, and what goes with a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from batch.api.app import create_app
from batch.api.batches.endpoints import line_endpoints
from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.rows import BatchApi, BatchDraft, BatchStatus, Purpose, StoredFile, new_public_id
from batch.batches.service import BatchService
from batch.errors import NotFound
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
    batches = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    app = create_app(Kind.VLM, hub, Settings(home=tmp_path))
    app.state.batches = batches
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as running:
        yield running


def result_file(hub: Hub, text: bytes) -> StoredFile:
    return StoredFile(
        id=new_public_id("file-"),
        purpose=Purpose.BATCH_OUTPUT,
        filename="x.jsonl",
        bytes=len(text),
        sha256=hub.spool.keep(text),
        created_at=1,
    )


async def test_a_batch_is_deleted_with_what_is_left_of_its_results(hub: Hub, client: httpx.AsyncClient) -> None:
    """One of whose files was deleted before it answered 404, although it was gone then, and left the other file behind."""
    batches, files = BatchStore(hub.store), FileStore(hub.store)
    draft = BatchDraft(
        api=BatchApi.ANTHROPIC, endpoint="/v1/messages", input_sha256="0" * 64, input_bytes=1, priority=Priority.BATCH
    )
    batch, output, errors = batches.create(draft), result_file(hub, b"a\n"), result_file(hub, b"b\n")
    refused = await client.delete(f"/v1/messages/batches/{batch.id}")
    assert refused.status_code == 409, refused.text
    batches.end(batch, BatchStatus.COMPLETED, output, errors)
    files.delete_file(output.id)
    response = await client.delete(f"/v1/messages/batches/{batch.id}")
    assert (response.status_code, response.json()["id"]) == (200, batch.id)
    with pytest.raises(NotFound):
        files.file(errors.id)
    assert (await client.delete(f"/v1/messages/batches/{batch.id}")).status_code == 404


async def test_results_that_left_the_spool_are_a_404_and_no_broken_stream(hub: Hub, client: httpx.AsyncClient) -> None:
    draft = BatchDraft(
        api=BatchApi.ANTHROPIC, endpoint="/v1/messages", input_sha256="0" * 64, input_bytes=1, priority=Priority.BATCH
    )
    batches = BatchStore(hub.store)
    batch, output = batches.create(draft), result_file(hub, b"")
    batches.end(batch, BatchStatus.COMPLETED, output, None)
    assert (await client.get(f"/v1/messages/batches/{batch.id}/results")).status_code == 200
    hub.path(output.sha256).unlink()
    assert (await client.get(f"/v1/messages/batches/{batch.id}/results")).status_code == 404


@pytest.mark.parametrize("value", [b'"\xff"', b"1e999"], ids=["not UTF-8", "no number"])
async def test_a_request_that_no_line_can_hold_is_refused_by_name(client: httpx.AsyncClient, value: bytes) -> None:
    """The whole batch failed later, without results and without a word why: Anthropic's clients know no such end."""
    good = b'{"custom_id": "good", "params": {"max_tokens": 1}}'
    bad = b'{"custom_id": "bad", "params": {"max_tokens": ' + value + b"}}"
    body = b'{"requests": [' + good + b"," + bad + b"]}"
    response = await client.post("/v1/messages/batches", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert "requests.1.params" in response.text


async def test_what_a_batch_is_made_of_counts_towards_the_quota_until_it_ends(hub: Hub, tmp_path: Path) -> None:
    """Batches of 256 MB could be created until the disk was full."""
    app = create_app(Kind.VLM, hub, Settings(home=tmp_path, files={"total_bytes": 2500}))  # type: ignore[arg-type]
    app.state.batches = BatchService(hub, line_endpoints(hub, LimitSettings()), tmp_path / "batches", max_line_bytes=1 << 20)
    body = {"requests": [{"custom_id": "a", "params": {"max_tokens": 1, "system": "x" * 1000}}]}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
        first = await client.post("/v1/messages/batches", json=body, headers={"Idempotency-Key": "one"})
        assert (await client.post("/v1/messages/batches", json=body)).status_code == 200
        refused = await client.post("/v1/messages/batches", json=body)
        assert (refused.status_code, refused.headers["x-should-retry"]) == (507, "false")
        file = await client.post("/v1/files", data={"purpose": "user_data"}, files={"file": ("a", b"x" * 1000)})
        assert file.status_code == 507
        again = await client.post("/v1/messages/batches", json=body, headers={"Idempotency-Key": "one"})
        assert again.json()["id"] == first.json()["id"], "it is there already"
        store = BatchStore(hub.store)
        store.end(store.batch(first.json()["id"]), BatchStatus.COMPLETED, None, None)
        assert (await client.post("/v1/messages/batches", json=body)).status_code == 200
