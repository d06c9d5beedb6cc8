"""Uploads in parts: what a client may pile up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from batch.api.app import create_app
from batch.api.files import upload_routes
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir()
    store = open_store(settings.database_address, home=settings.home)
    hub = Hub(store, Spool(settings.state_dir / "spool"), settings.state_dir)
    transport = httpx.ASGITransport(create_app(Kind.VLM, hub, settings))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as running:
        yield running
    await hub.close()
    store.close()


async def test_an_upload_has_a_bound_of_parts_empty_ones_too(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_routes, "MAX_PARTS", 3)
    form = {"bytes": 4, "filename": "a.jsonl", "mime_type": "text/jsonl", "purpose": "batch"}
    upload = (await client.post("/v1/uploads", json=form)).json()["id"]
    ids = []
    for data in (b"", b"ab", b"cd"):
        response = await client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", data)})
        assert response.status_code == 200, response.text
        ids.append(response.json()["id"])
    refused = await client.post(f"/v1/uploads/{upload}/parts", files={"data": ("part", b"")})
    assert refused.status_code == 400, refused.text
    completed = await client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": ids})
    assert (completed.status_code, completed.json()["file"]["bytes"]) == (200, 4)


async def test_a_batchs_input_is_no_larger_for_coming_in_parts(client: httpx.AsyncClient) -> None:
    form = {"bytes": 300 << 20, "filename": "a.jsonl", "mime_type": "text/jsonl"}
    assert (await client.post("/v1/uploads", json={**form, "purpose": "user_data"})).status_code == 200
    refused = await client.post("/v1/uploads", json={**form, "purpose": "batch"})
    assert refused.status_code == 413 and "files.batch_bytes" in refused.text
