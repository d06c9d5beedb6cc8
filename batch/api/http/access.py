"""Who may ask: programs and pages on this machine. Host, Origin and body size are checked before any route.

A foreign Host is DNS rebinding; a foreign Origin is a web page of somebody else's using the reader's browser.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from batch.errors import BadRequest, BatchError, Forbidden, TooLarge, TooSlow
from batch.settings import LimitSettings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HOST = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])\.?(:\d{1,5})?", re.IGNORECASE)


_ONCE = frozenset({b"host", b"origin", b"content-length", b"content-type"})
"""Headers of which two could be read one way here and another way elsewhere."""
_SLOWEST = 1024
"""Bytes of body a second below which a caller is not waited for."""


class Guard:
    """ASGI middleware, outermost."""

    def __init__(self, app: App, *, limits: LimitSettings, refusal: Callable[[BatchError, str], App]) -> None:
        """`refusal`: the answer that tells an error to the clients of a path."""
        self._app = app
        self._refusal = refusal
        self._body_bytes = limits.body_bytes
        self._body_seconds = limits.body_seconds
        self._origins = frozenset(o.rstrip("/").lower() for o in limits.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers: dict[bytes, str] = {}
        twice: set[bytes] = set()
        for name, value in scope["headers"]:
            if name in headers:
                twice.add(name)
            headers[name] = value.decode("latin-1")
        origin = headers.get(b"origin")
        cors = self._cors(origin, headers)
        try:
            if twice and (doubled := twice & _ONCE):
                raise BadRequest(f"The request has more than one {min(doubled).decode().title()} header.")
            self._check(headers, origin)
        except BatchError as error:
            await self._refusal(error, scope["path"])(scope, receive, send)
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
        """A body that lies about its length, or has none (chunked), is counted as it comes; one that hardly comes is
        given up."""
        seen, whole = 0, False
        clock = asyncio.get_running_loop().time
        begun = clock()

        async def counted() -> MutableMapping[str, Any]:
            nonlocal seen, whole
            if whole:  # what comes now is that the caller hangs up
                return await receive()
            try:
                async with asyncio.timeout_at(begun + self._body_seconds + seen / _SLOWEST):
                    message = await receive()
            except TimeoutError:
                raise TooSlow(
                    f"Only {seen} bytes of the request's body arrived in {clock() - begun:.0f} seconds "
                    "(limits.body_seconds in batch.toml)."
                ) from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if seen > self._body_bytes:
                    raise self._too_large()
            return message

        return counted
