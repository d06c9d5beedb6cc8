"""A port's app: FastAPI's, except that a few endpoints are called without the layers that lie around its routes.

Those are some twenty coroutines, one inside the other, through which a request goes in, its result comes back and its response
goes out. For a short text to embed they took as long as what is done with it here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import APIRouter, FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Endpoint = Callable[[Request], Awaitable[Response]]


class PortApp(FastAPI):
    """Calls its plain endpoints itself, and reports their errors by the handlers that all others have."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._plain_endpoints: dict[tuple[str, str], Endpoint] = {}
        self._entry: ASGIApp = self.dispatch

    def call_plainly(self, routers: Iterable[APIRouter]) -> None:
        """Have those routes of these routers called plainly that were added with `add_route`, whose endpoints need nothing of
        FastAPI."""
        for router in routers:
            for route in router.routes:
                if type(route) is Route and not route.param_convertors:
                    self._plain_endpoints.update({(method, route.path): route.endpoint for method in route.methods or ()})

    def enter_by(self, entry: ASGIApp) -> None:
        """Lead all that comes in through `entry`, which passes it on to `dispatch`."""
        self._entry = entry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._entry(scope, receive, send)

    async def dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have FastAPI answer it."""
        endpoint = self._plain_endpoints.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if endpoint is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        request = PlainRequest(scope, receive, send)
        has_started = False

        async def answer(message: Message) -> None:
            nonlocal has_started
            has_started = True
            await send(message)

        try:
            response = await endpoint(request)
            await response(scope, receive, answer)
        except Exception as error:
            if has_started:
                raise
            handled = next(type for type in type(error).__mro__ if type in self.exception_handlers)
            response = await self.exception_handlers[handled](request, error)  # type: ignore[misc]  # ours are coroutines
            await response(scope, receive, send)
            if handled is Exception:
                raise  # for the log


class PlainRequest(Request):
    """Reads its body without Starlette's two generators."""

    async def body(self) -> bytes:
        """All of it. Raises ClientDisconnect where the client hangs up before."""
        if not hasattr(self, "_body"):
            pieces: list[bytes] = []
            more = True
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect()
                pieces.append(message.get("body", b""))
                more = message.get("more_body", False)
            self._body = b"".join(pieces)  # where `stream` and `form` look for it
        return self._body
