"""The supervisor's end of the workers' streams: frames come in, questions go out."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from batch.errors import BatchError, Unavailable
from batch.payloads.json_text import decode, decoder, encode
from batch.payloads.questions import ANSWER_TYPES, Answer, Question
from batch.queue.channel import socket_path
from batch.queue.frames import ABSENT, Answered, Ask, Hello, RowChanged, WorkerFrame

logger = logging.getLogger("batch.hub")

MAX_FRAME_BYTES = 256 << 20
"""Longest line a worker may send."""
_READ_BYTES = 1 << 18
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
        self._writers: dict[str, asyncio.StreamWriter] = {}
        """By the worker's id."""
        self._pending: dict[int, tuple[asyncio.StreamWriter, asyncio.Future[Answered]]] = {}
        """Questions under way, by number: to which worker they went, and what waits."""
        self._numbers = itertools.count(1)

    async def start(self) -> None:
        """Listen in the home's state folder."""
        path = socket_path(self._state_dir, "events")
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve, path=str(path), limit=_READ_BYTES)
        os.chmod(path, 0o600)

    def close(self) -> None:
        """Hang up on every worker, and listen no more."""
        for writer in self._writers.values():
            writer.close()
        if self._server:
            self._server.close()

    def is_connected(self, worker: str) -> bool:
        """Whether a worker can be asked."""
        return worker in self._writers

    async def ask(self, worker: str, question: Question, timeout_s: float) -> Answer:
        """Put a question to a connected worker. Raises its BatchError, or Unavailable."""
        writer = self._writers[worker]
        number = next(self._numbers)
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._pending[number] = writer, future
        try:
            async with asyncio.timeout(timeout_s):
                writer.write(encode(Ask(number=number, question=question)) + b"\n")
                await writer.drain()
                answered = await future
        except TimeoutError:
            raise Unavailable(f"The worker did not answer within {timeout_s:.0f} seconds; try again.") from None
        except ConnectionError:
            raise Unavailable(_WORKER_STOPPED) from None
        finally:
            del self._pending[number]
        if answered.error is not ABSENT:
            raise BatchError.from_record(decode(bytes(answered.error), dict[str, Any]))
        return decode(bytes(answered.answer), ANSWER_TYPES[type(question)])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello: Hello | None = None
        try:
            async for frames in _frames(reader):
                for frame in frames:
                    if isinstance(frame, Hello):
                        hello = frame
                        if before := self._writers.get(hello.worker):
                            before.close()  # should it still live, it ends when it finds that nobody listens
                        self._writers[hello.worker] = writer
                        await self._connected(hello)
                    elif isinstance(frame, RowChanged):
                        await self._row_changed(frame.job)
                    elif isinstance(frame, Answered):
                        _, future = self._pending.get(frame.number, (None, None))
                        if future and not future.done():
                            future.set_result(frame)
                    elif hello is not None:
                        self._received(hello.queue, frame, hello.worker)
        except (ConnectionResetError, asyncio.CancelledError):
            pass
        except Exception:
            logger.exception("a worker sent something unreadable")
        finally:
            writer.close()
            if hello is not None and self._writers.get(hello.worker) is writer:
                del self._writers[hello.worker]
                self._gone(hello.queue, hello.worker)
            stopped = msgspec.Raw(encode(Unavailable(_WORKER_STOPPED).record()))
            for number, (target, future) in self._pending.items():
                if target is writer and not future.done():
                    future.set_result(Answered(number=number, error=stopped))


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[Iterator[WorkerFrame]]:
    """What a worker sends, as it arrives; raises ValueError when a frame is longer than any that it should send."""
    pieces: list[bytes] = []
    size = 0
    while data := await reader.read(_READ_BYTES):
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join((*pieces, whole[0]))
            pieces, size = [], 0
            yield map(_read_frame, whole)
        pieces.append(rest)
        size += len(rest)
        if size > MAX_FRAME_BYTES:
            raise ValueError("the frame does not end")
