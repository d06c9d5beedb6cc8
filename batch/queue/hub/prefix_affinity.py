"""Where several workers share the chat model's queue: a request goes first to the one whose prompt cache holds most of it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from batch.queue.jobs import Draft, Priority
from batch.queue.nodes import LEASE_S, Node
from batch.queue.remote.prompt_prefix import HeldPrefixes, PromptPrefix, ends_of, prefixes_of, read_held

MAX_HOLD_S = 0.5
"""A request is kept for a worker no longer than this, and no longer than computing the rest of its prompt would take."""
MAX_BEHIND_JOBS = 2
"""A worker with so many more jobs than the least busy one gets no request for its prompt cache's sake."""
_MIN_HOLD_S = 0.01
_MAX_WAITING_PROMPTS = 1024
_MAX_SEEN_PREFIXES = 8192
_SEEN_FOR_S = LEASE_S / 2
"""So long a prefix counts as held because a worker was heard to compute it; then only what it reports itself counts."""


@dataclass(slots=True)
class _Worker:
    """One that could take requests, as its row said at the last look."""

    id: str
    queue: str
    leases: int
    report: str
    """What it says that its prompt cache holds."""
    held: HeldPrefixes

    @property
    def s_per_byte(self) -> float:
        """Seconds that a byte of prompt takes it; 0: not known."""
        return self.held.ms_per_kib / 1024 / 1000


class PrefixAffinity:
    """One a hub. Methods may be called from any thread. A request costs what its own turns cost, however many workers there
    are."""

    def __init__(self, jobs_of: Callable[[str], Collection[str]], lease_s: float = LEASE_S) -> None:
        """`jobs_of`: the jobs that a worker has begun and not ended, as far as they were heard of; `lease_s`: how long leases
        last, within which a worker is heard of several times."""
        self._silent_after_s = lease_s / 2
        self._jobs_of = jobs_of
        self._lock = threading.Lock()
        self._workers: dict[str, _Worker] = {}
        self._queues: dict[str, set[str]] = {}
        """The workers of each queue."""
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        """Of each digest the workers that report it."""
        self._prompts: OrderedDict[str, list[str]] = OrderedDict()
        """The prefixes of jobs that were submitted here and have not begun."""
        self._kept: dict[str, str] = {}
        """Jobs that are kept for a worker and have not begun, as far as is known."""
        self._kept_until: defaultdict[str, dict[str, float]] = defaultdict(dict)
        """Those of each worker, and until when (time.monotonic())."""
        self._seen: OrderedDict[str, dict[str, float]] = OrderedDict()
        """When each digest was computed by a job that was submitted here, by worker."""

    def refresh(self, nodes: Iterable[Node]) -> None:
        """These are the workers' rows now."""
        with self._lock:
            alive = {
                node.id: node
                for node in nodes
                if node.status == "ready" and not node.is_draining and node.beat_age_s < self._silent_after_s
            }
            for worker in [worker for worker in self._workers if worker not in alive]:
                self._forget(self._workers.pop(worker))
            queues: dict[str, set[str]] = {}
            for node in alive.values():
                queues.setdefault(node.queue, set()).add(node.id)
                self._update(node)
            self._queues = queues
            self._forget_old(time.monotonic())

    def _update(self, node: Node) -> None:
        worker = self._workers.get(node.id)
        if worker is not None and worker.report == node.prefixes:
            worker.leases = node.leases
            return
        if worker is not None:
            self._forget(worker)
        held = read_held(node.prefixes) if node.prefixes else HeldPrefixes()
        self._workers[node.id] = _Worker(node.id, node.queue, node.leases, node.prefixes, held)
        for digest in held.digests:
            self._holders[digest].add(node.id)

    def _forget(self, worker: _Worker) -> None:
        for digest in worker.held.digests:
            self._holders[digest].discard(worker.id)
            if not self._holders[digest]:
                del self._holders[digest]

    def _forget_old(self, now: float) -> None:
        for worker in list(self._kept_until):
            if not self._kept_count(worker, now):
                del self._kept_until[worker]
        while self._seen and max(next(iter(self._seen.values())).values()) < now - _SEEN_FOR_S:
            self._seen.popitem(last=False)

    def started(self, job: str, worker: str) -> None:
        """A worker has begun a job: it holds that prompt from now on, before it says so itself."""
        with self._lock:
            if holder := self._kept.pop(job, None):
                self._kept_until[holder].pop(job, None)
            for digest in self._prompts.pop(job, ()):
                self._seen.setdefault(digest, {})[worker] = time.monotonic()
                self._seen.move_to_end(digest)
            while len(self._seen) > _MAX_SEEN_PREFIXES:
                self._seen.popitem(last=False)

    def route(self, draft: Draft) -> Draft:
        """The draft, with the worker that it is kept for, where one has computed so much of its prompt that waiting pays."""
        if draft.priority < Priority.INTERACTIVE or len(self._queues.get(draft.queue, ())) < 2:
            return draft
        if not (prefixes := prefixes_of(draft.payload)):
            return draft
        with self._lock:
            self._prompts[draft.id] = ends_of(prefixes)
            while len(self._prompts) > _MAX_WAITING_PROMPTS:
                self._prompts.popitem(last=False)
            worker, saved_s = self._best(self._queues.get(draft.queue, set()), prefixes)
            if worker is None or saved_s < _MIN_HOLD_S:
                return draft
            hold_s = min(MAX_HOLD_S, saved_s)
            self._kept[draft.id] = worker.id
            self._kept_until[worker.id][draft.id] = time.monotonic() + hold_s
        return replace(draft, holder=worker.id, hold_s=hold_s)

    def _best(self, workers: set[str], prefixes: Sequence[PromptPrefix]) -> tuple[_Worker | None, float]:
        """Who has computed most of a prompt, of several the least busy, and the seconds that this saves against the worker that
        holds least of it: where all hold the same, nobody is waited for."""
        best: _Worker | None = None
        most_bytes = least_bytes = 0
        covered: set[str] = set()
        for prefix in reversed(prefixes):
            holders = self._holders_of(prefix.digest) & workers
            if holders and best is None:
                best = self._workers[min(holders, key=self._jobs)]
                most_bytes = prefix.size
            covered |= holders
            if len(covered) == len(workers):
                least_bytes = prefix.size
                break
        if best is None or self._is_far_behind(best, workers):
            return None, 0.0
        return best, (most_bytes - least_bytes) * best.s_per_byte

    def _holders_of(self, digest: str) -> set[str]:
        return self._holders.get(digest, set()) | self._seen.get(digest, {}).keys()

    def _is_far_behind(self, worker: _Worker, workers: set[str]) -> bool:
        jobs = self._jobs(worker.id) - MAX_BEHIND_JOBS
        return jobs > 0 and any(self._jobs(other) < jobs for other in workers)

    def _jobs(self, worker: str) -> int:
        """How many jobs a worker has, and will have soon."""
        kept = self._kept_count(worker, time.monotonic()) if worker in self._kept_until else 0
        return max(self._workers[worker].leases, len(self._jobs_of(worker))) + kept

    def _kept_count(self, worker: str, now: float) -> int:
        kept = self._kept_until[worker]
        for job in [job for job, until in kept.items() if until <= now]:
            del kept[job]
            self._kept.pop(job, None)
        return len(kept)
