"""Who may ask: programs and pages on this machine. Host, Origin and body size are checked before any route.

A foreign Host is DNS rebinding; a foreign Origin is a web page of somebody else's using the reader's browser.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, MutableMapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from batch.api.http.connection import connection_of
from batch.api.http.head_request import answer_head
from batch.api.http.request_body import BoundedBody
from batch.errors import BadRequest, BatchError, Forbidden
from batch.settings import LimitSettings

Headers = MutableMapping[bytes, str]
"""By lower-case name; of a header that stands twice the last one."""

PREFLIGHT_AGE_S = 600
FILE_PATH = "/v1/files"
PAGE_PATHS = ("/", "/page")
"""Where the page for people is, which other pages may neither read nor use."""
FORM_BYTES = 2 << 20
"""Room for what a form holds besides its file."""
MAX_QUOTED_CHARS = 200

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^:\[\]/@\s]+)(:\d{1,5})?")
_OWN_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_ONCE = frozenset({b"host", b"origin", b"content-length", b"content-type", b"content-encoding", b"sec-fetch-site"})
"""Headers of which two could be read one way here and another way elsewhere."""
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class AccessControl:
    """What a port's requests go through first: checks who asks, bounds the body, and adds the headers that every answer has."""

    def __init__(
        self, app: ASGIApp, *, limits: LimitSettings, max_file_bytes: int, refusal: Callable[[BatchError, str], ASGIApp]
    ) -> None:
        """`max_file_bytes`: the largest file that may be uploaded. `refusal`: the answer that reports an error to the
        clients of a path."""
        self._app = app
        self._refusal = refusal
        self._limits = limits
        body_bytes = max(limits.body_bytes, max_file_bytes + FORM_BYTES)
        self._file_limits = limits.model_copy(update={"body_bytes": body_bytes})
        self._hosts = _patterns(limits.hosts)
        self._origins = _patterns(origin.rstrip("/") for origin in limits.origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, doubled = _read_headers(scope)
        scope.setdefault("state", {})
        if scope["method"] == "HEAD":
            # Wherever a GET is answered, by its head alone.
            scope = {**scope, "method": "GET"}
            scope["state"]["is_head"] = True
        extra = [(b"x-request-id", _request_id(headers))]
        is_cross_origin = b"origin" in headers and not _is_page(scope["path"])
        if is_cross_origin:
            extra += self._cors(headers)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                if scope["state"].get("replayed"):
                    extra.append((b"idempotent-replayed", b"true"))
                message["headers"] = [*message.get("headers", ()), *extra]
            await send(message)

        try:
            if doubled:
                raise BadRequest(f"The request has more than one {min(doubled).decode().title()} header.")
            self._check(scope["method"], headers)
            limits = self._file_limits if scope["path"] == FILE_PATH else self._limits  # a file may be larger than other bodies
            body = BoundedBody(receive, headers, limits, connection_of(scope))
        except BatchError as error:
            await self._refusal(error, scope["path"])(scope, receive, answer)
            return
        if is_cross_origin and _is_preflight(scope["method"], headers):
            await answer({"type": "http.response.start", "status": 204, "headers": []})
            await answer({"type": "http.response.body"})
            return
        if scope["state"].get("is_head"):
            await answer_head(self._app, scope, body.receive, answer)
        else:
            await self._app(scope, body.receive, answer)

    def _check(self, method: str, headers: Headers) -> None:
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if host is not None and not self._is_own_host(host):
            raise Forbidden(
                f"The Host header {host[:MAX_QUOTED_CHARS]!r} is not this machine's: ask for localhost or 127.0.0.1, or add "
                "it to limits.hosts in batch.toml."
            )
        if origin is not None and not self._is_allowed_origin(origin):
            raise Forbidden(
                f"Pages of {origin[:MAX_QUOTED_CHARS]!r} may not use this service: add it to limits.origins in batch.toml to "
                "allow it."
            )
        if origin is None and _comes_from_foreign_page(method, headers):
            raise Forbidden("A page of another site asks for this, which only this machine's own pages may do.")

    def _is_own_host(self, host: str) -> bool:
        parts = _HOST.fullmatch(host)
        if parts is None:
            return False
        name = parts[1].lower().removesuffix(".")
        return name in _OWN_HOSTS or name.endswith(".localhost") or _matches(name, self._hosts)

    def _is_allowed_origin(self, origin: str) -> bool:
        if _matches(origin.lower(), self._origins):
            return True
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        name = parts.hostname or ""
        own = name in ("localhost", "127.0.0.1", "::1") or name.endswith(".localhost")
        return parts.scheme in ("http", "https") and own

    def _cors(self, headers: Headers) -> list[tuple[bytes, bytes]]:
        origin = headers[b"origin"]
        if not self._is_allowed_origin(origin):
            return []
        requested = headers.get(b"access-control-request-headers", "Content-Type, Authorization")
        cors = [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", b"GET, HEAD, POST, DELETE, OPTIONS"),
            (b"access-control-allow-headers", requested.encode("latin-1")),
            (b"access-control-expose-headers", b"*"),
            (b"access-control-max-age", str(PREFLIGHT_AGE_S).encode()),
            (b"vary", b"Origin"),
        ]
        if headers.get(b"access-control-request-private-network") == "true":
            # Browsers ask this of a page elsewhere, or of an editor's, that wants an address of this machine.
            cors.append((b"access-control-allow-private-network", b"true"))
        return cors


def _read_headers(scope: Scope) -> tuple[Headers, frozenset[bytes]]:
    """A request's headers, and which of those that must stand once stand twice."""
    headers: Headers = {}
    twice: set[bytes] = set()
    for name, value in scope["headers"]:
        if name in headers:
            twice.add(name)
        headers[name] = value.decode("latin-1")
    return headers, _ONCE & twice


def _is_page(path: str) -> bool:
    return path in PAGE_PATHS or path.startswith("/page/")


def _is_preflight(method: str, headers: Headers) -> bool:
    return method == "OPTIONS" and b"access-control-request-method" in headers


def _comes_from_foreign_page(method: str, headers: Headers) -> bool:
    """Whether a browser says that another site's page asks, say for an image; a link that a person follows is no such."""
    if headers.get(b"sec-fetch-site") not in ("cross-site", "same-site"):
        return False
    followed = headers.get(b"sec-fetch-mode") == "navigate" and headers.get(b"sec-fetch-dest") == "document"
    return not (followed and method in ("GET", "HEAD"))


def _patterns(names: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    """Names in which a star stands for what may come there, but for no slash."""
    return tuple(re.compile(re.escape(name.lower()).replace(r"\*", "[^/?#@]*")) for name in names if name)


def _matches(name: str, patterns: tuple[re.Pattern[str], ...]) -> bool:
    return any(pattern.fullmatch(name) for pattern in patterns)


def _request_id(headers: Headers) -> bytes:
    """The client's own id of its request, or a new one."""
    requested = headers.get(b"x-request-id", "")
    return (requested if _REQUEST_ID.fullmatch(requested) else f"req_{os.urandom(16).hex()}").encode("latin-1")
