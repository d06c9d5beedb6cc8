"""The service's view of workers on other machines: their rows, their reports, the leases they lost, questions to them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

from batch.errors import BatchError, NotFound, Unavailable
from batch.payloads.chat import pictures_of
from batch.payloads.events import Delta, JobEvent
from batch.payloads.json_text import decode, decoder
from batch.payloads.model_info import AnyModelInfo
from batch.payloads.questions import ANSWER_TYPES, Answer, CountTokens, Question
from batch.queue.channel import Waker
from batch.queue.frames import ABSENT, Answered, Ask, End, RowChanged
from batch.queue.hub.model_state import UNKNOWN_WORKER, ModelStates
from batch.queue.hub.open_tickets import OpenTickets
from batch.queue.hub.worker_links import WorkerLinks
from batch.queue.hub.worker_reports import WorkerReports
from batch.queue.jobs import Kind, State
from batch.queue.latest import Latest
from batch.queue.nodes import Node
from batch.queue.remote.arrived_packets import ArrivedPackets
from batch.queue.remote.channel import Channel, Receiver
from batch.queue.remote.packet import ForWorker, FromWorker, Packet
from batch.queue.remote.proof import LeaseKeys
from batch.queue.remote.relay import Relay
from batch.queue.selection.job_filter import JobFilter
from batch.queue.spool import Spool
from batch.queue.store import Store

T = TypeVar("T")
logger = logging.getLogger("batch.hub")

_read_info: Callable[[bytes], AnyModelInfo] = decoder(AnyModelInfo)

LOOK_INTERVAL_S = 1.0
"""Between two looks at the workers' rows, at leases that ran out, and at jobs whose end nobody reported."""
_JITTER_S = 1.0
_MAX_JOBS_A_LOOK = 1000
_ANSWER_TIMEOUT_S = 60.0


class _Hub(Protocol):
    """What is needed of the hub."""

    store: Store
    spool: Spool
    models: ModelStates
    tickets: OpenTickets
    reports: WorkerReports

    async def in_thread(self, work: Callable[[], T]) -> T: ...

    async def turn_away(self, queue: str) -> None: ...

    async def cancel(self, job: str) -> State: ...


class RemoteWorkers:
    """One a hub whose store is shared, on its event loop."""

    def __init__(self, hub: _Hub, channel: Channel, links: WorkerLinks, waker: Waker, *, home: str, attempts: int) -> None:
        """`home`: this one's id; `attempts`: how often a job may take its worker down."""
        self._hub, self._channel, self._links, self._waker = hub, channel, links, waker
        self._home, self._attempts = home, attempts
        self.relay = Relay(channel, home, links.ask)
        self._nodes: dict[str, Node] = {}
        """Workers of other homes that live, by id."""
        self._heard_of: set[tuple[str, str]] = set()
        """Those and the ones that sent something."""
        self._arrived = ArrivedPackets()
        self._keys: LeaseKeys | None = None
        self._last_frames = Latest[str, tuple[int, int]]()
        """(token, number) of the last frame, by job."""
        self._has_met_forgery = False
        self._gapped_jobs = Latest[str, None]()
        """Jobs of which words were lost: the rest is taken from the result."""
        self._pending: dict[int, asyncio.Future[Answered]] = {}
        self._has_lost_packets = False
        self._ended_jobs: set[str] = set()
        """Jobs whose row said at the last look that they have ended, though nobody had reported it."""
        self._left_jobs: set[str] = set()
        """Those of workers that have gone since the last look, of which no end was heard."""
        self._reported_jobs = Latest[str, None]()
        """Of late, without their worker's report."""
        self.jobs_to_cancel: set[str] = set()
        """Whose clients hung up while the database was away."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_away = False
        from batch.queue.hub.prefix_affinity import PrefixAffinity  # here, as a home with its file to itself has no use for it

        self.affinity = PrefixAffinity(hub.reports.jobs_of, hub.store.lease_s)
        hub.reports.job_started = self.affinity.started

    # -- life

    async def start(self) -> None:
        """Listen to the other homes, and look after what they leave."""
        loop = asyncio.get_running_loop()

        def receiver(work: Callable[..., None]) -> Callable[..., None]:
            def call(*arguments: Any) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(work, *arguments)

            return call

        self._keys = await self._hub.in_thread(self._hub.store.lease_keys)
        packets, gap = receiver(self._receive), receiver(self._reconnected)
        await asyncio.to_thread(self._channel.open, Receiver(packets, self._waker.wake, gap))
        self._spawn(self._look_after_all())

    async def stop(self) -> None:
        """Stop looking, and hang up."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._channel.close)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- what is asked and woken

    def wake(self, queues: set[str]) -> None:
        """Let the workers of other machines look."""
        self._channel.wake(queues)

    def reachable(self, queue: str) -> str | None:
        """A worker of another machine that answers, an idle one if there is one."""
        return next((worker for worker in self._hub.models.ready_workers(queue) if worker in self._nodes), None)

    async def ask(self, worker: str, question: Question, timeout_s: float) -> Answer:
        """Put a question to a worker of another machine. Raises its BatchError, or Unavailable."""
        node, number = self._nodes[worker], secrets.randbits(53)  # nobody who was not asked can answer
        if isinstance(question, CountTokens) and (pictures := pictures_of(question.payload)):
            await asyncio.to_thread(self._hub.spool.share, pictures)
        future: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()
        self._pending[number] = future
        try:
            asked = Ask(number=number, question=question)
            self._channel.send(node.home, ForWorker(home=self._home, worker=worker, queue=node.queue, ask=asked))
            async with asyncio.timeout(timeout_s):
                answered = await future
        except TimeoutError:
            raise Unavailable(f"The worker did not answer within {timeout_s:.0f} seconds; try again.") from None
        finally:
            del self._pending[number]
        if answered.error is not ABSENT:
            raise BatchError.from_record(decode(bytes(answered.error), dict[str, Any]))
        return decode(bytes(answered.answer), ANSWER_TYPES[type(question)])

    # -- what arrives

    def _receive(self, packet: Packet) -> None:
        if not self._arrived.add(packet):
            return
        for item in packet.items:
            if isinstance(item, ForWorker):
                self._spawn(self.relay.answer(item, _ANSWER_TIMEOUT_S))
            else:
                self._receive_frame(item)

    def _receive_frame(self, item: FromWorker) -> None:
        frame, reports = item.frame, self._hub.reports
        if isinstance(frame, RowChanged):
            self._spawn(self._safely(reports.row_changed(frame.job)))
        elif isinstance(frame, Answered):
            future = self._pending.get(frame.number)
            if future and not future.done():
                future.set_result(frame)
        elif isinstance(frame, JobEvent | End) and not (self._is_proven(item, frame) and self._is_new(item, frame)):
            if isinstance(frame, End):  # whoever says it: the row knows
                self._spawn(self._safely(reports.row_changed(frame.job)))
        elif isinstance(frame, End):
            self._gapped_jobs.pop(frame.job, None)
            self._spawn(self._safely(self._end(item.queue, frame, item.worker)))
        elif isinstance(frame, JobEvent) and not (isinstance(frame, Delta) and frame.job in self._gapped_jobs):
            self._heard_of.add((item.queue, item.worker))
            reports.receive(item.queue, frame, item.worker)

    def _is_proven(self, item: FromWorker, frame: JobEvent | End) -> bool:
        """Whether a job's frame comes from the worker that has its lease."""
        if self._keys is None or self._keys.prove(item, frame.job):
            return True
        if not self._has_met_forgery:
            logger.warning("words for job %s are passed over: they come from nobody that has its lease", frame.job)
        self._has_met_forgery = True
        return False

    def _is_new(self, item: FromWorker, frame: JobEvent | End) -> bool:
        """Whether a job's frame comes for the first time, and from its newest attempt. A missing one before it is noted."""
        token, number = self._last_frames.get(frame.job, (0, 0))
        if (item.token, item.number) <= (token, number):
            return False
        if item.number != (number + 1 if item.token == token else 1):
            self._gapped_jobs[frame.job] = None
        self._last_frames[frame.job] = (item.token, item.number)
        return True

    async def _end(self, queue: str, end: End, worker: str) -> None:
        """An end is believed from the job's row."""
        if end.job in self._reported_jobs:
            return
        row = await self._hub.in_thread(lambda: self._hub.store.job(end.job))
        if row is None or row.state.ended:
            state = State.CANCELLED if row is None else row.state
            self._hub.reports.receive(queue, End(job=end.job, state=state, resumes=end.resumes, seconds=end.seconds), worker)

    async def _safely(self, work: Any) -> None:
        try:
            await work
        except BatchError as error:  # the next look finds it
            logger.warning("an end could not be looked up: %s", error.message)

    def _reconnected(self) -> None:
        self._has_lost_packets = True  # ends among them; a lost word shows by its job's next number

    # -- what is looked after

    async def _look_after_all(self) -> None:
        while True:
            try:
                await self._look()
                self._is_away = False
            except BatchError as error:
                if not self._is_away:
                    logger.error("the other workers cannot be seen: %s", error.message)
                self._is_away = True
            except Exception:
                logger.exception("a look at the other workers failed; the next one comes soon")
            await asyncio.sleep(LOOK_INTERVAL_S + random.random() * _JITTER_S)

    async def _look(self) -> None:
        hub = self._hub
        nodes = await hub.in_thread(self._read_nodes)
        lease_s = hub.store.lease_s
        self._refresh([node for node in nodes if node.home != self._home and node.beat_age_s < lease_s])
        returned = await hub.in_thread(lambda: hub.store.reap(self._attempts))
        for job, state in returned:
            logger.warning("job %s was left by a worker that is not heard of any more: %s", job, state)
            self._left_jobs.discard(job)
            if state.ended:
                await hub.reports.row_changed(job)
                self.relay.report_ended(job, Kind.VLM)
        for job in list(self.jobs_to_cancel):
            with contextlib.suppress(NotFound):
                await hub.cancel(job)
            self.jobs_to_cancel.discard(job)
        await self._look_at_tickets()
        if self._has_lost_packets:
            self._has_lost_packets = False
            ended = JobFilter(states=(State.DONE, State.FAILED, State.CANCELLED))
            newest = await hub.in_thread(lambda: hub.store.summary_page(ended, _MAX_JOBS_A_LOOK).rows)
            for summary in newest:
                self._reported_jobs[summary.id] = None
                await hub.reports.row_changed(summary.id)

    def _read_nodes(self) -> list[Node]:
        nodes = self._hub.store.nodes()
        self.affinity.refresh(nodes)
        return nodes

    def _refresh(self, nodes: list[Node]) -> None:
        """Bring the models' states to what the rows of living workers say."""
        models, alive = self._hub.models, {node.id: node for node in nodes}
        had_failed = {queue for queue in models.queues if models[queue].status == "failed"}
        for node in nodes:
            self._heard_of.add((node.queue, node.id))
            if self._nodes.get(node.id, node) is node or self._nodes[node.id].status != node.status:
                info = _read_info(node.info.encode()) if node.info else None
                models.update(node.queue, node.id, status=node.status, error=node.error or None, info=info)
                models.give_place(node.queue, UNKNOWN_WORKER)
        self._nodes = alive
        for queue, worker in [entry for entry in self._heard_of if entry[1] not in alive]:
            self._heard_of.discard((queue, worker))
            self._left_jobs |= self._hub.reports.worker_left(queue, worker)
        for queue in models.queues:
            if models[queue].status == "failed" and queue not in had_failed:
                self._spawn(self._safely(self._hub.turn_away(queue)))

    async def _look_at_tickets(self) -> None:
        """Ends that nobody reported, and jobs whose commit was lost with the database's last second."""
        hub, ended = self._hub, set[str]()
        jobs = [*hub.tickets.ids(), *(job for _, worker in self._heard_of for job in hub.reports.jobs_of(worker))]
        jobs = list(dict.fromkeys([*jobs, *self._left_jobs]))
        for at in range(0, len(jobs), _MAX_JOBS_A_LOOK):
            part = jobs[at : at + _MAX_JOBS_A_LOOK]
            states = await hub.in_thread(partial(hub.store.states, part))
            for job in part:
                ticket = hub.tickets.get(job)
                if job not in states:
                    if ticket is not None and ticket.draft is not None:
                        logger.warning("job %s is submitted again: the database lost it", job)
                        await hub.in_thread(partial(hub.store.submit, ticket.draft))
                elif states[job].ended:
                    ended.add(job)
        # Twice, as the report of it may just be on its way; but of those that are gone none will come.
        for job in ended & (self._ended_jobs | self._left_jobs):
            self._reported_jobs[job] = None
            await hub.reports.row_changed(job)
        self._ended_jobs, self._left_jobs = ended, set()
