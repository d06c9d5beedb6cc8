"""Workers that come and go: what is known of each, and the leases under which they hold jobs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from batch.queue.duties.duty_store import DutyStore
from batch.queue.jobs import Job, Kind, State

LEASE_S = 30.0
"""How long a worker's hold on a job lasts unless it is renewed, by the database's clock; an address may say otherwise."""
RENEWALS_PER_LEASE = 6
"""How often a lease is renewed within its length."""
FORGET_NODE_AFTER_S = 600.0
"""A worker that has not been heard of for so long is not listed any more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's hold on a running job."""

    job: Job
    token: int
    """Of this take, the fencing token: writes under an older one are refused."""
    front: str = ""
    """The service that accepted the job, to which its events go."""
    key: str = ""
    """Known to this worker and to services alone, where several machines share a queue: it proves the job's events."""


@dataclass(frozen=True, slots=True)
class WorkerSecret:
    """What a worker shows the database it shares with others, so that nobody else writes for its leases."""

    own: str
    """Random at the process's start."""
    predecessor: str = ""
    """Of the worker whose lock it holds now."""

    @property
    def id(self) -> str:
        """The worker's id."""
        return worker_id_of(self.own)

    @property
    def predecessor_id(self) -> str:
        """The dead worker's id; empty where there was none."""
        return worker_id_of(self.predecessor) if self.predecessor else ""


def worker_id_of(secret: str) -> str:
    """The id under which others know the worker that has a secret: a hash of it, from which nobody gets to the secret."""
    from hashlib import sha256  # here, as most commands need it not

    return sha256(secret.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What a worker learns when it renews its leases."""

    lost: frozenset[str]
    """Jobs that it does not hold any more."""
    cancelled: frozenset[str]
    """Jobs that somebody wants stopped."""
    is_draining: bool = False
    """Whether it should take nothing new."""
    is_known: bool = True
    """Whether it still has a row."""


@dataclass(frozen=True, slots=True)
class Node:
    """A worker process, as its row in the database tells of it."""

    id: str
    """Random at each start of the process: under it jobs are leased."""
    kind: Kind
    queue: str
    """The queue that it serves."""
    status: Literal["loading", "ready", "failed"] = "loading"
    model: str = ""
    """The model's name, once it is loaded."""
    build: str = ""
    """What decides which tokens a seed draws: model file, library and kind of device."""
    version: str = ""
    """Of batch."""
    info: str = ""
    """JSON of the model's ModelInfo, once it is loaded."""
    error: str = ""
    """One sentence, when failed."""
    home: str = ""
    """Random id of the home it was started in: through it questions reach the worker."""
    pid: int = 0
    started_at: float = 0.0
    """Unix time."""
    takes: Literal["all", "interactive"] = "all"
    """interactive: only requests whose clients wait, never bulk work."""
    prefixes: str = ""
    """JSON of what its prompt cache holds; see batch/queue/remote/prompt_prefix.py."""
    beat_age_s: float = 0.0
    """Read only: seconds since its last sign of life."""
    leases: int = 0
    """Read only: jobs it holds."""
    is_draining: bool = False
    """Read only: it takes nothing new."""


class NodeStore(DutyStore, Protocol):
    """The part of a store by which workers live beside one another. Only where it is shared leases that ran out are looked
    for."""

    def register(self, node: Node) -> None:
        """Write down what a worker is and how it is, and that it lives."""
        ...

    def leave(self, worker: str) -> None:
        """A worker has ended: its row goes."""
        ...

    def nodes(self) -> list[Node]:
        """All workers by kind and start, also those that have not been heard of for long."""
        ...

    def renew(self, worker: str, leases: Sequence[tuple[str, int]], *, prefixes: str | None = None) -> Renewal:
        """A worker lives, and keeps its (job, token) leases for `lease_s` from now on. `prefixes`: what its prompt cache holds
        by now, where that has changed."""
        ...

    def drain(self, worker: str, on: bool = True) -> None:
        """Let a worker end what it has and take nothing new, or again; it hears of it when it renews. Raises NotFound."""
        ...

    def take(
        self,
        queue: str,
        worker: str,
        *,
        above: float | None = None,
        batch_mate: Lease | None = None,
        limit: int = 1,
        waited_s: float = 0.0,
        passed_over: Callable[[float], None] | None = None,
    ) -> list[Lease]:
        """Lease the next jobs of a queue to a worker: most urgent first, then oldest; at most `limit`.

        `above`: only jobs of a higher priority. `batch_mate`: only what comes next as long as it is as urgent as this lease's
        job, of the same task, and was never taken before. Where workers share a queue, `waited_s`: only jobs that workers who
        are idle have had so long to take; and `passed_over` is told in how many seconds a job is free that is kept for others.
        """
        ...

    def reap(self, limit: int, *, batch: int = 100) -> list[tuple[str, State]]:
        """Put back up to `batch` jobs whose lease has run out, their attempt counted, and wake their queues; (job, new state)
        of all. A job that was taken `limit` times is failed, one that is to be cancelled is."""
        ...
