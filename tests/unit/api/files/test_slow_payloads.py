"""Payloads that another machine put in have to be fetched first: who waits for that holds up nobody else."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from batch.api.app import create_app
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.open_store import open_store
from batch.queue.spool import Spool
from batch.settings import Settings
from played_channel import PlayedNetwork

pytestmark = pytest.mark.anyio


class SlowSpool(Spool):
    """Whose bytes lie far away until `arrived`, for who reads a file; never asked for by the event loop itself."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.loop_thread = threading.current_thread()
        self.asked = threading.Event()
        self.arrived = threading.Event()

    def path(self, sha256: str) -> Path:
        assert threading.current_thread() is not self.loop_thread, "fetched on the event loop"
        self.asked.set()
        assert self.arrived.wait(30)
        return super().path(sha256)


class Front:
    """A front with a chat port and one for speech, without workers."""

    def __init__(self, hub: Hub, spool: SlowSpool, settings: Settings) -> None:
        self.spool = spool
        self._clients = {
            kind: httpx.AsyncClient(
                transport=httpx.ASGITransport(create_app(kind, hub, settings)), base_url="http://127.0.0.1", timeout=30
            )
            for kind in Kind
        }

    def __getitem__(self, kind: Kind) -> httpx.AsyncClient:
        return self._clients[kind]

    async def upload(self, data: bytes, purpose: str) -> str:
        answer = await self[Kind.VLM].post("/v1/files", data={"purpose": purpose}, files={"file": ("name", data)})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    settings = Settings(home=tmp_path)
    settings.state_dir.mkdir()
    store = open_store(settings.database_address, home=settings.home)
    spool = SlowSpool(settings.state_dir / "spool")
    hub = Hub(store, spool, settings.state_dir, channel=PlayedNetwork().channel("front"), home="front")
    try:
        yield Front(hub, spool, settings)
    finally:
        spool.arrived.set()
        await hub.close()
        store.close()


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


async def download(front: Front) -> None:
    file = await front.upload(b"from afar", "user_data")
    answer = await front[Kind.VLM].get(f"/v1/files/{file}/content")
    assert (answer.status_code, answer.content) == (200, b"from afar")


async def picture_of_a_chat(front: Front) -> None:
    part = {"type": "file", "file": {"file_id": await front.upload(picture(), "vision")}}
    body = {"model": "any", "messages": [{"role": "user", "content": [part, {"type": "text", "text": "What is it?"}]}]}
    await front[Kind.VLM].post("/v1/chat/completions", json=body)


async def recording(front: Front) -> None:
    await front[Kind.STT].post("/inference", files={"file": ("a.wav", b"RIFF")})


@pytest.mark.parametrize("ask", [download, picture_of_a_chat, recording])
async def test_while_bytes_are_on_their_way_to_a_front_its_other_clients_are_answered(
    front: Front, ask: Callable[[Front], Coroutine[Any, Any, None]]
) -> None:
    asking = asyncio.create_task(ask(front))
    for _ in range(300):
        if front.spool.asked.is_set() or asking.done():
            break
        await asyncio.sleep(0.05)
    assert front.spool.asked.is_set(), asking
    for kind in Kind:
        assert (await front[kind].get("/health")).status_code in (200, 503)
    assert not asking.done()
    front.spool.arrived.set()
    if ask is download:
        await asking
    asking.cancel()  # nobody computes here
    await asyncio.gather(asking, return_exceptions=True)
