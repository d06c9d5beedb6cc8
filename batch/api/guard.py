"""Who may ask: programs and pages on this machine. Host, Origin and body size are checked before any route.

A foreign Host is DNS rebinding; a foreign Origin is a web page of somebody else's using the reader's browser.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse

from batch.errors import BatchError, Forbidden, TooLarge

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])\.?(:\d{1,5})?", re.IGNORECASE)


class Guard:
    """ASGI middleware, outermost."""

    def __init__(self, app: App, *, body_bytes: int, origins: tuple[str, ...]) -> None:
        self._app = app
        self._body_bytes = body_bytes
        self._origins = frozenset(o.rstrip("/").lower() for o in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get(b"origin")
        cors = self._cors(origin, headers)
        try:
            self._check(headers, origin)
        except BatchError as error:
            await JSONResponse({"error": error.body()}, error.status)(scope, receive, send)
            return
        if scope["method"] == "OPTIONS" and origin is not None and b"access-control-request-method" in headers:
            await send({"type": "http.response.start", "status": 204, "headers": cors})
            await send({"type": "http.response.body"})
            return

        async def answer(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                replayed = [(b"idempotent-replayed", b"true")] if scope.get("state", {}).get("replayed") else []
                message["headers"] = [*message.get("headers", ()), *cors, *replayed]
            await send(message)

        await self._app(scope, self._counted(receive), answer)

    def _check(self, headers: dict[bytes, str], origin: str | None) -> None:
        host = headers.get(b"host")
        if host is not None and not _HOST.fullmatch(host):
            raise Forbidden(f"The Host header {host[:200]!r} is not this machine's: ask for localhost or 127.0.0.1.")
        if origin is not None and not self._allowed(origin):
            raise Forbidden(
                f"Pages of {origin[:200]!r} may not use this service: add it to limits.origins in batch.toml to allow it."
            )
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and int(length) > self._body_bytes:
            raise self._too_large()

    def _allowed(self, origin: str) -> bool:
        if origin.lower() in self._origins:
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.hostname in ("localhost", "127.0.0.1", "::1")

    def _cors(self, origin: str | None, headers: dict[bytes, str]) -> list[tuple[bytes, bytes]]:
        if origin is None:
            return []
        wanted = headers.get(b"access-control-request-headers", "Content-Type, Authorization")
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
            (b"access-control-allow-headers", wanted.encode("latin-1")),
            (b"access-control-expose-headers", b"*"),
            (b"access-control-max-age", b"600"),
            (b"vary", b"Origin"),
        ]

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request's body is larger than {self._body_bytes} bytes (limits.body_bytes in batch.toml).")

    def _counted(self, receive: Receive) -> Receive:
        """A body that lies about its length, or has none (chunked), is counted as it comes."""
        seen = 0

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._body_bytes:
                    raise self._too_large()
            return message

        return counted
