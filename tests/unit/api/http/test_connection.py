"""A client that hangs up while it waits is noticed, however its request's body arrived."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from batch.api.http.connection import connection_of
from batch.api.http.http_protocol import protocol
from batch.api.port_app import PlainRequest
from batch.settings import Settings

pytestmark = pytest.mark.anyio


class WaitingApp:
    """Reads a request's body, and answers when the client has hung up."""

    def __init__(self) -> None:
        self.is_reading = asyncio.Event()
        self.body_sizes: asyncio.Queue[int] = asyncio.Queue()
        self.is_lost = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request: Request = PlainRequest(scope, receive, send)
        asyncio.get_running_loop().call_soon(self.is_reading.set)
        self.body_sizes.put_nowait(len(await request.body()))
        connection = connection_of(scope)
        assert connection is not None
        connection.listen(self.is_lost.set)
        await self.is_lost.wait()


@contextlib.asynccontextmanager
async def served(app: WaitingApp) -> AsyncIterator[int]:
    """Its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws="none", http=protocol(Settings().limits))
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = server.force_exit = True
            await serving


@pytest.mark.parametrize("size", [0, 1000, 100_000, 1_000_000])
@pytest.mark.parametrize("is_split", [False, True])
async def test_a_client_that_hangs_up_while_it_waits_is_noticed_however_its_body_came(size: int, is_split: bool) -> None:
    app = WaitingApp()
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % size
    async with served(app) as port, asyncio.timeout(20):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head)
        if is_split:
            await app.is_reading.wait()
        writer.write(bytes(size))
        assert await app.body_sizes.get() == size
        writer.close()
        await app.is_lost.wait()
