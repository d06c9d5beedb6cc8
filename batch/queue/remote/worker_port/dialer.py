"""Keeps a stream to every front that has opened its port."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable

from batch.queue.remote.worker_port.certificate import client_context
from batch.queue.remote.worker_port.handshake import HANDSHAKE_S, NotProven, prove
from batch.queue.remote.worker_port.line import Line
from batch.queue.remote.worker_port.port_rows import FrontPort
from batch.queue.remote.worker_port.stream import STREAM_ERRORS, Stream
from batch.settings.listen_address import split_address

logger = logging.getLogger("batch.queue")

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 5.0


class Dialer:
    """One a channel, on its event loop."""

    def __init__(
        self,
        home: str,
        *,
        line_to: Callable[[str], Line],
        serve: Callable[[Stream], Awaitable[None]],
        unreachable: Callable[[str], None],
    ) -> None:
        """`line_to` names what goes to a front. `serve` is awaited with each stream until that ends; `unreachable` hears of
        each front that cannot be dialled."""
        self._home = home
        self.nonce = secrets.token_hex(32)
        """By what this home proves itself; stands in the rows of its workers."""
        self._line_to, self._serve, self._unreachable = line_to, serve, unreachable
        self._context = client_context()
        self._ports: dict[str, FrontPort] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def refresh(self, ports: list[FrontPort]) -> None:
        """These are the fronts that can be dialled now. A stream to one that is not named any more is let be until it ends."""
        if self._is_closed:
            return
        self._ports = {port.front: port for port in ports}
        for front in self._ports:
            if (task := self._tasks.get(front)) is None or task.done():
                self._tasks[front] = asyncio.ensure_future(self._keep(front))

    async def close(self) -> None:
        """Hang up."""
        self._is_closed = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _keep(self, front: str) -> None:
        pause_s, has_logged = FIRST_PAUSE_S, False
        while (port := self._ports.get(front)) is not None:
            try:
                stream = await self._dial(port)
            except (*STREAM_ERRORS, NotProven) as error:
                if not has_logged:
                    logger.warning(
                        "the worker port %s of front %s cannot be reached (%s): what goes there goes through the database "
                        "until it can",
                        port.address,
                        front,
                        describe(error),
                    )
                has_logged = True
                self._unreachable(front)
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(MAX_PAUSE_S, pause_s * 2)
                continue
            logger.info("the worker port %s of front %s is reached", port.address, front)
            pause_s, has_logged = FIRST_PAUSE_S, False
            await self._serve(stream)
        # Its row is gone: it has ended, or nobody could see the database for long.
        self._unreachable(front)

    async def _dial(self, port: FrontPort) -> Stream:
        host, number = split_address(port.address)
        line = self._line_to(port.front)
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                reader, writer = await asyncio.open_connection(
                    host, number, ssl=self._context, ssl_handshake_timeout=HANDSHAKE_S
                )
                their_sender = await prove(
                    reader,
                    writer,
                    front=port.front,
                    cert_sha256=port.cert_sha256,
                    home=self._home,
                    nonce=self.nonce,
                    sender=line.sender,
                )
        except BaseException:
            if writer is not None:
                writer.transport.abort()
            raise
        return Stream(reader, writer, port.front, line, their_sender)


def describe(error: BaseException | None) -> str:
    """What ended a stream, for a sentence."""
    if isinstance(error, EOFError) or error is None:
        return "the other end hung up"
    if isinstance(error, TimeoutError):
        return "nothing was heard in time"
    return getattr(error, "message", "") or getattr(error, "strerror", "") or str(error) or type(error).__name__
