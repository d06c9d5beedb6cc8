"""HTTP on a socket: uvicorn's protocol, made patient with no one for ever and bounded in what it keeps.

A connection that sends its headers slowly, never ends them, or goes on sending a body that nobody wants any more holds
nothing but itself, and not for long.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from batch.errors import BadRequest, BatchError, HeadersTooLarge, TooSlow
from batch.settings import LimitSettings

LINGER = 5.0
"""Seconds for which the rest of a body is read and thrown away once the answer is out: closing at once would take the
answer from a caller that still sends."""

_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def protocol(limits: LimitSettings) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's `http`."""

    class Limited(BoundedProtocol):
        seconds = limits.header_seconds
        most = limits.header_bytes

    return Limited


class BoundedProtocol(HttpToolsProtocol):
    seconds: float
    """For a request's headers to arrive."""
    most: int
    """Bytes of headers and trailers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._begun = False
        """Something of a request's headers has come, and not all."""
        self._head = 0
        """Bytes of the request's target, headers and trailers so far."""
        self._unseen = 0
        """Bytes since the parser last told of something: an endless header shows in no other way."""
        self._trouble: BatchError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._stop_lingering()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unseen += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._unseen > self.most:
            self._refuse(HeadersTooLarge(self._too_many()))
        elif (
            self._patience is None
            and self.timeout_keep_alive_task is None
            and (self.cycle is None or self.cycle.response_complete)
        ):
            self._wait()

    # -- the parser's calls

    def on_message_begin(self) -> None:
        self._begun, self._head, self._unseen = True, 0, 0
        super().on_message_begin()
        if self._patience is None:
            self._wait()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        self._begun, self._unseen = False, 0
        if not self.url.startswith(b"/"):
            # An absolute target names a host of its own, past the Host header: this is no proxy.
            self._trouble = BadRequest("Ask for a path, as in GET /health: this service is no proxy.")
            raise self._trouble
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unseen = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._unseen = 0
        self._stop_lingering()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        unread = self.cycle.more_body
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._linger = self.loop.call_later(LINGER, self.transport.close)

    # -- refusals

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gave up."""
        self._refuse(self._trouble or BadRequest("This is no HTTP request that can be read."))

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.most:
            self._trouble = HeadersTooLarge(self._too_many())
            raise self._trouble

    def _too_many(self) -> str:
        return f"The request's headers are larger than {self.most} bytes (limits.header_bytes in batch.toml)."

    def _wait(self) -> None:
        self._patience = self.loop.call_later(self.seconds, self._too_slow)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _stop_lingering(self) -> None:
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None

    def _too_slow(self) -> None:
        self._patience = None
        if self._begun:
            self._refuse(TooSlow(f"The request's headers did not arrive within {self.seconds:g} seconds."))
        else:
            self.transport.close()

    def _refuse(self, error: BatchError) -> None:
        """Answer in place of a route and hang up; says nothing when an answer is under way already."""
        if self.transport.is_closing():
            return
        waiting = self.cycle is not None and not self.cycle.response_complete
        if waiting:
            # Its route waits for the rest of a body that can't be read any more.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if not waiting or not (self.pipeline or self.cycle.response_started):
            body = json.dumps({"error": error.body()}).encode()
            self.transport.write(
                b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
                % (error.status, _PHRASES[error.status], len(body), body)
            )
        self.transport.close()
