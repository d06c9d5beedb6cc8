"""One TLS connection between two homes of which the dialling one has proven itself."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable

import msgspec

from batch.payloads.json_text import encode
from batch.queue.latest import Latest
from batch.queue.remote.worker_port.frame import (
    MAX_FRAME_BYTES,
    Acknowledged,
    FrameTooLong,
    Ping,
    PortFrame,
    Wakened,
    carried,
    framed,
    read_data,
    read_port_frame,
)
from batch.queue.remote.worker_port.line import Line

logger = logging.getLogger("batch.queue")

ACKNOWLEDGE_AFTER_S = 0.02
PING_INTERVAL_S = 2.0
SILENCE_S = 10.0
"""A peer of which nothing is heard for so long is gone."""
_MAX_WAITING_BYTES = 1 << 20
"""Beyond it no signs of life and acknowledgements are added for a peer that does not read."""
STREAM_ERRORS = (OSError, EOFError, TimeoutError, FrameTooLong, ValueError)
"""What ends a stream: a line that is cut, and a peer that does not keep to the rules."""
_KEEPALIVE = (("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 4000))
"""As for connections to the database: a cut line is noticed within four seconds."""


class Stream:
    """Runs on the event loop of its channel."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, home: str, line: Line, their_sender: str
    ) -> None:
        """`home`: whom it leads to. `line`: what goes there. `their_sender`: under which name what comes is numbered."""
        self.home = home
        self.their_sender = their_sender
        self.is_current = False
        """Whether the line's packets go here: of several streams to a home they do on one."""
        self._reader, self._writer, self._line = reader, writer, line
        self._has_begun = False
        """Whether the peer has said what it has."""
        self._wanted = asyncio.Event()
        self._acknowledgements = Latest[str, int]()
        self._has_written = False
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self, received: Callable[[Stream, PortFrame], None], has: int) -> BaseException | None:
        """Send and receive until the connection ends; what ended it. `has`: the number of the last packet of the peer that has
        arrived on whatever way."""
        _watch(self._writer)
        self._write(Acknowledged(sender=self.their_sender, sequence=has))
        self._tasks = [asyncio.ensure_future(work) for work in (self._read(received), self._pump(), self._keep_alive())]
        try:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            return next((task.exception() for task in done if not task.cancelled()), None)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._writer.transport.abort()

    def close(self) -> None:
        """Let `run` end."""
        for task in self._tasks:
            task.cancel()

    def send(self) -> None:
        """The line has packets that were not sent."""
        self._wanted.set()

    def begin(self) -> None:
        """What the peer lacks goes here from now on, if this stream is the current one."""
        if self.is_current and self._has_begun:
            self._line.rewind()
            self.send()

    def wake(self, queues: set[str]) -> None:
        """Let the peer's workers look."""
        self._write(Wakened(queues=sorted(queues)))

    def acknowledge(self, sender: str, sequence: int) -> None:
        """Packets have arrived: the peer is told soon."""
        if not self._acknowledgements:
            asyncio.get_running_loop().call_later(ACKNOWLEDGE_AFTER_S, self._write_acknowledgements)
        self._acknowledgements[sender] = sequence

    async def _read(self, received: Callable[[Stream, PortFrame], None]) -> None:
        while True:
            data = await read_data(self._reader, MAX_FRAME_BYTES, SILENCE_S)
            try:
                frame: PortFrame = read_port_frame(data)
            except msgspec.ValidationError as error:
                logger.warning("a frame that another version of batch sent is passed over: %s", error)
                continue
            if isinstance(frame, Acknowledged) and frame.sender == self._line.sender:
                self._line.acknowledge(frame.sequence)
                if not self._has_begun:
                    self._has_begun = True
                    self.begin()
            elif not isinstance(frame, Ping):
                received(self, frame)

    async def _pump(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            while self.is_current and self._has_begun and (packet := self._line.next_packet()) is not None:
                try:
                    data = carried(packet)
                except FrameTooLong as error:
                    logger.error("a packet is too long for a stream, and is left out: %s", error)
                    continue
                self._writer.write(data)
                self._has_written = True
                await self._writer.drain()

    async def _keep_alive(self) -> None:
        while True:
            await asyncio.sleep(PING_INTERVAL_S)
            self._write_acknowledgements()
            if not self._has_written:
                self._write(Ping())
            self._has_written = False

    def _write_acknowledgements(self) -> None:
        for sender, sequence in list(self._acknowledgements.items()):
            if self._write(Acknowledged(sender=sender, sequence=sequence)):
                del self._acknowledgements[sender]

    def _write(self, frame: PortFrame) -> bool:
        """Write a small frame that may be left out; False when it was."""
        transport = self._writer.transport
        if transport.is_closing() or transport.get_write_buffer_size() > _MAX_WAITING_BYTES:
            return False
        self._writer.write(framed(encode(frame)))
        self._has_written = True
        return True


def _watch(writer: asyncio.StreamWriter) -> None:
    """Have the system notice a cut line soon, where it can."""
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
