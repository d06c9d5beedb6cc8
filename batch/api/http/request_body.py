"""A request's body as it arrives: counted, given up when it hardly comes, and decompressed within the same limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

from starlette.types import Message, Receive

from batch.api.http.connection import ClientConnection
from batch.errors import BadRequest, TooLarge, TooSlow, UnsupportedMedia
from batch.settings import LimitSettings

MIN_BYTES_PER_S = 1024
"""A body that comes more slowly is not waited for."""
PIECE_BYTES = 1 << 20
"""Decompressed at a time: a few milliseconds of work."""

MAX_QUOTED_CHARS = 60

_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
"""zlib's word for "see by its header which of the two it is"."""
_COMPRESSIONS = ("gzip", "x-gzip", "deflate")
_NO_COMPRESSION = ("", "identity")


class BoundedBody:
    """Wraps a request's `receive`. Raises TooLarge at once for a length over the limit, UnsupportedMedia for a
    compression that is not read here."""

    def __init__(
        self,
        receive: Receive,
        headers: Mapping[bytes, str],
        limits: LimitSettings,
        connection: ClientConnection | None = None,
    ) -> None:
        self._receive = receive
        self._limits = limits
        self._connection = connection
        self._received_bytes = 0
        self._complete = False
        """Whether all of it has arrived."""
        self._inflated_bytes = 0
        self._ended = False
        """Whether all of a compressed body has been passed on."""
        self._started_at = asyncio.get_running_loop().time()
        self._inflater = _inflater(headers.get(b"content-encoding", ""))
        length = headers.get(b"content-length", "0")
        if length.isdecimal() and (len(length) > 20 or int(length) > limits.body_bytes):
            raise self._too_large()

    async def receive(self) -> Message:
        """The next message. Raises TooLarge, TooSlow, and BadRequest for compressed bytes that are broken."""
        return await (self._receive_bounded() if self._inflater is None else self._receive_inflated(self._inflater))

    async def _receive_inflated(self, inflater: _Inflater) -> Message:
        """The next piece of a compressed body as it was before."""
        while not self._ended:
            if inflater.pending:
                if piece := await asyncio.to_thread(inflater.next_piece):
                    self._inflated_bytes += len(piece)
                    if self._inflated_bytes > self._limits.body_bytes:
                        raise self._too_large()
                    return {"type": "http.request", "body": piece, "more_body": True}
            elif self._complete:
                inflater.check_end()
                self._ended = True
                return {"type": "http.request", "body": b"", "more_body": False}
            else:
                message = await self._receive_bounded()
                if message["type"] != "http.request":
                    return message
                inflater.pending += message.get("body", b"")
        return await self._receive()

    async def _receive_bounded(self) -> Message:
        if self._complete:  # what comes now is that the client hangs up
            return await self._receive()
        if self._connection is not None and self._connection.has_whole_body:
            message = await self._receive()  # which waits for nothing
        else:
            message = await self._receive_in_time()
        if message["type"] == "http.request":
            self._received_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._received_bytes > self._limits.body_bytes:
                raise self._too_large()
        return message

    async def _receive_in_time(self) -> Message:
        clock = asyncio.get_running_loop().time
        deadline = self._started_at + self._limits.body_seconds + self._received_bytes / MIN_BYTES_PER_S
        try:
            async with asyncio.timeout_at(deadline):
                return await self._receive()
        except TimeoutError:
            raise TooSlow(
                f"Only {self._received_bytes} bytes of the request's body arrived in {clock() - self._started_at:.0f} seconds "
                "(limits.body_seconds in batch.toml)."
            ) from None

    def _too_large(self) -> TooLarge:
        limit = self._limits.body_bytes
        return TooLarge(f"The request's body is larger than {limit} bytes (limits.body_bytes in batch.toml).")


class _Inflater:
    """Decompresses gzip and zlib, a bounded piece at a time."""

    def __init__(self) -> None:
        self.pending = b""
        """Compressed bytes that are still to be read."""
        self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)

    def next_piece(self) -> bytes:
        """At most PIECE_BYTES of what `pending` holds; may be empty. Raises BadRequest where it is broken."""
        if self._decompressor.eof:  # files that were joined are one body
            self._decompressor = zlib.decompressobj(_GZIP_OR_ZLIB)
        try:
            piece = self._decompressor.decompress(self.pending, PIECE_BYTES)
        except zlib.error:
            raise BadRequest("The request's body is not what its Content-Encoding says.") from None
        self.pending = self._decompressor.unconsumed_tail or self._decompressor.unused_data
        return piece

    def check_end(self) -> None:
        """Raise BadRequest where the compressed body ends too early."""
        if not self._decompressor.eof:
            raise BadRequest("The request's compressed body ends in the middle.")


def _inflater(encoding: str) -> _Inflater | None:
    """What reads a Content-Encoding; None where there is none. Raises UnsupportedMedia for others than gzip and deflate."""
    name = encoding.strip().lower()
    if name in _NO_COMPRESSION:
        return None
    if name not in _COMPRESSIONS:
        raise UnsupportedMedia(
            f"The Content-Encoding {encoding[:MAX_QUOTED_CHARS]!r} is not read here: send the body as it is, or as gzip or "
            "deflate."
        )
    return _Inflater()
