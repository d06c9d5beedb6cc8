"""A streamed answer: server-sent events that begin early, say what a client waits for, and stop when it hangs up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from batch.api.errors import ErrorBody, retry_headers, to_openai_error
from batch.api.jobs.server_sent_events import KEEP_ALIVE, STREAM_HEADERS
from batch.api.jobs.stream_resume import StreamResume
from batch.errors import BatchError
from batch.payloads.events import JobEvent
from batch.payloads.job_payload import Result
from batch.queue.frames import End
from batch.queue.hub.hub import Hub
from batch.queue.hub.ticket import Ticket
from batch.queue.store import StoreAway

logger = logging.getLogger("batch.api")

CHECK_AFTER_S = 0.05
"""A worker that is free begins sooner than this; only a job that waits is worth asking about in advance."""
HEADERS_AFTER_S = 1.0
"""Until then an error is still an HTTP error; after it the client gets its headers and comments."""
MAX_PIECE_BYTES = 1 << 16
"""Sent at once, of a burst that came while the client did not read."""
FIRST_PLACE_INTERVAL_S = 1.0
LAST_PLACE_INTERVAL_S = 10.0
"""How often a waiting client's place in the queue is looked up, at first and at last."""
PLACE_INTERVAL_GROWTH = 1.5

R = TypeVar("R", bound=Result)
R_contra = TypeVar("R_contra", bound=Result, contravariant=True)


class EventSerializer(Protocol[R_contra]):
    """How one route spells a request's jobs as server-sent events; `job` counts the jobs from 0."""

    def event(self, job: int, event: JobEvent) -> bytes:
        """What a job's event becomes; may be empty."""
        ...

    def finish(self, job: int, result: R_contra) -> bytes:
        """What comes when a job's result is there."""
        ...

    def close(self) -> bytes:
        """What comes last, after every job."""
        ...

    def error(self, error: BatchError) -> bytes:
        """What ends a stream that broke."""
        ...


class EventStreamResponse(Response, Generic[R]):
    """Runs the jobs of `tickets` one after the other into a stream of server-sent events.

    Owns the tickets: whatever ends the response cancels what has not ended. `check` is awaited before headers are
    sent early, and raises the BatchError that the job itself would end with.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        hub: Hub,
        tickets: Sequence[Ticket],
        result_type: type[R],
        serializer: EventSerializer[R],
        *,
        check: Callable[[], Awaitable[None]] | None = None,
        ping_interval_s: float = 30.0,
        headers: Mapping[str, str] | None = None,
        error_body: Callable[[BatchError], ErrorBody] = to_openai_error,
        record: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """`record` is awaited before the last event is sent, and when the client hangs up: what the stream came to can be
        stored by then."""
        super().__init__(headers={**STREAM_HEADERS, **(headers or {})})
        del self.headers["content-length"]
        self._hub, self._tickets, self._result_type, self._serializer = hub, tickets, result_type, serializer
        self._check, self._ping_interval_s, self._error_body = check, ping_interval_s, error_body
        self._record = record
        self._current = 0
        """Which ticket's job comes next or runs."""
        self._running = False
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        disconnect: asyncio.Future[Any] = asyncio.ensure_future(_disconnected(receive))
        feed = self._feed()
        step: asyncio.Future[Any] = asyncio.ensure_future(anext(feed))
        try:
            await self._answer(scope, receive, send, feed, step, disconnect)
        finally:
            disconnect.cancel()
            with anyio.CancelScope(shield=True):
                for ticket in self._tickets:
                    await ticket.cancel()
                await self._record_once()

    async def _record_once(self) -> None:
        record, self._record = self._record, None
        if record is not None:
            await record()

    async def _feed(self) -> AsyncIterator[bytes]:
        """The stream's bytes, empty for events that say nothing to a client; raises a job's error."""
        for at, ticket in enumerate(self._tickets):
            self._current, self._running = at, False
            resume = StreamResume()
            async for burst in ticket.bursts():
                self._running = True  # a job that publishes anything waits no more
                pieces: list[bytes] = []
                size = 0
                for event in burst:
                    if size >= MAX_PIECE_BYTES or (size and isinstance(event, End)):
                        # What a slow reader left waiting goes in pieces, between which others have their turn.
                        yield b"".join(pieces)
                        pieces, size = [], 0
                    if isinstance(event, End):
                        result = await self._hub.outcome(ticket.id, self._result_type, event)
                        pieces = [self._serializer.event(at, delta) for delta in resume.missing(result)]
                        pieces.append(self._serializer.finish(at, result))
                        if at == len(self._tickets) - 1:
                            await self._record_once()
                        break
                    if (unsent := resume.unsent(event)) is not None:
                        pieces.append(piece := self._serializer.event(at, unsent))
                        size += len(piece)
                yield b"".join(pieces)
        yield self._serializer.close()

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        feed: AsyncIterator[bytes],
        step: asyncio.Future[Any],
        disconnect: asyncio.Future[Any],
    ) -> None:
        try:
            try:
                step, first = await self._first_piece(feed, step, disconnect)
            except BatchError as error:
                await JSONResponse(self._error_body(error), error.status, retry_headers(error))(scope, receive, send)
                return
            if disconnect.done():
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._last_sent = asyncio.get_running_loop().time()
            try:
                if first:
                    await _send_body(send, first)
                await self._pump(send, feed, step, disconnect)
            except BatchError as error:
                last = self._serializer.error(error)
                await self._record_once()
                await _send_body(send, last)
            except (OSError, asyncio.CancelledError):
                raise
            except Exception:
                logger.exception("a stream broke")
                broken = BatchError("Something in the service broke; its log says what.")
                await _send_body(send, self._serializer.error(broken))
            if not disconnect.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            step.cancel()

    async def _first_piece(
        self, feed: AsyncIterator[bytes], step: asyncio.Future[Any], disconnect: asyncio.Future[Any]
    ) -> tuple[asyncio.Future[Any], bytes]:
        """Wait for the first bytes, about a second at most; the feed's next step and what to send at once."""
        clock = asyncio.get_running_loop().time
        latest = clock() + HEADERS_AFTER_S
        unchecked = self._check
        while True:
            # A job that runs tells by itself what is wrong with it: only where it takes very long is it asked before headers.
            timeout = CHECK_AFTER_S if unchecked and not self._running else max(0.0, latest - clock())
            await asyncio.wait({step, disconnect}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if disconnect.done():
                return step, b""
            if step.done():
                piece = step.result()
                step = asyncio.ensure_future(anext(feed))
                if piece:
                    return step, piece
            elif unchecked:
                check, unchecked = asyncio.ensure_future(unchecked()), None
                # Whoever is asked may be a machine that just died, while another does the job.
                await asyncio.wait({check, step, disconnect}, return_when=asyncio.FIRST_COMPLETED)
                if check.done():
                    check.result()
                else:
                    check.cancel()
            else:
                return step, b""

    async def _pump(
        self, send: Send, feed: AsyncIterator[bytes], step: asyncio.Future[Any], disconnect: asyncio.Future[Any]
    ) -> None:
        """Send until the feed ends or the client hangs up."""
        both = [asyncio.ensure_future(self._forward(send, feed, step)), asyncio.ensure_future(self._comment(send))]
        try:
            await asyncio.wait({*both, disconnect}, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                if task.done():
                    task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _forward(self, send: Send, feed: AsyncIterator[bytes], step: asyncio.Future[Any]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            piece = await step
        except StopAsyncIteration:
            return
        if piece:
            self._last_sent = clock()
            await _send_body(send, piece)
        async for piece in feed:
            if piece:
                self._last_sent = clock()
                await _send_body(send, piece)

    async def _comment(self, send: Send) -> None:
        """Report a waiting client's place in the queue, and to a silent one that the stream is alive."""
        clock = asyncio.get_running_loop().time
        reported, interval = -1, FIRST_PLACE_INTERVAL_S
        while True:
            quiet = bool(self._ping_interval_s) and clock() - self._last_sent >= self._ping_interval_s
            comment = KEEP_ALIVE if quiet and self._running else b""
            if not self._running:
                try:
                    ahead = await self._jobs_ahead()
                except StoreAway:  # told later: the job is accepted, and waits
                    ahead = reported
                if not self._running and ahead >= 0 and (ahead != reported or quiet):
                    comment = b": queued %d ahead\n\n" % ahead
                    reported = ahead
            if comment:
                self._last_sent = clock()
                await _send_body(send, comment)
            await asyncio.sleep(self._quiet_time(clock()) if self._running else interval)
            longer_interval = min(LAST_PLACE_INTERVAL_S, interval * PLACE_INTERVAL_GROWTH)
            interval = FIRST_PLACE_INTERVAL_S if self._running else longer_interval

    async def _jobs_ahead(self) -> int:
        """How many jobs run before the current one."""
        ticket = self._tickets[self._current]
        running = self._hub.model(ticket.queue).busy
        return await ticket.ahead() + (running is not None and running != ticket.id)

    def _quiet_time(self, now: float) -> float:
        """Seconds for which a stream that runs can be left alone: its next job may be one that waits."""
        if not self._ping_interval_s:
            return FIRST_PLACE_INTERVAL_S
        return min(FIRST_PLACE_INTERVAL_S, max(0.0, self._last_sent + self._ping_interval_s - now))


async def _send_body(send: Send, piece: bytes) -> None:
    await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _disconnected(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
