"""What /metrics tells of the workers of all machines, where machines share a database."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Gauge

from batch.errors import BatchError
from batch.model_kind import is_queue, kind_of
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.nodes import NODE_STATES, NodeOverview

READ_INTERVAL_S = 1.0
"""However often the metrics are asked for, the database is not asked more often."""


class NodeGauges:
    """Gauges of one kind's queues, of which there are at most as many as `MAX_TOLD_QUEUES` times the states of a worker."""

    def __init__(self, registry: CollectorRegistry, hub: Hub, kind: Kind) -> None:
        self._hub = hub
        self._kind = kind
        self._next_read_at = 0.0
        self._nodes = Gauge("batch:nodes", "Workers of all machines by state", ["queue", "state"], registry=registry)
        self._jobs = Gauge("batch:node_jobs", "Jobs that the workers of all machines hold", ["queue"], registry=registry)
        self._builds = Gauge(
            "batch:node_builds",
            "Different builds (model file, library, device) among the workers",
            ["queue"],
            registry=registry,
        )
        self._silence = Gauge(
            "batch:node_silence_seconds",
            "Time since the last sign of life of the worker that has given none for the longest",
            ["queue"],
            registry=registry,
        )
        self._wait = Gauge(
            "batch:queue_oldest_wait_seconds",
            "How long the oldest waiting job of a class that is not paused has waited; 0 where none waits",
            ["queue"],
            registry=registry,
        )
        # A label that never differs: a gauge without any would say 0 while nothing is known.
        self._clock = Gauge(
            "batch:database_clock_difference_seconds",
            "How far the database's clock is ahead of this machine's",
            ["database"],
            registry=registry,
        )

    async def refresh(self) -> None:
        """Read the numbers anew. What cannot be read is told of nobody, rather than as it was."""
        if time.monotonic() < self._next_read_at:
            return
        self._next_read_at = time.monotonic() + READ_INTERVAL_S
        try:
            overview = await self._hub.in_thread(lambda: self._hub.store.overview(0))
        except BatchError:
            overview = None
        self._show(overview)

    def _show(self, overview: NodeOverview | None) -> None:
        for gauge in (self._nodes, self._jobs, self._builds, self._silence, self._wait, self._clock):
            gauge.clear()
        if overview is None:
            return
        self._clock.labels("postgresql").set(overview.clock_difference_s)
        for queue in overview.queues:
            if not is_queue(queue.queue) or kind_of(queue.queue) is not self._kind:
                continue
            for state in NODE_STATES:
                self._nodes.labels(queue.queue, state).set(queue.states.get(state, 0))
            self._jobs.labels(queue.queue).set(queue.leases)
            self._builds.labels(queue.queue).set(queue.builds)
            self._silence.labels(queue.queue).set(queue.beat_age_s)
            self._wait.labels(queue.queue).set(queue.oldest_wait_s or 0.0)
