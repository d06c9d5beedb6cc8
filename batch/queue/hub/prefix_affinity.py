"""Where several workers share the chat model's queue: a request goes first to the one whose prompt cache holds most of it."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from batch.queue.jobs import Draft, Priority
from batch.queue.nodes import LEASE_S, Node
from batch.queue.remote.prompt_prefix import PromptPrefix, ends_of, prefixes_of, read_held

MAX_HOLD_S = 0.5
"""A request is kept for a worker no longer than this, and no longer than computing the rest of its prompt would take."""
MAX_BEHIND_JOBS = 2
"""A worker with so many more jobs than the least busy one gets no request for its prompt cache's sake."""
_MIN_HOLD_S = 0.01
_MAX_WAITING_PROMPTS = 1024
_MAX_SEEN_PREFIXES = 8192
_SEEN_FOR_S = LEASE_S / 2
"""So long a prefix counts as held because a worker was heard to compute it; then only what it reports itself counts."""


@dataclass(frozen=True, slots=True)
class _Worker:
    """One that could take a request."""

    id: str
    leases: int
    """Jobs it held at the last look."""
    s_per_byte: float
    """Seconds that a byte of prompt takes it; 0: not known."""
    digests: frozenset[str]


class PrefixAffinity:
    """One a hub. Methods may be called from any thread."""

    def __init__(self, jobs_of: Callable[[str], Collection[str]], lease_s: float = LEASE_S) -> None:
        """`jobs_of`: the jobs that a worker has begun and not ended, as far as they were heard of; `lease_s`: how long leases
        last, within which a worker is heard of several times."""
        self._silent_after_s = lease_s / 2
        self._jobs_of = jobs_of
        self._lock = threading.Lock()
        self._workers: dict[str, list[_Worker]] = {}
        """By queue, where there are two or more."""
        self._prompts: OrderedDict[str, list[str]] = OrderedDict()
        """The prefixes of jobs that were submitted here and have not begun."""
        self._kept: dict[str, tuple[str, float]] = {}
        """Jobs that are kept for a worker and have not begun: which, and until when (time.monotonic())."""
        self._seen: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When (worker, digest) was computed by a job that was submitted here."""

    def refresh(self, nodes: Iterable[Node]) -> None:
        """These are the workers' rows now."""
        queues: defaultdict[str, list[_Worker]] = defaultdict(list)
        for node in nodes:
            if node.status == "ready" and not node.is_draining and node.beat_age_s < self._silent_after_s:
                held = read_held(node.prefixes) if node.prefixes else None
                s_per_byte = held.ms_per_kib / 1024 / 1000 if held else 0.0
                digests = frozenset(held.digests) if held else frozenset()
                queues[node.queue].append(_Worker(node.id, node.leases, s_per_byte, digests))
        now = time.monotonic()
        with self._lock:
            self._workers = {queue: workers for queue, workers in queues.items() if len(workers) > 1}
            self._kept = {job: kept for job, kept in self._kept.items() if kept[1] > now}
            while self._seen and next(iter(self._seen.values())) < now - _SEEN_FOR_S:
                self._seen.popitem(last=False)

    def started(self, job: str, worker: str) -> None:
        """A worker has begun a job: it holds that prompt from now on, before it says so itself."""
        with self._lock:
            self._kept.pop(job, None)
            for digest in self._prompts.pop(job, ()):
                self._seen[worker, digest] = time.monotonic()
                self._seen.move_to_end((worker, digest))
            while len(self._seen) > _MAX_SEEN_PREFIXES:
                self._seen.popitem(last=False)

    def route(self, draft: Draft) -> Draft:
        """The draft, with the worker that it is kept for, where one has computed so much of its prompt that waiting pays."""
        workers = self._workers.get(draft.queue)
        if workers is None or draft.priority < Priority.INTERACTIVE or not (prefixes := prefixes_of(draft.payload)):
            return draft
        with self._lock:
            self._prompts[draft.id] = ends_of(prefixes)
            while len(self._prompts) > _MAX_WAITING_PROMPTS:
                self._prompts.popitem(last=False)
            worker, saved_s = self._best(workers, prefixes)
            if worker is None or saved_s < _MIN_HOLD_S:
                return draft
            hold_s = min(MAX_HOLD_S, saved_s)
            self._kept[draft.id] = worker.id, time.monotonic() + hold_s
        return replace(draft, holder=worker.id, hold_s=hold_s)

    def _best(self, workers: Sequence[_Worker], prefixes: Sequence[PromptPrefix]) -> tuple[_Worker | None, float]:
        """Who has computed most of a prompt, of several the least busy, and the seconds that this saves against the worker that
        holds least of it: where all hold the same, nobody is waited for."""
        busy = {worker.id: self._jobs(worker) for worker in workers}
        saved = {worker.id: self._held_bytes(worker, prefixes) * worker.s_per_byte for worker in workers}
        best = max(workers, key=lambda worker: (saved[worker.id], -busy[worker.id]))
        if busy[best.id] - min(busy.values()) > MAX_BEHIND_JOBS:
            return None, 0.0
        return best, saved[best.id] - min(saved.values())

    def _held_bytes(self, worker: _Worker, prefixes: Sequence[PromptPrefix]) -> int:
        return next(
            (p.size for p in reversed(prefixes) if p.digest in worker.digests or (worker.id, p.digest) in self._seen), 0
        )

    def _jobs(self, worker: _Worker) -> int:
        """How many jobs a worker has, and will have soon."""
        now = time.monotonic()
        kept = sum(holder == worker.id and until > now for holder, until in self._kept.values())
        return max(worker.leases, len(self._jobs_of(worker.id))) + kept
