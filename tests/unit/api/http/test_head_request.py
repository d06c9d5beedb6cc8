"""HEAD is answered by the head of what GET answers: nothing is streamed, read or kept open for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from batch.api.errors import error_response
from batch.api.http.access import AccessControl
from batch.errors import NotFound
from batch.settings import LimitSettings

pytestmark = pytest.mark.anyio


class EndlessStream:
    """An ASGI app whose stream never ends, as that of /mcp, and what became of it."""

    def __init__(self) -> None:
        self.pieces = 0
        self.is_closed = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await StreamingResponse(self._body(), media_type="text/event-stream")(scope, receive, send)
        finally:
            self.is_closed = True

    async def _body(self) -> AsyncIterator[bytes]:
        while True:
            self.pieces += 1
            yield b": still here\n\n"
            await asyncio.sleep(0.01)


async def fail(request: Request) -> Response:
    raise RuntimeError("a mistake before the head")


async def answer(request: Request) -> Response:
    return PlainTextResponse("hello" if request.method == "GET" else "")


async def refuse(request: Request) -> Response:
    raise NotFound("There is none.")


async def refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotFound)
    return error_response(error)


@pytest.mark.parametrize("version", ["2.3", "2.4"])
async def test_a_stream_is_ended_behind_its_head(version: str) -> None:
    stream = EndlessStream()
    app = Starlette(routes=[Route("/stream", stream), Route("/fail", fail), Route("/answer", answer), Route("/none", refuse)])
    app.add_exception_handler(NotFound, refusal)
    access = AccessControl(app, limits=LimitSettings(), max_file_bytes=1, refusal=error_response)

    async def versioned(scope: Any, receive: Receive, send: Send) -> None:
        await access({**scope, "asgi": {"version": "3.0", "spec_version": version}}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(versioned), base_url="http://127.0.0.1") as client:
        head = await asyncio.wait_for(client.head("/stream"), 10)
        assert (head.status_code, head.content) == (200, b"") and "text/event-stream" in head.headers["content-type"]
        assert stream.is_closed and stream.pieces == 0, "its body was not begun"
        got, head = await client.get("/answer"), await client.head("/answer")
        assert got.text == "hello" and head.content == b""
        assert head.headers["content-length"] == got.headers["content-length"] == "5"
        assert (await client.head("/none")).status_code == 404
        assert (await client.head("/fail")).status_code == 500


async def test_a_head_request_whose_caller_goes_away_ends_its_app(tmp_path: Path) -> None:
    is_begun, is_ended = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        is_begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            is_ended.set()

    access = AccessControl(app, limits=LimitSettings(), max_file_bytes=1, refusal=error_response)
    scope = {"type": "http", "method": "HEAD", "path": "/", "headers": []}

    async def nothing(*_: Any) -> Any:
        await asyncio.sleep(600)

    task = asyncio.create_task(access(scope, nothing, nothing))
    await is_begun.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert is_ended.is_set()
