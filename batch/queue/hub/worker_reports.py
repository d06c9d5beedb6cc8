"""What workers report: how their models are, and what becomes of the jobs they run."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Any, Protocol

from batch.model_kind import kind_of
from batch.payloads.events import Delta, Progress, PromptCounted, SegmentEnded, Started
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
from batch.queue.hub.model_state import UNKNOWN_WORKER, ModelStates
from batch.queue.hub.open_tickets import OpenTickets
from batch.queue.hub.retry_after import ServiceTimeEstimate
from batch.queue.jobs import Job

logger = logging.getLogger("batch.hub")

_BEAT_INTERVAL_S = 0.25
"""How old a sign of life may be before a token counts as a new one."""


class _StoreAccess(Protocol):
    """What is needed of the hub."""

    models: ModelStates
    tickets: OpenTickets

    async def read_job(self, job: str) -> Job | None: ...

    def refuse_waiting(self, queue: str, waiting: DiskWaiting) -> None: ...


class WorkerReports:
    """One a hub, on its event loop. Every worker has a state of its own: when one dies, the others' jobs are not touched."""

    def __init__(self, hub: _StoreAccess) -> None:
        self._hub = hub
        self._models, self._tickets = hub.models, hub.tickets
        self._started_jobs: dict[str, dict[str, int]] = {}
        """Of each worker the jobs whose start was heard and whose end was not, with their fencing tokens."""
        self._runner: dict[str, tuple[str, int]] = {}
        """Of each of those jobs the worker that runs it, and the token of its lease."""
        self._told: defaultdict[str, set[str]] = defaultdict(set)
        """Of each worker the jobs whose clients have their results and whose rows do not say so yet."""
        self._unreported: defaultdict[str, set[str]] = defaultdict(set)
        """Jobs whose worker on this machine died, maybe between their end and the report of it."""
        self.service_times: defaultdict[str, ServiceTimeEstimate] = defaultdict(ServiceTimeEstimate)
        self.listeners: list[Callable[[JobEnded], None]] = []
        self.job_started: Callable[[str, str], None] | None = None
        """Called with each job that a worker begins, and the worker."""

    async def worker_connected(self, hello: Hello) -> None:
        """A worker process of this machine lives, and its model is not loaded."""
        queue, worker = hello.queue, hello.worker
        self._models.update(queue, worker, pid=hello.pid, busy=None, beat=time.monotonic())
        if not self._models.of(queue, worker).is_crashing:
            self._models.update(queue, worker, status="loading", progress=0.0, error=None)
        # Its predecessor may have died between a job's end and the report of it.
        unreported = self._unreported[queue] | {ticket.id for ticket in self._tickets.of_queue(queue)}
        self._unreported[queue] = set()
        for job in unreported:
            await self.row_changed(job)

    def worker_gone(self, queue: str, worker: str) -> None:
        """A worker's stream has closed: its jobs' rows are looked at once its successor has put them in order."""
        self._unreported[queue] |= self._forget_jobs(worker)
        if self._models.of(queue, worker).status == "ready":
            self._models.update(queue, worker, status="loading", progress=0.0, pid=None, busy=None)

    def worker_left(self, queue: str, worker: str) -> set[str]:
        """A worker of another machine is gone for good. Returns the jobs that it had begun and whose end was not heard: nobody
        else remembers that they were its own."""
        jobs = self._forget_jobs(worker)
        self._models.remove(queue, worker)
        if not self._models.is_known(queue):
            self.service_times.pop(queue, None)
        return jobs

    def jobs_of(self, worker: str) -> set[str]:
        """The jobs that a worker has begun and not ended."""
        return set(self._started_jobs.get(worker, ()))

    def idle_worker(self, queue: str) -> tuple[str, Collection[str]]:
        """Id of a worker that runs no job, empty where there is none; and the jobs that it has yet to write down as ended."""
        worker = self._models.idle_worker(queue)
        return worker, self._told.get(worker, ())

    def _forget_jobs(self, worker: str) -> set[str]:
        self._told.pop(worker, None)
        jobs = set(self._started_jobs.pop(worker, ()))
        for job in jobs:
            if self._runner.get(job, (None, 0))[0] == worker:
                del self._runner[job]
        return jobs

    def receive(self, queue: str, frame: WorkerFrame, worker: str = UNKNOWN_WORKER) -> None:
        """Act on a worker's frame."""
        models = self._models
        match frame:
            case Delta() | Started() | End() | Progress() | PromptCounted() | SegmentEnded():  # the most frequent first
                # A job that makes progress is alive, whatever it reports.
                if (now := time.monotonic()) - models.of(queue, worker).beat > _BEAT_INTERVAL_S:
                    models.update(queue, worker, beat=now)
                self._job_event(queue, frame, worker)
            case Loading():
                if not models.of(queue, worker).is_crashing:
                    models.update(queue, worker, status="loading", progress=frame.progress)
            case Ready():
                ready: dict[str, Any] = {"status": "ready", "error": None, "is_crashing": False, "was_ready": True}
                models.update(queue, worker, progress=1.0, info=frame.info, **ready)
            case Broken():
                models.update(queue, worker, status="failed", error=frame.message)
            case Beat() | DiskWaiting():
                models.update(queue, worker, beat=time.monotonic())
                if isinstance(frame, DiskWaiting) and not models.has_another_ready(queue, worker):
                    self._hub.refuse_waiting(queue, frame)
            case Hello() | RowChanged() | Answered():
                pass  # the link's own

    def _job_event(self, queue: str, event: TicketEvent, worker: str) -> None:
        job = event.job
        if isinstance(event, Started):
            if self._is_outdated(job, worker, event.token):
                return
            self._started_jobs.setdefault(worker, {})[job] = event.token
            self._runner[job] = worker, event.token
            self._models.update(queue, worker, busy=job)
            if self.job_started is not None:
                self.job_started(job, worker)
        elif self._runner.get(job, (worker, 0))[0] != worker:
            return  # of an attempt that was taken from its worker
        ticket = self._tickets.get(job)
        end = event if isinstance(event, End) and event.is_written else None
        if isinstance(event, End) and end is None:
            self._told[worker].add(job)
            self._models.update(queue, worker, busy=event.resumes)
        if end is not None:
            self._tickets.remove(job)
            self._runner.pop(job, None)
            self._started_jobs.get(worker, {}).pop(job, None)
            # A job that was told runs no more since then: by now the worker may run another.
            busy = self._models.of(queue, worker).busy if job in self._told[worker] else end.resumes
            self._told[worker].discard(job)
            self._models.update(queue, worker, busy=busy, has_ended_jobs=True)
            if end.seconds is not None:
                self.service_times[queue].job_ended(end.seconds)
        if ticket:
            ticket.push(event)
        if end is not None:
            self._report_end(JobEnded(job=job, kind=kind_of(queue), state=end.state, waited=ticket is not None))

    def _is_outdated(self, job: str, worker: str, token: int) -> bool:
        """Whether a start was sent by a worker whose lease another one has taken over."""
        runner, newest = self._runner.get(job, (worker, 0))
        return runner != worker and token < newest

    def _report_end(self, ended: JobEnded) -> None:
        for callback in self.listeners:
            try:
                callback(ended)
            except Exception:
                logger.exception("a listener failed on the end of job %s", ended.job)

    async def row_changed(self, job: str) -> None:
        """Another process changed this job's row: a job that it ended has no worker that would report it."""
        row = await self._hub.read_job(job)
        if row is None or not row.state.ended:
            return
        if ticket := self._tickets.remove(job):
            ticket.push(End(job=job, state=row.state))
        if runner := self._runner.pop(job, None):
            self._started_jobs.get(runner[0], {}).pop(job, None)
            self._told.get(runner[0], set()).discard(job)
        self._report_end(JobEnded(job=job, kind=row.kind, state=row.state, waited=ticket is not None))
