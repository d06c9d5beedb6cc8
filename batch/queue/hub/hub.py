"""The supervisor's side of the queue: accepts jobs, hears the workers' events, and hands them to whoever waits."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import TypeVar, overload

import msgspec

from batch.errors import QueueFull, Unavailable
from batch.model_kind import model_of, queue_of
from batch.payloads.events import Started
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
from batch.queue.frames import DiskWaiting, End, JobEnded, WorkerFrame
from batch.queue.hub.hand_over import HandOver
from batch.queue.hub.immediate_writer import ImmediateWriter
from batch.queue.hub.job_outcome import read_patiently, result_in, result_of
from batch.queue.hub.model_state import ModelState, ModelStates
from batch.queue.hub.open_tickets import OpenTickets, cancel_jobs
from batch.queue.hub.remote_workers import RemoteWorkers
from batch.queue.hub.ticket import Ticket
from batch.queue.hub.worker_links import WorkerLinks
from batch.queue.hub.worker_reports import WorkerReports
from batch.queue.jobs import Draft, Job, Kind, State
from batch.queue.remote.channel import Channel
from batch.queue.spool import Spool
from batch.queue.store import DamagedDatabase, Held, Key, Store

T = TypeVar("T")
R = TypeVar("R", bound=Result)

SHUTTING_DOWN = "The service is shutting down: send the request again once it is back."


class Hub:
    """One a service. Everything but `in_thread` work runs on the event loop that called `start`."""

    def __init__(
        self,
        store: Store,
        spool: Spool,
        state_dir: Path,
        *,
        max_waiting: int = 1000,
        queues: Sequence[str] = tuple(Kind),
        channel: Channel | None = None,
        home: str = "",
        attempts: int = 3,
    ) -> None:
        """`max_waiting`: clients that may wait for one queue's jobs. `queues`: of this home's models. `channel` leads to the
        homes that share the store, of which this one is `home`; `attempts`: how often a job may take its worker down."""
        self.store = store
        self.spool = spool
        self.models = ModelStates(queues)
        self.model_wanted: Callable[[str], None] = lambda queue: None
        """Called when a job or a question came for a model that is not loaded."""
        self._max_waiting = max_waiting
        self._waker = Waker(state_dir)
        store.submitted = self._wake
        # One thread: the store serves one caller at a time anyway, and order of submission is order of arrival.
        self._store_thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="store")
        self._spool_threads = concurrent.futures.ThreadPoolExecutor(4, thread_name_prefix="spool")
        self.tickets = OpenTickets(keeps_drafts=channel is not None)
        self.reports = WorkerReports(self)
        self._links = WorkerLinks(
            state_dir,
            connected=self.reports.worker_connected,
            received=self._receive_or_forward,
            row_changed=self.reports.row_changed,
            gone=self.reports.worker_gone,
        )
        self._remote: RemoteWorkers | None = None
        if channel is not None:
            self._remote = RemoteWorkers(self, channel, self._links, self._waker, home=home, attempts=attempts)
        self._immediate = ImmediateWriter(store, HandOver(store, self.in_thread, self._waker, self.tickets).hand)
        self._closed = False

    async def start(self) -> None:
        """Listen for the workers. Raises StoreAway where the other homes cannot be reached."""
        await self._links.start()
        if self._remote is not None:
            await self._remote.start()

    async def close(self) -> None:
        """End every ticket and hang up on the workers; whatever is sent from now on is refused with Unavailable."""
        self._closed = True
        if self._remote is not None:
            await self._remote.stop()
        self.models.wake_waiting()
        self._links.close()
        self._immediate.close()
        for ticket in self.tickets.clear():
            ticket.push(End(job=ticket.id, state=State.CANCELLED, closing=True))
        self._store_thread.shutdown(wait=True)
        self._spool_threads.shutdown(wait=True)
        self._waker.close()

    # -- for endpoints and the folder

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Run a blocking store call off the event loop. Raises Unavailable once the service has ended."""
        return await self._in(self._store_thread, work)

    async def read_job(self, job: str) -> Job | None:
        """A job's row."""
        return await self.in_thread(lambda: self.store.job(job))

    async def _in(self, threads: concurrent.futures.Executor, work: Callable[[], T]) -> T:
        if self._closed:
            raise Unavailable(SHUTTING_DOWN)
        try:
            return await asyncio.get_running_loop().run_in_executor(threads, work)
        except DamagedDatabase as error:
            self.models.fail_all(error.message)
            raise

    async def submit(self, draft: Draft, *, durable: bool = False, is_small: bool = False) -> Ticket:
        """Accept a job; `is_small`: of a few kilobytes. Raises QueueFull when too many clients wait already, DiskFull, and
        Unavailable when its client would wait for a model that could not be loaded."""
        queue = draft.queue
        if draft.waited:
            self.models.refuse_if_failed(queue)
            self._refuse_if_full(queue)
        # Registered first: the job may have ended before the submitting thread is back.
        ticket = self.tickets.add(Ticket(self, draft.id, queue))
        try:
            if durable or not is_small or not self._immediate.submit(draft, *self.reports.idle_worker(queue)):
                await self._immediate.leave(self.in_thread(lambda: self.store.submit(self._routed(draft), durable=durable)))
        except BaseException:
            self.tickets.remove(draft.id)
            raise
        self.tickets.keep_drafts(draft)
        self._load(queue)
        return ticket

    def _routed(self, draft: Draft) -> Draft:
        """The draft, with the worker that it is kept for where several share its queue. Not for the event loop: it hashes."""
        return draft if self._remote is None else self._remote.affinity.route(draft)

    def _load(self, queue: str) -> None:
        """Have a model loaded that comes and goes with its jobs."""
        if self.models[queue].status == "unloaded":
            self.model_wanted(queue)

    async def submit_once(self, key: Key, drafts: Sequence[Draft]) -> tuple[list[Ticket], bool]:
        """As `submit`, under an Idempotency-Key: tickets, and whether they are those of an earlier request's jobs."""
        queue = drafts[0].queue
        self._refuse_if_full(queue)
        tickets = [self.tickets.add(Ticket(self, draft.id, draft.queue)) for draft in drafts]
        earlier_jobs: list[Held] = []
        try:
            submission = self.in_thread(lambda: self.store.submit_once(key, [*map(self._routed, drafts)]))
            earlier_jobs = await self._immediate.leave(submission)
        except BaseException:
            for ticket in tickets:
                self.tickets.remove(ticket.id)
            raise
        if not earlier_jobs:
            try:  # only now: what was done before is returned again, model or no model
                self.models.refuse_if_failed(queue)
            except Unavailable:
                for ticket in tickets:
                    await self.cancel(ticket.id)
                raise
            self.tickets.keep_drafts(*drafts)
            self._load(queue)
            return tickets, False
        for ticket in tickets:
            self.tickets.remove(ticket.id)
        return [await self._join(one, draft.queue) for one, draft in zip(earlier_jobs, drafts, strict=True)], True

    def _refuse_if_full(self, queue: str) -> None:
        if (waiting := self.tickets.waiting(queue)) >= self._max_waiting:
            seconds = self.reports.service_times[queue].refuse(waiting - self._max_waiting)
            raise QueueFull(f"{waiting} requests are waiting already: try again in {seconds} seconds.", retry_after=seconds)

    async def follow(self, job: str, queue: str) -> Ticket:
        """A ticket for a job that was submitted before, by this service or an earlier one; no client counts as waiting."""
        return await self._join(Held(job, State.QUEUED), queue, waited=False)

    async def _join(self, earlier: Held, queue: str, *, waited: bool = True) -> Ticket:
        first = self.tickets.get(earlier.job)
        ticket = Ticket(self, earlier.job, queue)
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

    async def turn_away(self, queue: str) -> None:
        """Refuse every client that waits for a model that could not be loaded: when it will be, nobody knows."""
        error = msgspec.Raw(encode(Unavailable(self.models[queue].error).record()))
        jobs = self.tickets.refuse(queue, error)
        await self.in_thread(lambda: cancel_jobs(self.store, jobs))

    async def cancel(self, job: str) -> State:
        """Cancel a job; the state after it. Raises NotFound."""
        state = await self.in_thread(lambda: self.store.cancel(job))
        if state is State.CANCELLED and (ticket := self.tickets.remove(job)):
            ticket.push(End(job=job, state=State.CANCELLED))
        self._wake({*Kind, *self.models.queues})
        return state

    def cancel_later(self, job: str) -> None:
        """Cancel a job once the database, which is away, is back: nobody waits for it any more."""
        if self._remote is not None:
            self._remote.jobs_to_cancel.add(job)

    async def jobs_ahead(self, job: str) -> int:
        """How many jobs stand before this one in its queue."""
        return await self.in_thread(lambda: self.store.ahead(job))

    async def outcome(self, job: str, type: type[R], end: End | None = None) -> R:
        """The result of an ended job as a struct of `type`, or its error raised."""
        if end and end.closing:
            raise Unavailable(SHUTTING_DOWN)
        result = result_in(end, type) if end else None
        if result is None:
            result = result_of(job, await read_patiently(lambda: self.read_job(job)), type)
        blob: str | None = getattr(result, "blob", None)
        if blob is not None and self._remote is not None:  # another machine's worker put it in
            await read_patiently(lambda: self.fetch(blob))
        return result

    @overload
    async def ask(self, queue: str, question: Tokenize, timeout: float = 60.0) -> Tokenized: ...
    @overload
    async def ask(self, queue: str, question: Detokenize, timeout: float = 60.0) -> Detokenized: ...
    @overload
    async def ask(self, queue: str, question: ApplyTemplate, timeout: float = 60.0) -> TemplateApplied: ...
    @overload
    async def ask(self, queue: str, question: CountTokens, timeout: float = 60.0) -> TokenCount: ...
    @overload
    async def ask(self, queue: str, question: ReadEngineMetrics, timeout: float = 60.0) -> EngineMetrics: ...
    async def ask(self, queue: str, question: Question, timeout: float = 60.0) -> Answer:
        """Put a question to a worker's engine; waits while the model loads, as a job would, and `timeout` seconds from
        then on. Raises its BatchError, or Unavailable."""
        while (worker := self._reachable_worker(queue)) is None:
            self.models.refuse_if_failed(queue)
            self._load(queue)
            if self._closed:
                raise Unavailable(SHUTTING_DOWN)
            await self.models.next_change().wait()
        if self._remote is not None and not self._links.is_connected(worker):
            return await self._remote.ask(worker, question, timeout)
        return await self._links.ask(worker, question, timeout)

    def queue_named(self, kind: Kind, requested: str | None) -> str:
        """The queue of the model that a request names; the kind's own where the settings give none of this kind that name."""
        queue = queue_of(kind, requested or "")
        return queue if queue in self.models.queues else kind

    def for_model(self, draft: Draft, requested: object) -> Draft:
        """The draft for the model that a request names, whatever stands there."""
        queue = self.queue_named(draft.kind, requested if isinstance(requested, str) else None)
        return dataclasses.replace(draft, model=model_of(queue)) if queue != draft.queue else draft

    def _reachable_worker(self, queue: str) -> str | None:
        """A worker that answers now, of this home if there is one."""
        ready = self.models.ready_workers(queue)
        own = next((worker for worker in ready if self._links.is_connected(worker)), None)
        return self._remote.reachable(queue) if own is None and self._remote is not None else own

    def model(self, queue: str) -> ModelState:
        """What is known of a kind's model now."""
        return self.models[queue]

    def worker_counts(self, queue: str) -> tuple[int, int]:
        """How many workers of a queue have their model loaded, on all machines, and how many of those work."""
        return self.models.counts(queue)

    def recorded_model(self, queue: str) -> ModelState:
        """What `batch status` can read of a kind's model by now: /health reports this one, so that the two never disagree."""
        return self.models.recorded(queue)

    def waiting_clients(self, queue: str) -> int:
        """How many clients wait for jobs of a queue."""
        return self.tickets.waiting(queue)

    def listen(self, callback: Callable[[JobEnded], None]) -> None:
        """Be called, on the event loop, for every job that ends."""
        self.reports.listeners.append(callback)

    async def keep(self, data: bytes, *, durable: bool = False) -> str:
        """Put bytes in the spool; returns their sha256."""
        return await self._in(self._spool_threads, lambda: self.spool.keep(data, durable=durable))

    async def keep_stream(self, chunks: AsyncIterator[bytes], *, durable: bool = False) -> tuple[str, int]:
        """Put an upload in the spool as it arrives; returns sha256 and size in bytes."""
        return await self.spool.keep_stream(chunks, durable=durable)

    def path(self, sha256: str) -> Path:
        """Where the spool keeps these bytes. In a thread: they may have to be brought here first. Raises StoreAway."""
        return self.spool.path(sha256)

    async def fetch(self, sha256: str) -> Path:
        """As `path`, on the event loop."""
        return self.path(sha256) if self._remote is None else await self._in(self._spool_threads, lambda: self.path(sha256))

    # -- from workers

    def _wake(self, queues: set[str]) -> None:
        for queue in queues:
            self._waker.wake(queue)
        if self._remote is not None:
            self._remote.wake(queues)

    def _receive_or_forward(self, queue: str, frame: WorkerFrame, worker: str) -> None:
        """A worker of this home may run a job that another one accepted."""
        if self._remote is None or not self._remote.relay.forward(queue, frame, worker):
            self.reports.receive(queue, frame, worker)

    def refuse_waiting(self, queue: str, waiting: DiskWaiting) -> None:
        """A kind's worker waits for the disk, for how long nobody knows: its clients are told so."""
        if not self._closed:
            jobs = self.tickets.refuse(queue, waiting.error, waited_only=True)
            self._store_thread.submit(cancel_jobs, self.store, jobs)
