"""A front's worker port: the one socket that listens beyond this machine. Whoever cannot prove itself is closed."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable

from batch.errors import AlreadyRunning, BatchError
from batch.queue.remote.worker_port.certificate import Certificate
from batch.queue.remote.worker_port.dialer import describe
from batch.queue.remote.worker_port.handshake import HANDSHAKE_S, admit
from batch.queue.remote.worker_port.line import Line
from batch.queue.remote.worker_port.port_rows import FrontPort
from batch.queue.remote.worker_port.stream import STREAM_ERRORS, Stream
from batch.settings.listen_address import join_address, split_address

logger = logging.getLogger("batch.queue")

MAX_UNPROVEN = 64
"""Connections that have not proven themselves yet; one more is closed at once, and tries again."""
_BACKLOG = 1024
_LOG_INTERVAL_S = 10.0
_NO_DESCRIPTOR_PAUSE_S = 0.2


class WorkerPort:
    """`bind` first, from any thread; the rest runs on the event loop of its channel."""

    def __init__(self, listen: str, public_address: str, front: str, certificate: Certificate) -> None:
        """`listen`: host:port, 0 takes a free one. `public_address`: where workers reach it, when it is another."""
        self._listen, self._public_address = listen, public_address
        self._front = front
        self._certificate = certificate
        self._context = certificate.server_context()
        self._socket: socket.socket | None = None
        self._unproven: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._logged_at = 0.0

    def bind(self) -> FrontPort:
        """Open the socket; what workers need to know of it. Raises AlreadyRunning, BatchError."""
        host, number = split_address(self._listen)
        try:
            family = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
            self._socket = socket.create_server((host, number), family=family, backlog=_BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AlreadyRunning(
                    f"The worker port {self._listen} is in use by another program: stop that, or set front.listen to another."
                ) from None
            raise BatchError(f"The worker port {self._listen} (front.listen) cannot be opened: {error.strerror}.") from None
        self._socket.setblocking(False)
        address = self._public_address or join_address(host, int(self._socket.getsockname()[1]))
        return FrontPort(self._front, address, self._certificate.sha256)

    def start(
        self,
        *,
        nonces: Callable[[str], Awaitable[list[str]]],
        line_to: Callable[[str], Line],
        serve: Callable[[Stream], Awaitable[None]],
    ) -> None:
        """Let workers in. `nonces` are what a home's workers prove themselves by; `line_to` names what goes to a home; `serve`
        is awaited with each stream until that ends."""
        self._nonces, self._line_to, self._serve = nonces, line_to, serve
        self._task = asyncio.ensure_future(self._accept())

    async def close(self) -> None:
        """Hang up on everybody."""
        tasks = [task for task in (self._task, *self._unproven, *self._streams) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.unbind()

    def unbind(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _accept(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:  # no descriptor is left, or the client was gone before
                self._log_refusal(describe(error))
                await asyncio.sleep(_NO_DESCRIPTOR_PAUSE_S)
                continue
            if len(self._unproven) >= MAX_UNPROVEN:
                connection.close()
                self._log_refusal(f"{MAX_UNPROVEN} others have not proven themselves yet")
                continue
            task = asyncio.ensure_future(self._admit(connection))
            self._unproven.add(task)
            task.add_done_callback(self._unproven.discard)

    async def _admit(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport: asyncio.BaseTransport | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                connection.setblocking(False)
                transport, _ = await loop.connect_accepted_socket(
                    lambda: protocol, connection, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
                )
                writer = asyncio.StreamWriter(transport, protocol, reader, loop)
                proof = await admit(
                    reader,
                    writer,
                    front=self._front,
                    cert_sha256=self._certificate.sha256,
                    nonces=self._nonces,
                    sender_to=lambda home: self._line_to(home).sender,
                )
        except (*STREAM_ERRORS, BatchError, ssl.SSLError) as error:
            self._log_refusal(describe(error))
            _hang_up(transport, connection)
            return
        except BaseException:
            _hang_up(transport, connection)
            raise
        stream = Stream(reader, writer, proof.home, self._line_to(proof.home), proof.sender)
        task = asyncio.ensure_future(self._serve(stream))
        self._streams.add(task)
        task.add_done_callback(self._streams.discard)

    def _log_refusal(self, reason: str) -> None:
        """Anybody may dial: not each time."""
        if time.monotonic() - self._logged_at > _LOG_INTERVAL_S:
            self._logged_at = time.monotonic()
            logger.warning("a connection to the worker port was closed: %s", reason)


def _hang_up(transport: asyncio.BaseTransport | None, connection: socket.socket) -> None:
    if isinstance(transport, asyncio.Transport):
        transport.abort()
    elif transport is None:
        connection.close()
