"""The supervisor's side of the queue: accepts jobs, hears the workers' events, and hands them to whoever waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import msgspec

from batch.errors import QueueFull, Unavailable
from batch.payloads.events import Delta, Progress, PromptCounted, SegmentEnded, Started
from batch.payloads.job_payload import Result
from batch.payloads.json_text import encode
from batch.payloads.questions import (
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
from batch.queue.channel import Waker
from batch.queue.frames import (
    Answered,
    Beat,
    Broken,
    DiskWaiting,
    End,
    Hello,
    JobEnded,
    Loading,
    Ready,
    RowChanged,
    TicketEvent,
    WorkerFrame,
)
from batch.queue.hub.job_outcome import result_in, result_of
from batch.queue.hub.model_state import ModelState, ModelStates
from batch.queue.hub.open_tickets import OpenTickets, cancel_jobs
from batch.queue.hub.retry_after import ServiceTimeEstimate
from batch.queue.hub.ticket import Ticket
from batch.queue.hub.worker_links import WorkerLinks
from batch.queue.jobs import Draft, Kind, State
from batch.queue.spool import Spool
from batch.queue.store import DamagedDatabase, Held, Key, Store

T = TypeVar("T")
R = TypeVar("R", bound=Result)
logger = logging.getLogger("batch.hub")

SHUTTING_DOWN = "The service is shutting down: send the request again once it is back."
_BEAT_INTERVAL_S = 0.25
"""How old a sign of life may be before a token counts as a new one."""


class Hub:
    """One a service. Everything but `in_thread` work runs on the event loop that called `start`."""

    def __init__(self, store: Store, spool: Spool, state_dir: Path, *, max_waiting: int = 1000) -> None:
        """`max_waiting`: how many clients may wait for one kind of job."""
        self.store = store
        self.spool = spool
        self.models = ModelStates()
        self._max_waiting = max_waiting
        self._waker = Waker(state_dir)
        store.submitted = self._wake
        # One thread: the store serves one caller at a time anyway, and order of submission is order of arrival.
        self._store_thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="store")
        self._spool_threads = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="spool")
        self.tickets = OpenTickets()
        self._started_jobs: dict[Kind, set[str]] = {kind: set() for kind in Kind}
        """Jobs whose start was heard and whose end was not."""
        self._service_times = {kind: ServiceTimeEstimate() for kind in Kind}
        self._listeners: list[Callable[[JobEnded], None]] = []
        self._links = WorkerLinks(
            state_dir,
            connected=self._worker_connected,
            received=self.receive,
            row_changed=self._row_changed,
            gone=self._worker_gone,
        )
        self._closed = False

    async def start(self) -> None:
        """Listen for the workers."""
        await self._links.start()

    async def close(self) -> None:
        """End every ticket and hang up on the workers; whatever is sent from now on is refused with Unavailable."""
        self._closed = True
        self.models.wake_waiting()
        self._links.close()
        for ticket in self.tickets.clear():
            ticket.push(End(job=ticket.id, state=State.CANCELLED, closing=True))
        self._store_thread.shutdown(wait=True)
        self._spool_threads.shutdown(wait=True)
        self._waker.close()

    # -- for endpoints and the folder

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run a blocking store call off the event loop. Raises Unavailable once the service has ended."""
        return await self._in(self._store_thread, work)

    async def _in(self, threads: concurrent.futures.Executor, work: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable(SHUTTING_DOWN)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except DamagedDatabase as error:
            self.models.fail_all(error.message)
            raise

    async def submit(self, draft: Draft, *, durable: bool = False) -> Ticket:
        """Accept a job. Raises QueueFull when too many clients wait already, DiskFull, and Unavailable when its client would
        wait for a model that could not be loaded."""
        if draft.waited:
            self._refuse_if_failed(draft.kind)
            self._refuse_if_full(draft.kind)
        # Registered first: the job may have ended before the submitting thread is back.
        ticket = self.tickets.add(Ticket(self, draft.id, draft.kind))
        try:
            await self.in_thread(lambda: self.store.submit(draft, durable=durable))
        except BaseException:
            self.tickets.remove(draft.id)
            raise
        return ticket

    async def submit_once(self, key: Key, drafts: Sequence[Draft]) -> tuple[list[Ticket], bool]:
        """As `submit`, under an Idempotency-Key: tickets, and whether they are those of an earlier request's jobs."""
        self._refuse_if_full(key.kind)
        tickets = [self.tickets.add(Ticket(self, draft.id, draft.kind)) for draft in drafts]
        earlier_jobs: list[Held] = []
        try:
            earlier_jobs = await self.in_thread(lambda: self.store.submit_once(key, drafts))
        except BaseException:
            for ticket in tickets:
                self.tickets.remove(ticket.id)
            raise
        if not earlier_jobs:
            try:  # only now: what was done before is returned again, model or no model
                self._refuse_if_failed(key.kind)
            except Unavailable:
                for ticket in tickets:
                    await self.cancel(ticket.id)
                raise
            return tickets, False
        for ticket in tickets:
            self.tickets.remove(ticket.id)
        return [await self._join(one, draft.kind) for one, draft in zip(earlier_jobs, drafts, strict=True)], True

    def _refuse_if_full(self, kind: Kind) -> None:
        if (waiting := self.tickets.waiting(kind)) >= self._max_waiting:
            seconds = self._service_times[kind].refuse(waiting - self._max_waiting)
            raise QueueFull(f"{waiting} requests are waiting already: try again in {seconds} seconds.", retry_after=seconds)

    def _refuse_if_failed(self, kind: Kind) -> None:
        if self.models[kind].status == "failed":
            raise Unavailable(self.models[kind].error)

    async def follow(self, job: str, kind: Kind) -> Ticket:
        """A ticket for a job that was submitted before, by this service or an earlier one; no client counts as waiting."""
        return await self._join(Held(job, State.QUEUED), kind, waited=False)

    async def _join(self, earlier: Held, kind: Kind, *, waited: bool = True) -> Ticket:
        first = self.tickets.get(earlier.job)
        ticket = Ticket(self, earlier.job, kind)
        if first is not None:
            first.add_follower(ticket)
        else:
            self.tickets.add(ticket, waited=waited)
        # Read after the ticket is in place: the job may have ended in between.
        row = await self.in_thread(lambda: self.store.job(earlier.job))
        if row is None or row.state.ended:
            if first is None:
                self.tickets.remove(earlier.job)
            ticket.push(End(job=earlier.job, state=row.state if row else State.CANCELLED))
        elif row.state is State.RUNNING and not ticket.is_started:
            ticket.push(Started(job=earlier.job))
        return ticket

    def is_shared(self, ticket: Ticket) -> bool:
        """Whether another client waits for this ticket's job as well."""
        first = self.tickets.get(ticket.id)
        return first is not None and first.is_awaited_besides(ticket)

    async def turn_away(self, kind: Kind) -> None:
        """Refuse every client that waits for a model that could not be loaded: when it will be, nobody knows."""
        error = msgspec.Raw(encode(Unavailable(self.models[kind].error).record()))
        jobs = self.tickets.refuse(kind, error)
        await self.in_thread(lambda: cancel_jobs(self.store, jobs))

    async def cancel(self, job: str) -> State:
        """Cancel a job; the state after it. Raises NotFound."""
        state = await self.in_thread(lambda: self.store.cancel(job))
        if state is State.CANCELLED and (ticket := self.tickets.remove(job)):
            ticket.push(End(job=job, state=State.CANCELLED))
        for kind in Kind:
            self._waker.wake(kind)
        return state

    async def jobs_ahead(self, job: str) -> int:
        """How many jobs stand before this one in its queue."""
        return await self.in_thread(lambda: self.store.ahead(job))

    async def outcome(self, job: str, type: type[R], end: End | None = None) -> R:
        """The result of an ended job as a struct of `type`, or its error raised."""
        if end and end.closing:
            raise Unavailable(SHUTTING_DOWN)
        if end and (result := result_in(end, type)):
            return result
        return result_of(job, await self.in_thread(lambda: self.store.job(job)), type)

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
        while self.models[kind].status != "ready" or not self._links.is_connected(kind):
            self._refuse_if_failed(kind)
            if self._closed:
                raise Unavailable(SHUTTING_DOWN)
            await self.models.next_change().wait()
        return await self._links.ask(kind, question, timeout)

    def model(self, kind: Kind) -> ModelState:
        """What is known of a kind's model now."""
        return self.models[kind]

    def recorded_model(self, kind: Kind) -> ModelState:
        """What `batch status` can read of a kind's model by now: /health reports this one, so that the two never disagree."""
        return self.models.recorded(kind)

    def waiting_clients(self, kind: Kind) -> int:
        """How many clients wait for jobs of a kind."""
        return self.tickets.waiting(kind)

    def listen(self, callback: Callable[[JobEnded], None]) -> None:
        """Be called, on the event loop, for every job that ends."""
        self._listeners.append(callback)

    async def keep(self, data: bytes, *, durable: bool = False) -> str:
        """Put bytes in the spool; returns their sha256."""
        return await self._in(self._spool_threads, lambda: self.spool.keep(data, durable=durable))

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        """Put an upload in the spool as it arrives; returns sha256 and size in bytes."""
        return await self.spool.keep_stream(chunks, durable=durable)

    def path(self, sha256: str) -> Path:
        """Where the spool keeps these bytes."""
        return self.spool.path(sha256)

    # -- from workers

    def _wake(self, kinds: set[Kind]) -> None:
        for kind in kinds:
            self._waker.wake(kind)

    async def _worker_connected(self, hello: Hello) -> None:
        kind = hello.kind
        self.models.update(kind, pid=hello.pid, busy=None, beat=time.monotonic())
        if not self.models[kind].is_crashing:
            self.models.update(kind, status="loading", progress=0.0, error=None)
        # Its predecessor may have died between a job's end and the report of it.
        unreported = self._started_jobs[kind] | {ticket.id for ticket in self.tickets.of_kind(kind)}
        self._started_jobs[kind] = set()
        for job in unreported:
            await self._row_changed(job)

    def _worker_gone(self, kind: Kind) -> None:
        if self.models[kind].status == "ready":
            self.models.update(kind, status="loading", progress=0.0, pid=None, busy=None)

    def receive(self, kind: Kind, frame: WorkerFrame) -> None:
        """Act on a worker's frame."""
        match frame:
            case Delta() | Started() | End() | Progress() | PromptCounted() | SegmentEnded():  # the most frequent first
                # A job that makes progress is alive, whatever it reports.
                if (now := time.monotonic()) - self.models[kind].beat > _BEAT_INTERVAL_S:
                    self.models.update(kind, beat=now)
                self._job_event(kind, frame)
            case Loading():
                if not self.models[kind].is_crashing:
                    self.models.update(kind, status="loading", progress=frame.progress)
            case Ready():
                ready: dict[str, Any] = {"status": "ready", "error": None, "is_crashing": False, "was_ready": True}
                self.models.update(kind, progress=1.0, info=frame.info, **ready)
            case Broken():
                self.models.update(kind, status="failed", error=frame.message)
            case Beat() | DiskWaiting():
                self.models.update(kind, beat=time.monotonic())
                if isinstance(frame, DiskWaiting) and not self._closed:  # for how long nobody knows
                    jobs = self.tickets.refuse(kind, frame.error, waited_only=True)
                    self._store_thread.submit(cancel_jobs, self.store, jobs)
            case Hello() | RowChanged() | Answered():
                pass  # the link's own

    def _job_event(self, kind: Kind, event: TicketEvent) -> None:
        job = event.job
        ticket = self.tickets.get(job)
        if isinstance(event, Started):
            self._started_jobs[kind].add(job)
            self.models.update(kind, busy=job)
        elif isinstance(event, End):
            self.tickets.remove(job)
            self._started_jobs[kind].discard(job)
            self.models.update(kind, busy=event.resumes)
            if event.seconds is not None:
                self._service_times[kind].job_ended(event.seconds)
        if ticket:
            ticket.push(event)
        if isinstance(event, End):
            self._report_end(JobEnded(job=job, kind=kind, state=event.state, waited=ticket is not None))

    def _report_end(self, ended: JobEnded) -> None:
        for callback in self._listeners:
            try:
                callback(ended)
            except Exception:
                logger.exception("a listener failed on the end of job %s", ended.job)

    async def _row_changed(self, job: str) -> None:
        """Another process changed this job's row: a job that it ended has no worker that would report it."""
        row = await self.in_thread(lambda: self.store.job(job))
        if row is None or not row.state.ended:
            return
        if ticket := self.tickets.remove(job):
            ticket.push(End(job=job, state=row.state))
        self._report_end(JobEnded(job=job, kind=row.kind, state=row.state, waited=ticket is not None))
