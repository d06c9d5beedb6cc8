"""A response's head sent together with its first bytes: one system call and one wake-up of the client instead of two."""

from __future__ import annotations

import asyncio


class HeadWithBody:
    """A connection's transport for one response, as uvicorn's cycle uses it."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self._has_written = False
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send data; what comes first waits for more until the event loop's next turn."""
        if not self._has_written:
            self._has_written, self._head = True, data
            self._loop.call_soon(self._flush)
        elif self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head + data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Send what waits and close the connection."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)
