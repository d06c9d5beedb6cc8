"""Endpoints that a port calls plainly answer, refuse and fail as those do that FastAPI calls."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from batch.api.app import create_app
from batch.errors import TooLarge, Unavailable
from batch.queue.jobs import Kind
from batch.settings import Settings
from scripted_hub import ScriptedHub

pytestmark = pytest.mark.anyio

FAULTS: dict[str, Exception | None] = {
    "none": None,
    "large": TooLarge("Too large."),
    "unavailable": Unavailable("Not now."),
    "gone": ClientDisconnect(),
    "bug": RuntimeError("a mistake"),
}
LATE = "late "
"""Before a fault that the response has, and not the endpoint."""


class FaultyResponse(Response):
    """Fails before its head is sent, as a stream's may."""

    def __init__(self, fault: Exception) -> None:
        super().__init__()
        self._fault = fault

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self._fault


def ports() -> tuple[Any, Any]:
    """Two apps with POST /called: one calls it plainly, one leaves it to FastAPI."""
    called, led = APIRouter(), APIRouter()

    async def endpoint(request: Request) -> Response:
        word = (await request.body()).decode()
        if (fault := FAULTS[word.removeprefix(LATE)]) is not None:
            if word.startswith(LATE):
                return FaultyResponse(fault)
            raise fault
        request.state.replayed = True
        return JSONResponse({"kind": request.app.state.kind, "path": request.url.path})

    called.add_route("/called", endpoint, methods=["POST"])
    led.post("/called")(endpoint)
    apps = [
        create_app(Kind.EMBEDDING, ScriptedHub(lambda draft: []), Settings(), more_routers=[router]) for router in (called, led)
    ]  # type: ignore[arg-type]
    apps[0].call_plainly([called])
    return apps[0], apps[1]


async def answer(app: Any, method: str, body: str, *, raise_faults: bool = False) -> tuple[int, bytes, dict[str, str]]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raise_faults)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        reply = await client.request(
            method, "/called", content=body, headers={"x-request-id": "mine", "origin": "http://localhost"}
        )
    return reply.status_code, reply.content, dict(reply.headers)


@pytest.mark.parametrize("fault", [*FAULTS, f"{LATE}large", f"{LATE}bug"])
async def test_an_endpoint_that_is_called_plainly_answers_as_one_that_fastapi_calls(fault: str) -> None:
    plain, led = ports()
    got = await answer(plain, "POST", fault)
    assert got == await answer(led, "POST", fault)
    assert got[2]["x-request-id"] == "mine" and got[2]["access-control-allow-origin"] == "http://localhost"


async def test_another_method_finds_nothing_there() -> None:
    plain, led = ports()
    for method in ("GET", "HEAD", "DELETE"):
        got = await answer(plain, method, "none")
        assert got == await answer(led, method, "none") and got[0] == 404


async def test_a_mistake_reaches_the_log_and_a_refusal_does_not() -> None:
    plain, _ = ports()
    with pytest.raises(RuntimeError, match="a mistake"):
        await answer(plain, "POST", "bug", raise_faults=True)
    assert (await answer(plain, "POST", "large", raise_faults=True))[0] == TooLarge.status
