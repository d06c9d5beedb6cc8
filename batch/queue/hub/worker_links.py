"""The supervisor's end of the workers' streams: frames come in, questions go out."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from batch.errors import BatchError, Unavailable
from batch.payloads.json_text import decode, decoder, encode
from batch.payloads.questions import ANSWER_TYPES, Answer, Question
from batch.queue.channel import socket_path
from batch.queue.frames import ABSENT, Answered, Ask, Hello, RowChanged, WorkerFrame
from batch.receive_size import bound_receive_size

logger = logging.getLogger("batch.hub")

MAX_FRAME_BYTES = 256 << 20
"""Longest line a worker may send."""
_read_frame: Callable[[bytes], WorkerFrame] = decoder(WorkerFrame)
_WORKER_STOPPED = "The worker stopped before it answered; try again."


class WorkerLinks:
    """One socket that every worker connects to. Runs on the event loop that called `start`."""

    def __init__(
        self,
        state_dir: Path,
        *,
        connected: Callable[[Hello], Awaitable[None]],
        received: Callable[[str, WorkerFrame, str], None],
        row_changed: Callable[[str], Awaitable[None]],
        gone: Callable[[str, str], None],
    ) -> None:
        """`connected` and `gone` bracket what is `received` of a worker; `row_changed` gets the id of a job whose row another
        process changed."""
        self._state_dir = state_dir
        self._connected, self._received, self._row_changed, self._gone = connected, received, row_changed, gone
        self._server: asyncio.Server | None = None
        self._links: dict[str, _Link] = {}
        """By the worker's id."""
        self._pending: dict[int, tuple[_Link, asyncio.Future[Answered]]] = {}
        """Questions under way, by number: to which worker they went, and what waits."""
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Listen in the home's state folder."""
        path = socket_path(self._state_dir, "events")
        path.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Link(self), path=str(path))
        os.chmod(path, 0o600)

    def close(self) -> None:
        """Hang up on every worker, and listen no more."""
        for link in self._links.values():
            link.close()
        if self._server:
            self._server.close()

    def is_connected(self, worker: str) -> bool:
        """Whether a worker can be asked."""
        return worker in self._links

    async def ask(self, worker: str, question: Question, timeout_s: float) -> Answer:
        """Put a question to a connected worker. Raises its BatchError, or Unavailable."""
        link = self._links[worker]
        number = next(self._numbers)
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._pending[number] = link, future
        link.send(encode(Ask(number=number, question=question)) + b"\n")
        try:
            async with asyncio.timeout(timeout_s):
                answered = await future
        except TimeoutError:
            raise Unavailable(f"The worker did not answer within {timeout_s:.0f} seconds; try again.") from None
        finally:
            del self._pending[number]
        if answered.error is not ABSENT:
            raise BatchError.from_record(decode(bytes(answered.error), dict[str, Any]))
        return decode(bytes(answered.answer), ANSWER_TYPES[type(question)])

    # -- from the links

    async def act(self, link: _Link, frame: WorkerFrame) -> None:
        """Act on a frame, whatever it takes."""
        if isinstance(frame, Hello):
            link.hello = frame
            if before := self._links.get(frame.worker):
                before.close()  # should it still live, it ends when it finds that nobody listens
            self._links[frame.worker] = link
            await self._connected(frame)
        elif isinstance(frame, RowChanged):
            await self._row_changed(frame.job)
        else:
            self.receive(link, frame)

    def receive(self, link: _Link, frame: WorkerFrame) -> None:
        """Act on a frame that takes no time."""
        if isinstance(frame, Answered):
            _, future = self._pending.get(frame.number, (None, None))
            if future and not future.done():
                future.set_result(frame)
        elif link.hello is not None:
            self._received(link.hello.queue, frame, link.hello.worker)

    def forget(self, link: _Link) -> None:
        """A worker hung up, or was hung up on."""
        hello = link.hello
        if hello is not None and self._links.get(hello.worker) is link:
            del self._links[hello.worker]
            self._gone(hello.queue, hello.worker)
        stopped = msgspec.Raw(encode(Unavailable(_WORKER_STOPPED).record()))
        for number, (target, future) in self._pending.items():
            if target is link and not future.done():
                future.set_result(Answered(number=number, error=stopped))


class _Link(asyncio.Protocol):
    """One connection. A Protocol, as a stream's reader would cost each frame another turn of the loop."""

    def __init__(self, links: WorkerLinks) -> None:
        self._links = links
        self.hello: Hello | None = None
        self._transport: asyncio.Transport
        self._pieces: list[bytes] = []
        """Of a frame that is not whole."""
        self._size = 0
        self._later: deque[WorkerFrame] = deque()
        """Behind one that takes a while."""
        self._acting: asyncio.Task[None] | None = None
        self._is_lost = False

    def send(self, data: bytes) -> None:
        """Write to the worker."""
        self._transport.write(data)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        bound_receive_size(transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            *whole, rest = data.split(b"\n")
            if whole:
                whole[0] = b"".join((*self._pieces, whole[0]))
                self._pieces, self._size = [], 0
                for line in whole:
                    self._receive(_read_frame(line))
            if rest:
                self._pieces.append(rest)
                self._size += len(rest)
                if self._size > MAX_FRAME_BYTES:
                    raise ValueError("the frame does not end")
        except Exception:
            self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._acting is None:
            self._links.forget(self)

    def _receive(self, frame: WorkerFrame) -> None:
        if self._acting is None and not isinstance(frame, (Hello, RowChanged)):
            self._links.receive(self, frame)
            return
        self._later.append(frame)
        if self._acting is None:
            self._transport.pause_reading()
            self._acting = asyncio.get_running_loop().create_task(self._act())

    async def _act(self) -> None:
        """What takes a while, and what came behind it, in its order."""
        try:
            while self._later:
                await self._links.act(self, self._later.popleft())
        except Exception:
            self._later.clear()
            self._hang_up()
        finally:
            self._acting = None
            if self._is_lost:
                self._links.forget(self)
            else:
                self._transport.resume_reading()

    def _hang_up(self) -> None:
        logger.exception("a worker sent something unreadable")
        self.close()
