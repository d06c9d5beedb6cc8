"""The stream writer: server-sent events that begin early, say what a caller waits for, and stop when it hangs up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import anyio
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from batch.api.errors import retry_headers, to_openai_error
from batch.api.jobs.stream_resume import Replay
from batch.errors import BatchError
from batch.payloads.json_text import encode
from batch.queue.hub import Hub, Ticket
from batch.queue.untyped_hub import burst_dicts, outcome_dict

logger = logging.getLogger("batch.api")

CHECK_AFTER = 0.05
"""A worker that is free begins sooner than this; only a job that waits is worth asking about in advance."""
HEADERS_AFTER = 1.0
"""Until then an error is still an HTTP error; after it the caller gets its headers and comments."""
PIECE = 1 << 16
"""Bytes sent at once, of a burst that came while the caller did not read."""
LOOK = (1.0, 10.0)
"""How often a waiting caller's place in the queue is looked up, at first and at last, in seconds."""


def data(value: Any) -> bytes:
    """One event without a name, as OpenAI streams them."""
    return b"data: " + encode(value) + b"\n\n"


def named(event: str, value: Any) -> bytes:
    """One event with a name, as Anthropic and OpenAI's Responses stream them."""
    return b"event: " + event.encode() + b"\n" + data(value)


class Wire(Protocol):
    """How one route spells a job's events; `job` counts the request's jobs from 0."""

    def event(self, job: int, event: Mapping[str, Any]) -> bytes:
        """What a delta or progress event becomes; may be empty."""
        ...

    def done(self, job: int, result: Mapping[str, Any]) -> bytes:
        """What comes when a job's result is there."""
        ...

    def close(self) -> bytes:
        """What comes last, after every job."""
        ...

    def error(self, error: BatchError) -> bytes:
        """The event that ends a stream that broke."""
        ...


class EventStream(Response):
    """Runs the jobs of `tickets` one after the other into a stream of server-sent events.

    Owns the tickets: whatever ends the response cancels what has not ended. `check` is awaited before headers are
    sent early, and raises the BatchError that the job itself would end with.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        hub: Hub,
        tickets: Sequence[Ticket],
        wire: Wire,
        *,
        check: Callable[[], Awaitable[None]] | None = None,
        ping: float = 30.0,
        headers: Mapping[str, str] | None = None,
        error_body: Callable[[BatchError], dict[str, Any]] = to_openai_error,
    ) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._hub, self._tickets, self._wire, self._check = hub, tickets, wire, check
        self._ping, self._error_body = ping, error_body
        self._place = 0
        self._running = False
        self._spoken = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone: asyncio.Future[Any] = asyncio.ensure_future(_hung_up(receive))
        feed = self._feed()
        step: asyncio.Future[Any] = asyncio.ensure_future(anext(feed))
        try:
            await self._answer(scope, receive, send, feed, step, gone)
        finally:
            gone.cancel()
            with anyio.CancelScope(shield=True):
                for ticket in self._tickets:
                    await ticket.cancel()

    async def _feed(self) -> AsyncIterator[bytes]:
        """The stream's bytes, empty for events that say nothing to a caller; raises a job's error."""
        for at, ticket in enumerate(self._tickets):
            self._place, self._running = at, False
            replay = Replay()
            async for burst in burst_dicts(ticket):
                words = b""
                for event in burst:
                    self._running = True  # a job that tells of anything waits no more
                    if len(words) >= PIECE or (words and event["type"] == "end"):
                        # What a slow reader left waiting goes in pieces, between which others have their turn.
                        yield words
                        words = b""
                    if event["type"] == "end":
                        result = await outcome_dict(self._hub, ticket, event)
                        rest = b"".join(self._wire.event(at, missed) for missed in replay.missing(result))
                        words = rest + self._wire.done(at, result)
                        break
                    if event["type"] == "started":
                        replay.restart()
                    fresh = replay.fresh(event)
                    if fresh:
                        words += self._wire.event(at, fresh)
                yield words
        yield self._wire.close()

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        feed: AsyncIterator[bytes],
        step: asyncio.Future[Any],
        gone: asyncio.Future[Any],
    ) -> None:
        try:
            try:
                step, first = await self._early(feed, step, gone)
            except BatchError as error:
                await JSONResponse(self._error_body(error), error.status, retry_headers(error))(scope, receive, send)
                return
            if gone.done():
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            self._spoken = asyncio.get_running_loop().time()
            try:
                if first:
                    await _body(send, first)
                await self._pump(send, feed, step, gone)
            except BatchError as error:
                await _body(send, self._wire.error(error))
            except (OSError, asyncio.CancelledError):
                raise
            except Exception:
                logger.exception("a stream broke")
                await _body(send, self._wire.error(BatchError("Something in the service broke; its log says what.")))
            if not gone.done():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            step.cancel()

    async def _early(
        self, feed: AsyncIterator[bytes], step: asyncio.Future[Any], gone: asyncio.Future[Any]
    ) -> tuple[asyncio.Future[Any], bytes]:
        """Wait for the first words, about a second at most; the next step and what to send at once."""
        clock = asyncio.get_running_loop().time
        latest = clock() + HEADERS_AFTER
        unchecked = self._check
        while True:
            patience = CHECK_AFTER if unchecked else max(0.0, latest - clock())
            await asyncio.wait({step, gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                return step, b""
            if step.done():
                words = step.result()
                step = asyncio.ensure_future(anext(feed))
                if words:
                    return step, words
            elif unchecked:
                check, unchecked = unchecked, None
                asked: asyncio.Future[Any] = asyncio.ensure_future(check())
                await asyncio.wait({asked, gone}, return_when=asyncio.FIRST_COMPLETED)
                if asked.done():
                    asked.result()
                else:
                    asked.cancel()
            else:
                return step, b""

    async def _pump(self, send: Send, feed: AsyncIterator[bytes], step: asyncio.Future[Any], gone: asyncio.Future[Any]) -> None:
        """Until the feed ends or the caller hangs up."""
        both = [asyncio.ensure_future(self._pass_on(send, feed, step)), asyncio.ensure_future(self._comment(send))]
        try:
            await asyncio.wait({*both, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in both:
                if task.done():
                    task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _pass_on(self, send: Send, feed: AsyncIterator[bytes], step: asyncio.Future[Any]) -> None:
        clock = asyncio.get_running_loop().time
        try:
            words = await step
        except StopAsyncIteration:
            return
        if words:
            self._spoken = clock()
            await _body(send, words)
        async for words in feed:
            if words:
                self._spoken = clock()
                await _body(send, words)

    async def _comment(self, send: Send) -> None:
        """Tell a caller that waits its place, and a silent one that the stream is alive."""
        clock = asyncio.get_running_loop().time
        ahead, look = -1, LOOK[0]
        while True:
            quiet = bool(self._ping) and clock() - self._spoken >= self._ping
            words = b":\n\n" if quiet and self._running else b""
            if not self._running:
                ticket = self._tickets[self._place]
                runs = self._hub.model(ticket.kind).busy
                place = await ticket.ahead() + (runs is not None and runs != ticket.id)
                if not self._running and (place != ahead or quiet):
                    words = b": queued %d ahead\n\n" % place
                    ahead = place
            if words:
                self._spoken = clock()
                await _body(send, words)
            await asyncio.sleep(look if not self._running else self._patience(clock()))
            look = LOOK[0] if self._running else min(LOOK[1], look * 1.5)

    def _patience(self, now: float) -> float:
        """How long a stream that runs can be left alone: its next job may be one that waits."""
        return min(LOOK[0], max(0.0, self._spoken + self._ping - now)) if self._ping else LOOK[0]


async def _body(send: Send, words: bytes) -> None:
    await send({"type": "http.response.body", "body": words, "more_body": True})


async def _hung_up(receive: Receive) -> None:
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            return
