"""batch/api/webhooks: what a client can hold up, and what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import Request

from batch.api.app import create_app
from batch.api.generation.jobs import hub_of
from batch.api.webhooks import routes
from batch.notifications.notification_store import NotificationStore
from batch.notifications.rows import Target
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


def endpoint(url: str) -> dict[str, object]:
    return {"name": "mine", "url": url, "event_types": ["batch.completed"]}


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".test"])
async def test_a_host_that_can_be_no_name_is_the_clients_mistake(client: httpx.AsyncClient, host: str) -> None:
    response = await client.post("/v1/webhook_endpoints", json=endpoint(f"http://{host}/"))
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == "url"


async def test_only_a_few_clients_at_a_time_have_names_looked_up(client: httpx.AsyncClient) -> None:
    """A name server, or a receiver, that does not answer keeps a thread for many seconds."""
    for _ in range(routes.MAX_CALLS_OUT):
        assert routes._calls_out.acquire(blocking=False)
    try:
        response = await client.post("/v1/webhook_endpoints", json=endpoint("http://127.0.0.1:9/"))
        assert response.status_code == 429, response.text
    finally:
        routes._calls_out.release(routes.MAX_CALLS_OUT)
    created = await client.post("/v1/webhook_endpoints", json=endpoint("http://127.0.0.1:9/"))
    assert created.status_code == 200, created.text
    tried = await client.post(f"/v1/webhook_endpoints/{created.json()['id']}/test", json={"event_type": "batch.completed"})
    assert tried.status_code == 400 and "did not answer" in tried.text


async def test_an_endpoint_that_is_deleted_while_another_client_changes_it_stays_deleted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It came back: nobody knew its secret, and its receiver was told again."""
    looked_up = routes._target
    for path, body in (("", {"name": "other"}), ("/rotate_secret", {})):
        created = (await client.post("/v1/webhook_endpoints", json=endpoint("http://127.0.0.1:9/"))).json()["id"]

        async def delete_behind(request: Request, id: str) -> Target:
            target = await looked_up(request, id)
            await hub_of(request).in_thread(lambda: NotificationStore(hub_of(request).store).delete_target(id))
            return target

        with monkeypatch.context() as raced:
            raced.setattr(routes, "_target", delete_behind)
            changed = await client.post(f"/v1/webhook_endpoints/{created}{path}", json=body)
        assert changed.status_code == 404, changed.text
        assert (await client.get("/v1/webhook_endpoints")).json()["data"] == []
