"""GET /metrics: Prometheus text, counted from the jobs that end while this service runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque

from fastapi import APIRouter, FastAPI, Request
from starlette.responses import Response

from batch.api.generation.jobs import hub_of
from batch.api.server.node_gauges import NodeGauges
from batch.errors import BatchError
from batch.metrics import Metrics
from batch.payloads.job_payload import Result, decode_result
from batch.payloads.questions import EngineMetrics, ReadEngineMetrics
from batch.queue.frames import JobEnded
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.latest import Latest
from batch.queue.reading.ended_jobs import EndedJob, read_ended_jobs

router = APIRouter()
logger = logging.getLogger("batch.api")

READ_DELAY_S = 1.0
"""Ended jobs are read together, this long after the first: counting must not slow the queue."""
ENGINE_TIMEOUT_S = 1.0


class EndedJobCounter:
    """Counts the ended jobs of one kind, read over a connection that writes nothing."""

    def __init__(self, hub: Hub, kind: Kind) -> None:
        self.metrics = Metrics(kind.value)
        self.started_at = time.time()
        self._kind = kind
        self._hub = hub
        self.nodes = NodeGauges(self.metrics.registry, hub, kind) if hub.store.is_shared else None
        self._unread: deque[str] = deque()
        self._ends = Latest[str, float | None]() if hub.store.is_shared else None
        """When the jobs that were counted last had ended: where machines share a database an end may be told more than once."""
        self._reading = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        hub.listen(self._note_end)

    def _note_end(self, ended: JobEnded) -> None:
        if ended.kind is not self._kind:
            return
        self._unread.append(ended.job)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(READ_DELAY_S, self._start_reading)

    def _start_reading(self) -> None:
        self._timer = None
        self._task = asyncio.ensure_future(self._read_safely())

    async def _read_safely(self) -> None:
        try:
            await self.read()
        except Exception:
            logger.exception("ended jobs could not be counted")

    async def read(self) -> None:
        """Count every job that has ended so far."""
        async with self._reading:
            jobs = [self._unread.popleft() for _ in range(len(self._unread))]
            for row, result in await asyncio.to_thread(self._rows, jobs) if jobs else []:
                if self._ends is not None and self._is_counted(self._ends, row):
                    continue
                wait = row.started_at - row.created_at if row.started_at else None
                latency = row.finished_at - row.created_at if row.finished_at else None
                self.metrics.ended(row.state, row.origin, wait=wait, latency=latency, result=result)

    @staticmethod
    def _is_counted(ends: dict[str, float | None], row: EndedJob) -> bool:
        """Whether this very end was counted before; it is from now on."""
        if row.id in ends and ends[row.id] == row.finished_at:
            return True
        ends[row.id] = row.finished_at
        return False

    def _rows(self, jobs: list[str]) -> list[tuple[EndedJob, Result | None]]:
        with contextlib.closing(self._hub.store.open_reader()) as store:
            return [(row, _result(row)) for row in read_ended_jobs(store, jobs)]


def _result(row: EndedJob) -> Result | None:
    try:
        return None if row.result_json is None else decode_result(row.task, row.result_json)
    except (ValueError, KeyError, RecursionError):  # of another version: it is counted all the same
        return None


def count_ended_jobs(app: FastAPI) -> EndedJobCounter:
    """Start to count the jobs of an app's kind; a second call gives the same counter."""
    if getattr(app.state, "counter", None) is None:
        app.state.counter = EndedJobCounter(app.state.hub, app.state.kind)
    counter: EndedJobCounter = app.state.counter
    return counter


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """llama-server's counters and gauges, histograms of queue wait and latency, and the workers of all machines."""
    hub, kind = hub_of(request), request.app.state.kind
    counter = count_ended_jobs(request.app)
    await counter.read()
    if counter.nodes is not None:
        await counter.nodes.refresh()
    workers, busy = hub.worker_counts(kind)
    waiting = max(0, hub.waiting_clients(kind) - busy)
    engine = EngineMetrics()
    if workers and kind is Kind.VLM:
        # A page without the worker's own figures is better than none, also where one is ready that cannot be reached.
        with contextlib.suppress(BatchError, TimeoutError):
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                engine = await hub.ask(kind, ReadEngineMetrics(), timeout=ENGINE_TIMEOUT_S)
    page = counter.metrics.page(processing=busy, deferred=waiting, workers=workers, engine=engine)
    headers = {"Process-Start-Time-Unix": str(int(counter.started_at))}
    return Response(page, media_type="text/plain; version=0.0.4", headers=headers)
