"""HTTP on a socket: uvicorn's protocol, which waits for nobody for ever and keeps no more than its limits.

A connection that sends its headers slowly, never ends them, or goes on sending a body that nobody wants any more holds
nothing but itself, and not for long. What uvicorn's documented interface leaves open is answered here too: Upgrade is
ignored, HTTP/1.0 gets no chunks, and a client that has closed its sending half gets its answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from batch.api.http.connection import CONNECTION, ClientConnection
from batch.api.http.half_closed import still_listens
from batch.api.http.response_head import HeadWithBody
from batch.errors import BadRequest, BatchError, HeadersTooLarge, TooSlow
from batch.receive_size import bound_receive_size
from batch.settings import LimitSettings

LINGER_S = 5.0
"""For this long the rest of a body is read and thrown away once the answer is out: closing at once would take the
answer from a client that still sends."""
HALF_CLOSED_CHECK_S = 0.25
"""How often a client that sends no more is looked at: it may have hung up."""

_UPGRADE_HEADERS = (b"upgrade", b"http2-settings")
_UPGRADE_WORDS = (b"upgrade", b"http2-settings", b"")
_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


def protocol(limits: LimitSettings) -> type[asyncio.Protocol]:
    """The protocol class for uvicorn's `http`."""

    class Limited(BoundedProtocol):
        header_seconds = limits.header_seconds
        max_header_bytes = limits.header_bytes

    return Limited


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    header_seconds: float
    """For a request's headers to arrive."""
    max_header_bytes: int
    """Of a request's target, headers and trailers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._half_closed_timer: asyncio.TimerHandle | None = None
        self._in_headers = False
        """Whether some of a request's headers have come, and not all."""
        self._header_bytes = 0
        """Bytes of the request's target, headers and trailers so far."""
        self._unparsed_bytes = 0
        """Bytes since the parser last called back: an endless header shows in no other way."""
        self._problem: BatchError | None = None
        """What a callback of the parser refuses."""
        self._connection = ClientConnection()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn asks for a Transport, which it is
        bound_receive_size(transport)
        self._start_header_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)
        self._connection.lost()

    def eof_received(self) -> bool | None:  # type: ignore[override]  # uvicorn's closes always
        """A client that has sent its whole request may close its sending half and wait for the answer."""
        waits = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if not waits or not self._client_listens():
            return False
        self.cycle.keep_alive = False
        self._watch_half_closed()
        return True

    def data_received(self, data: bytes) -> None:
        self._unparsed_bytes += len(data)
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self.transport.is_closing():
            return
        if self._unparsed_bytes > self.max_header_bytes:
            self._refuse(HeadersTooLarge(self._too_large()))
        elif self._header_timer is None and (
            self._in_headers or (self.timeout_keep_alive_task is None and (self.cycle is None or self.cycle.response_complete))
        ):
            self._start_header_timer()  # not before: most heads are whole by now

    def _feed(self, data: bytes) -> None:
        """Let the parser read. A request to upgrade is read again without that wish, which a server may ignore: the
        parser would take its body for another protocol's."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                data = self._head_without_upgrade() + data[upgrade.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)

    def _head_without_upgrade(self) -> bytes:
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(word for word in value.split(b",") if word.strip().lower() not in _UPGRADE_WORDS)
            if name not in _UPGRADE_HEADERS:
                head.append(name + b": " + value)
        return b"\r\n".join(head) + b"\r\n\r\n"

    # -- the parser's calls

    def on_message_begin(self) -> None:
        self._in_headers, self._header_bytes, self._unparsed_bytes = True, 0, 0
        super().on_message_begin()
        self.scope["state"][CONNECTION] = self._connection
        self._connection.has_whole_body = False

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._stop(self._header_timer)
        self._header_timer = None
        self._in_headers, self._unparsed_bytes = False, 0
        if not self.url.startswith(b"/"):
            # An absolute target names a host of its own, past the Host header: this is no proxy.
            self._refuse_request(BadRequest("Ask for a path, as in GET /health: this service is no proxy."))
        old_version = self.parser.get_http_version() == "1.0"
        if old_version and any(name == b"transfer-encoding" for name, _ in self.headers):
            # What stands before HTTP/1.1 knows no chunks: two programs could see two bodies.
            self._refuse_request(BadRequest("HTTP/1.0 has no Transfer-Encoding: send a Content-Length, or use HTTP/1.1."))
        if self.parser.should_upgrade():
            return  # it is read again without
        super().on_headers_complete()
        self.cycle.transport = HeadWithBody(self.transport, self.loop)  # type: ignore[assignment]  # all that a cycle uses
        if old_version:
            self.cycle.send = CloseDelimited(self.cycle).send  # type: ignore[method-assign]  # its task starts later

    def on_body(self, body: bytes) -> None:
        self._unparsed_bytes = 0
        if not self.parser.should_upgrade():
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed_bytes = 0
        self._stop(self._linger_timer)
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._connection.has_whole_body = True
            if not self.pipeline:
                # Paused for a large body, which nobody may read from now on: that the client hangs up would not be noticed.
                self.flow.resume_reading()

    def on_response_complete(self) -> None:
        unread = self.cycle.more_body
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(LINGER_S, self.transport.close)

    # -- refusals

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gave up."""
        self._refuse(self._problem or BadRequest("This is no HTTP request that can be read."))

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.max_header_bytes:
            self._refuse_request(HeadersTooLarge(self._too_large()))

    def _refuse_request(self, error: BatchError) -> None:
        """Stop the parser, which makes uvicorn call `send_400_response`."""
        self._problem = error
        raise error

    def _too_large(self) -> str:
        return f"The request's headers are larger than {self.max_header_bytes} bytes (limits.header_bytes in batch.toml)."

    def _start_header_timer(self) -> None:
        self._header_timer = self.loop.call_later(self.header_seconds, self._headers_late)

    def _headers_late(self) -> None:
        self._header_timer = None
        if self._in_headers:
            self._refuse(TooSlow(f"The request's headers did not arrive within {self.header_seconds:g} seconds."))
        else:
            self.transport.close()

    def _refuse(self, error: BatchError) -> None:
        """Answer in place of a route and hang up; does nothing when an answer is under way already."""
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

    # -- a client that sends no more

    def _client_listens(self) -> bool:
        if self.client is None or self.server is None or self.server[1] is None:
            return False
        return still_listens(self.client, (self.server[0], self.server[1]))

    def _watch_half_closed(self) -> None:
        self._half_closed_timer = self.loop.call_later(HALF_CLOSED_CHECK_S, self._check_half_closed)

    def _check_half_closed(self) -> None:
        if self.transport.is_closing():
            return
        if self._client_listens():
            self._watch_half_closed()
        else:
            self.transport.abort()

    # -- timers

    def _stop_timers(self) -> None:
        for timer in (self._header_timer, self._linger_timer, self._half_closed_timer):
            self._stop(timer)
        self._header_timer = self._linger_timer = self._half_closed_timer = None

    def _stop(self, timer: asyncio.TimerHandle | None) -> None:
        if timer is not None:
            timer.cancel()


class CloseDelimited:
    """Answers to HTTP/1.0, which knows no chunks: where no length is known, the end of the connection ends the answer."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._send = cycle, cycle.send
        self._delimited = False

    async def send(self, message: Any) -> None:
        """uvicorn's `send`, without chunks."""
        if message["type"] == "http.response.start":
            self._delimited = not any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
            if self._delimited:
                self._cycle.chunked_encoding = False
        elif self._delimited:
            self._cycle.expected_content_length = len(message.get("body", b""))
        await self._send(message)
