"""Workers that come and go: what is known of each, and the leases under which they hold jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from batch.queue.duties.duty_store import DutyStore
from batch.queue.jobs import Kind, Lease, State

if TYPE_CHECKING:
    from batch.queue.remote.proof import LeaseKeys

LEASE_S = 30.0
"""How long a worker's hold on a job lasts unless it is renewed, by the database's clock; an address may say otherwise."""
RENEWALS_PER_LEASE = 6
"""How often a lease is renewed within its length."""
FORGET_NODE_AFTER_S = 600.0
"""A worker that has not been heard of for so long is not listed any more."""
SHOWN_NODES = 20
"""So many workers are listed where people look often; of more the numbers are told."""
MAX_TOLD_QUEUES = 100
"""Of so many queues the numbers are told, in the order of their names; a service has at most 67."""
TOLD_CLOCK_DIFFERENCE_S = 2.0
"""Clocks that differ by so much are worth a word: times that people read are off by it, and nothing else."""
SHOWN_NODE_CHARS = 8
"""Of a node's id, where people read it."""

NodeState = Literal["failed", "silent", "draining", "loading", "ready"]
NODE_STATES: tuple[NodeState, ...] = ("failed", "silent", "draining", "loading", "ready")
"""Those that somebody may want to look at come first."""


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

    def state(self, silent_after_s: float) -> NodeState:
        """How it is in a word. `silent_after_s`: the length of a lease; infinite where a service has its store to itself, as
        its workers give no signs of life."""
        if self.beat_age_s > silent_after_s:
            return "silent"
        return "draining" if self.is_draining else self.status


@dataclass(frozen=True, slots=True)
class QueueNodes:
    """What the workers of one queue amount to."""

    queue: str
    states: Mapping[NodeState, int] = field(default_factory=dict)
    """How many workers are in each state; those without any are left out."""
    leases: int = 0
    """Jobs that they hold."""
    builds: int = 0
    """How many builds those have that are heard of: with more than one, a second attempt may draw other tokens."""
    beat_age_s: float = 0.0
    """Since the last sign of life of the one that has given none for the longest."""
    oldest_wait_s: float | None = None
    """How long ago the oldest job that waits, in a class that is not paused, was accepted; None where none waits."""


@dataclass(frozen=True, slots=True)
class NodeOverview:
    """The workers of all machines in a size that does not grow with their number."""

    nodes: list[Node]
    """The first of them, those in trouble before the others, without `info`."""
    queues: list[QueueNodes]
    """By name: those of the kinds and of all models that have workers or that a service knows by name."""
    clock_difference_s: float = 0.0
    """How far the database's clock is ahead of this machine's."""

    @property
    def count(self) -> int:
        """How many workers there are."""
        return sum(sum(queue.states.values()) for queue in self.queues)


class NodeStore(DutyStore, Protocol):
    """The part of a store by which workers live beside one another. Only where it is shared leases that ran out are looked
    for."""

    def lease_keys(self) -> LeaseKeys | None:
        """By what a front knows words of a job's worker; None where nobody else has the database."""
        ...

    def register(self, node: Node) -> None:
        """Write down what a worker is and how it is, and that it lives."""
        ...

    def leave(self, worker: str) -> None:
        """A worker has ended: its row goes."""
        ...

    def nodes(self) -> list[Node]:
        """All workers by kind and start, also those that have not been heard of for long."""
        ...

    def overview(self, limit: int = SHOWN_NODES) -> NodeOverview | None:
        """The workers of all machines, at most `limit` of them one by one. None where a service has its store to itself: the
        one worker of each queue is what the service tells of the model."""
        ...

    def workers_of(self, jobs: Sequence[str]) -> dict[str, str]:
        """The worker that holds, or that ended, each of up to 1,000 jobs: those of which that is known, and only where workers
        of other machines may be meant."""
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
