"""The supervisor's side of the queue: accepts jobs, hears the workers' events, and hands them to whoever waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import msgspec

from batch.errors import BatchError, Cancelled, DiskFull, NotFound, QueueFull, Unavailable
from batch.payloads.events import Delta, SegmentEnded, Started
from batch.payloads.job_payload import Result
from batch.payloads.json_text import decode, encode
from batch.payloads.model_info import AnyModelInfo
from batch.payloads.questions import (
    ANSWER_TYPES,
    Answer,
    ApplyTemplate,
    CountTokens,
    Detokenize,
    Detokenized,
    EngineMetrics,
    Question,
    ReadEngineMetrics,
    TemplateApplied,
    TokenCount,
    Tokenize,
    Tokenized,
)
from batch.queue.channel import Waker, socket_path
from batch.queue.frames import (
    ABSENT,
    Answered,
    Ask,
    Beat,
    Broken,
    End,
    Hello,
    JobEnded,
    Loading,
    Ready,
    RowChanged,
    TicketEvent,
    WorkerFrame,
)
from batch.queue.idempotency import Held, Key, submit_once
from batch.queue.jobs import Draft, Job, Kind, Priority, State, UnreadableJob
from batch.queue.spool import Spool
from batch.queue.store import Store

T = TypeVar("T")
R = TypeVar("R", bound=Result)
logger = logging.getLogger("batch.hub")

_FRAME_LIMIT = 256 << 20
"""Longest line a worker may send, in bytes."""
_READ = 1 << 18
_SHUTTING_DOWN = "The service is shutting down: send the request again once it is back."
_STOPPED = "The worker stopped before it answered; try again."
_BEAT = 0.25
"""How old a sign of life may be before a token counts as a new one, in seconds."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """What is known of one worker's model."""

    status: Literal["loading", "ready", "failed"] = "loading"
    progress: float = 0.0
    """Loading, 0 to 1."""
    info: AnyModelInfo | None = None
    """What Engine.load gave; None until it was ready once."""
    error: str | None = None
    """One sentence, when failed."""
    pid: int | None = None
    busy: str | None = None
    """Id of the job that runs."""
    beat: float = 0.0
    """time.monotonic() of the last sign of life."""

    @property
    def name(self) -> str:
        """The model's name; empty while it is not known."""
        return self.info.model if self.info else ""


class Ticket:
    """A client's hold on its job: its events, its result, and the means to cancel it."""

    def __init__(self, hub: Hub, draft: Draft) -> None:
        self._hub = hub
        self.id = draft.id
        self.kind = draft.kind
        self.created = time.monotonic()
        self.ended = False
        self._events: list[TicketEvent] = []
        self._arrived = asyncio.Event()
        self._others: list[Ticket] = []
        """Clients that sent the same request once more under its Idempotency-Key while it was under way."""

    def _push(self, event: TicketEvent) -> None:
        if not isinstance(event, Delta | SegmentEnded):  # they came too late for the first ones: the result has all
            for other in self._others:
                other._push(event)
        if self.ended:
            return  # this client gave up, while others wait on
        if isinstance(event, End):
            self.ended = True
        self._events.append(event)
        self._arrived.set()

    async def bursts(self) -> AsyncIterator[list[TicketEvent]]:
        """The job's events until its End, which comes last; those that are there at once come in one list."""
        while True:
            if self._events:
                burst, self._events = self._events, []
                yield burst
                if isinstance(burst[-1], End):
                    return
            else:
                self._arrived.clear()
                await self._arrived.wait()

    async def events(self) -> AsyncIterator[TicketEvent]:
        """The job's events one by one until its End, which comes last."""
        async for burst in self.bursts():
            for event in burst:
                yield event

    async def result(self, type: type[R]) -> R:
        """Wait for the end; the result as a struct of `type`, or the job's error raised (Cancelled when it was cancelled)."""
        async for event in self.events():
            if isinstance(event, End):
                return await self._hub.outcome(self.id, type, event)
        raise Cancelled()

    async def ahead(self) -> int:
        """How many jobs stand before this one in its queue."""
        return await self._hub.in_thread(lambda: self._hub.store.ahead(self.id))

    async def cancel(self) -> None:
        """Stop the job: at once when queued, at its next unit when running; harmless when it has ended, or when
        another caller waits for it too."""
        if self.ended:
            return
        if self._hub.shared(self):
            self.ended = True
            self._events.append(End(job=self.id, state=State.CANCELLED))
            self._arrived.set()
        else:
            await self._hub.cancel(self.id)


class Hub:
    """One a service. Everything but `in_thread` work runs on the asyncio loop that called `start`."""

    def __init__(self, store: Store, spool: Spool, state_dir: Path, *, most_waiting: int = 1000) -> None:
        self.store = store
        self.spool = spool
        self._state_dir = state_dir
        self._most_waiting = most_waiting
        self._waker = Waker(state_dir)
        store.submitted = self._wake  # type: ignore[method-assign]
        # One thread: the store serves one caller at a time anyway, and order of submission is order of arrival.
        self._threads = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="store")
        self._spool_threads = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="spool")
        self._tickets: dict[str, Ticket] = {}
        self._models = dict.fromkeys(Kind, ModelState())
        self._shown = dict(self._models)
        self._changed = asyncio.Event()
        self._writers: dict[Kind, asyncio.StreamWriter] = {}
        self._under_way: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        """Jobs whose start was heard and whose end was not."""
        self._answers: dict[int, tuple[asyncio.StreamWriter, asyncio.Future[Answered]]] = {}
        """Questions under way, by number: whom they were put to, and what waits."""
        self._numbers = itertools.count(1)
        self._listeners: list[Callable[[JobEnded], None]] = []
        self._server: asyncio.Server | None = None
        self._callers = dict.fromkeys(Kind, 0)
        self._pace = {kind: Pace() for kind in Kind}
        self._closed = False

    async def start(self) -> None:
        path = socket_path(self._state_dir, "events")
        path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._connected, path=str(path), limit=_READ)
        os.chmod(path, 0o600)

    async def close(self) -> None:
        self._closed = True
        self._say_changed()
        for writer in self._writers.values():
            writer.close()
        if self._server:
            self._server.close()
        for ticket in list(self._tickets.values()):
            ticket._push(End(job=ticket.id, state=State.CANCELLED, closing=True))
        self._tickets.clear()
        self._callers = dict.fromkeys(Kind, 0)
        self._threads.shutdown(wait=True)
        self._spool_threads.shutdown(wait=True)
        self._waker.close()

    # -- for doors

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run a blocking store call off the loop."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def submit(self, draft: Draft, *, durable: bool = False) -> Ticket:
        """Accept a job; raises QueueFull when too many callers wait already, DiskFull, and Unavailable when its caller would
        wait for a model that could not be loaded."""
        if draft.waited:
            self._refuse_if_failed(draft.kind)
        if draft.waited and (waiting := self._callers[draft.kind]) >= self._most_waiting:
            seconds = self._pace[draft.kind].refuse(waiting - self._most_waiting)
            raise QueueFull(f"{waiting} requests are waiting already: try again in {seconds} seconds.", retry_after=seconds)
        # Registered first: the job may have ended before the submitting thread is back.
        ticket = self._tickets[draft.id] = Ticket(self, draft)
        self._callers[draft.kind] += 1
        try:
            await self.in_thread(lambda: self.store.submit(draft, durable=durable))
        except BaseException:
            self._forget(draft.id)
            raise
        return ticket

    async def submit_once(self, key: Key, drafts: Sequence[Draft]) -> tuple[list[Ticket], bool]:
        """As `submit`, under an Idempotency-Key: tickets, and whether they are those of an earlier request's jobs."""
        if (waiting := self._callers[key.kind]) >= self._most_waiting:
            seconds = self._pace[key.kind].refuse(waiting - self._most_waiting)
            raise QueueFull(f"{waiting} requests are waiting already: try again in {seconds} seconds.", retry_after=seconds)
        tickets = [Ticket(self, draft) for draft in drafts]
        self._tickets |= {ticket.id: ticket for ticket in tickets}
        self._callers[key.kind] += len(tickets)
        held: list[Held] = []
        try:
            held = await self.in_thread(lambda: submit_once(self.store, key, drafts))
        except BaseException:
            for ticket in tickets:
                self._forget(ticket.id)
            raise
        if not held:
            try:  # only now: what was done before is told again, model or no model
                self._refuse_if_failed(key.kind)
            except Unavailable:
                for ticket in tickets:
                    await self.cancel(ticket.id)
                raise
            return tickets, False
        for ticket in tickets:
            self._forget(ticket.id)
        return [await self._join(one, draft) for one, draft in zip(held, drafts, strict=True)], True

    def _refuse_if_failed(self, kind: Kind) -> None:
        if self._models[kind].status == "failed":
            raise Unavailable(self._models[kind].error)

    async def turn_away(self, kind: Kind) -> None:
        """Tell every caller that waits for a model that it could not be loaded: when it will be, nobody knows."""
        error = msgspec.Raw(encode(Unavailable(self._models[kind].error).record()))
        for ticket in [ticket for ticket in self._tickets.values() if ticket.kind is kind]:
            ticket._push(End(job=ticket.id, state=State.FAILED, error=error))
            with contextlib.suppress(NotFound, DiskFull):  # its row is not there, or is cancelled at the next start
                await self.cancel(ticket.id)

    async def _join(self, held: Held, draft: Draft) -> Ticket:
        ticket = Ticket(self, replace(draft, id=held.job))
        first = self._tickets.get(held.job)
        if first is not None:
            first._others.append(ticket)
        else:
            self._tickets[held.job] = ticket
            self._callers[draft.kind] += 1
        # Read after the ticket is in place: the job may have ended in between.
        row = await self.in_thread(lambda: self.store.job(held.job))
        if row is None or row.state.ended:
            if first is None:
                self._forget(held.job)
            ticket._push(End(job=held.job, state=row.state if row else State.CANCELLED))
        elif row.state is State.RUNNING:
            ticket._push(Started(job=held.job))
        return ticket

    def shared(self, ticket: Ticket) -> bool:
        """Whether somebody else waits for this ticket's job as well."""
        first = self._tickets.get(ticket.id)
        return first is not None and any(t is not ticket and not t.ended for t in (first, *first._others))

    def _forget(self, job: str) -> Ticket | None:
        ticket = self._tickets.pop(job, None)
        if ticket is not None:
            self._callers[ticket.kind] -= 1
        return ticket

    async def cancel(self, job: str) -> State:
        state = await self.in_thread(lambda: self.store.cancel(job))
        if state is State.CANCELLED and (ticket := self._forget(job)):
            ticket._push(End(job=job, state=State.CANCELLED))
        for kind in Kind:
            self._waker.wake(kind)
        return state

    async def outcome(self, job: str, type: type[R], end: End | None = None) -> R:
        """The result of an ended job as a struct of `type`, or its error raised."""
        if end and end.closing:
            raise Unavailable(_SHUTTING_DOWN)
        if end and end.state is State.DONE and end.result is not ABSENT:
            return decode(bytes(end.result), type)
        if end and end.state is State.FAILED and end.error is not ABSENT:
            raise BatchError.from_record(decode(bytes(end.error), dict[str, Any]))
        row: Job | None = await self.in_thread(lambda: self.store.job(job))
        if row is None:
            raise Cancelled(f"Job {job} is gone.")
        if row.state is State.DONE:
            result = row.result
            if not isinstance(result, type):
                raise UnreadableJob()
            return result
        if row.state is State.FAILED:
            raise BatchError.from_record(dict(row.error or {}))
        raise Cancelled(f"Job {job} was cancelled.")

    @overload
    async def ask(self, kind: Kind, question: Tokenize, timeout: float = 60.0) -> Tokenized: ...
    @overload
    async def ask(self, kind: Kind, question: Detokenize, timeout: float = 60.0) -> Detokenized: ...
    @overload
    async def ask(self, kind: Kind, question: ApplyTemplate, timeout: float = 60.0) -> TemplateApplied: ...
    @overload
    async def ask(self, kind: Kind, question: CountTokens, timeout: float = 60.0) -> TokenCount: ...
    @overload
    async def ask(self, kind: Kind, question: ReadEngineMetrics, timeout: float = 60.0) -> EngineMetrics: ...
    async def ask(self, kind: Kind, question: Question, timeout: float = 60.0) -> Answer:
        """Put a question to a worker's engine; waits while the model loads, as a job would, and `timeout` seconds from
        then on. Raises its BatchError, or Unavailable."""
        writer = await self._ready(kind)
        number = next(self._numbers)
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._answers[number] = writer, future
        try:
            async with asyncio.timeout(timeout):
                writer.write(encode(Ask(number=number, question=question)) + b"\n")
                await writer.drain()
                answered = await future
        except TimeoutError:
            raise Unavailable(f"The {kind} worker did not answer within {timeout:.0f} seconds; try again.") from None
        except ConnectionError:
            raise Unavailable(_STOPPED) from None
        finally:
            del self._answers[number]
        if answered.error is not ABSENT:
            raise BatchError.from_record(decode(bytes(answered.error), dict[str, Any]))
        return decode(bytes(answered.answer), ANSWER_TYPES[type(question)])

    async def _ready(self, kind: Kind) -> asyncio.StreamWriter:
        """Wait for a kind's model to be in; the way to its worker."""
        while True:
            state = self._models[kind]
            if self._closed:
                raise Unavailable(_SHUTTING_DOWN)
            if state.status == "failed":
                raise Unavailable(state.error)
            writer = self._writers.get(kind)
            if state.status == "ready" and writer is not None:
                return writer
            await self._changed.wait()

    def model(self, kind: Kind) -> ModelState:
        return self._models[kind]

    def shown(self, kind: Kind) -> ModelState:
        """The same as far as `batch status` knows it too: what /health tells, so that the two never disagree."""
        return self._shown[kind]

    def show(self, kind: Kind, state: ModelState) -> None:
        """The database tells this state of a model by now."""
        self._shown[kind] = state

    def model_change(self) -> asyncio.Event:
        """Set once some model's state has changed since this call."""
        return self._changed

    def set_model(self, kind: Kind, **changes: Any) -> None:
        self._models[kind] = replace(self._models[kind], **changes)
        if set(changes) - {"beat", "busy"}:
            self._say_changed()

    def _say_changed(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def listen(self, callback: Callable[[JobEnded], None]) -> None:
        """Be called, on the loop, for every job that ends."""
        self._listeners.append(callback)

    async def keep(self, data: bytes, *, durable: bool = False) -> str:
        """Put bytes in the spool; returns their sha256."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._spool_threads, lambda: self.spool.keep(data, durable=durable))

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        """Put an upload in the spool as it arrives; returns sha256 and size."""
        return await self.spool.keep_stream(chunks, durable=durable)

    def path(self, sha256: str) -> Path:
        return self.spool.path(sha256)

    def read(self, sha256: str) -> bytes:
        return self.spool.read(sha256)

    # -- from workers

    def _wake(self, kinds: set[Kind]) -> None:
        for kind in kinds:
            self._waker.wake(kind)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind: Kind | None = None
        try:
            async for frame in _frames(reader):
                if isinstance(frame, Hello):
                    kind = frame.kind
                    if before := self._writers.get(kind):
                        before.close()  # should it still live, it ends when it finds that nobody listens
                    self._writers[kind] = writer
                    self.set_model(
                        kind,
                        status="loading",
                        progress=0.0,
                        error=None,
                        pid=frame.pid,
                        busy=None,
                        beat=time.monotonic(),
                    )
                    # Its predecessor may have died between a job's end and the telling of it.
                    untold = self._under_way[kind] | {t.id for t in self._tickets.values() if t.kind is kind}
                    self._under_way[kind] = set()
                    for job in untold:
                        await self._noticed(job)
                elif isinstance(frame, RowChanged):
                    await self._noticed(frame.job)
                elif kind is not None:
                    self._heard(kind, frame)
        except (ConnectionResetError, asyncio.CancelledError):
            pass
        except Exception:
            logger.exception("a worker sent something unreadable")
        finally:
            writer.close()
            if kind is not None and self._writers.get(kind) is writer:
                del self._writers[kind]
                if self._models[kind].status == "ready":
                    self.set_model(kind, status="loading", progress=0.0, pid=None, busy=None)
            for asked, future in self._answers.values():
                if asked is writer and not future.done():
                    future.set_result(Answered(number=0, error=msgspec.Raw(encode(Unavailable(_STOPPED).record()))))

    def _heard(self, kind: Kind, frame: WorkerFrame) -> None:
        match frame:
            case Answered():
                _, future = self._answers.get(frame.number, (None, None))
                if future and not future.done():
                    future.set_result(frame)
            case Loading():
                self.set_model(kind, status="loading", progress=frame.progress)
            case Ready():
                self.set_model(kind, status="ready", progress=1.0, info=frame.info, error=None)
            case Broken():
                self.set_model(kind, status="failed", error=frame.message)
            case Beat():
                self.set_model(kind, beat=time.monotonic())
            case Hello() | RowChanged():
                pass
            case _:
                # A job that makes progress is alive, whatever it reports.
                if (now := time.monotonic()) - self._models[kind].beat > _BEAT:
                    self.set_model(kind, beat=now)
                self._job_event(kind, frame)

    def _job_event(self, kind: Kind, event: TicketEvent) -> None:
        job = event.job
        ticket = self._tickets.get(job)
        if isinstance(event, Started):
            self._under_way[kind].add(job)
            self.set_model(kind, busy=job)
        elif isinstance(event, End):
            self._forget(job)
            self._under_way[kind].discard(job)
            self.set_model(kind, busy=event.resumes)
            if event.seconds is not None:
                self._pace[kind].ended(event.seconds)
        if ticket:
            ticket._push(event)
        if isinstance(event, End):
            self._tell(JobEnded(job=job, kind=kind, state=event.state, waited=ticket is not None))

    def _tell(self, ended: JobEnded) -> None:
        for callback in self._listeners:
            try:
                callback(ended)
            except Exception:
                logger.exception("a listener failed on the end of job %s", ended.job)

    async def _noticed(self, job: str) -> None:
        """Another process changed this job's row: a job that it ended has no worker that would tell us."""
        row = await self.in_thread(lambda: self.store.job(job))
        if row is None or not row.state.ended:
            return
        if ticket := self._forget(job):
            ticket._push(End(job=job, state=row.state))
        self._tell(JobEnded(job=job, kind=row.kind, state=row.state, waited=ticket is not None))

    def callers(self, kind: Kind) -> int:
        """How many callers wait for jobs of a kind."""
        return self._callers[kind]


async def _frames(reader: asyncio.StreamReader) -> AsyncIterator[WorkerFrame]:
    """What a worker sends; raises ValueError when a frame is longer than any that it should send."""
    pieces: list[bytes] = []
    size = 0
    while data := await reader.read(_READ):
        *whole, rest = data.split(b"\n")
        if whole:
            whole[0] = b"".join((*pieces, whole[0]))
            pieces, size = [], 0
            for line in whole:
                yield decode(line, WorkerFrame)
        pieces.append(rest)
        size += len(rest)
        if size > _FRAME_LIMIT:
            raise ValueError("the frame does not end")


class Pace:
    """How fast one queue's jobs end of late, and when a caller that found no place should come back."""

    def __init__(self) -> None:
        self._ends: deque[float] = deque(maxlen=50)
        """Seconds that each of the last jobs kept the worker from the next."""
        self._last = 0.0
        self._promised = 0
        """Callers told to come back, less the places that have become free since."""

    def ended(self, seconds: float) -> None:
        """A job ended that ran for `seconds`, maybe in a pack with others: they share the time."""
        now = time.monotonic()
        self._ends.append(min(seconds, now - self._last))
        self._last = now
        self._promised = max(0, self._promised - 1)

    def refuse(self, beyond: int = 0) -> int:
        """Seconds after which the next refused caller should find a place, each one its own; 1 to 120."""
        self._promised = min(self._promised + 1, 10_000)
        if not self._ends:  # nothing is known yet, but soon will be
            return 1 + self._promised % 5
        each = sum(self._ends) / len(self._ends)
        return max(1, min(120, round(each * (beyond + self._promised))))


__all__ = ["Hub", "ModelState", "Priority", "Ticket"]
