"""Accepts a small job on the event loop itself: handing it to a thread and back costs more than its transaction."""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from batch.queue.jobs import Draft
from batch.queue.store import WRITE_REFUSED, DamagedDatabase, DatabaseBusy, Lease, Store

T = TypeVar("T")

SLOW_WRITE_S = 0.02
"""A write that took the event loop longer tells that the disk makes writers wait: the first one after the log was copied into
the file waits until the new log's beginning is on the disk."""
PAUSE_S = 60.0
"""So long after such a write jobs are left to the thread, at least."""
PAUSE_RATIO = 1000
"""So many times as long as it took, if that is longer: a disk that is busy for long must not hold up the loop each minute."""


_counts = itertools.count()


def _count_waits() -> int:
    """How often this thread has waited for anything by itself: a write that took long and waited for nothing was kept from the
    core by others. Where nobody counts that, always another number."""
    if not hasattr(resource, "RUSAGE_THREAD"):  # macOS
        return next(_counts)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


class ImmediateWriter:
    """One a hub, on its event loop."""

    def __init__(self, store: Store, hand: Callable[[str, Lease], None]) -> None:
        """`store` is the hub's: one that many machines share, which answers over a network, has no connection for this. `hand`
        gives a worker a job that was leased to it."""
        self._hand = hand
        self._store = store.open_immediate()
        self._resumes_at = 0.0
        self._others = 0
        """Submissions that were handed to a thread and are not done."""

    def submit(self, draft: Draft, worker: str, told: Collection[str] = ()) -> bool:
        """Accept a job whose payload is a few kilobytes at most; False, and nothing done, where that would wait for somebody,
        would overtake an earlier job, or fails: the thread may do it, and report what is wrong. `worker`: one that seems to be
        idle, to which the job may be handed; empty: none. `told`: jobs that this one has ended and not written down."""
        started_at, waits = time.monotonic(), _count_waits()
        if self._store is None or self._others or started_at < self._resumes_at:
            return False
        lease = None
        try:
            if worker:
                lease = self._store.submit_to(worker, draft, told)
            else:
                self._store.submit(draft)
        except (DatabaseBusy, DamagedDatabase, *WRITE_REFUSED):
            return False
        finally:
            now = time.monotonic()
            if (duration := now - started_at) > SLOW_WRITE_S and _count_waits() != waits:
                self._resumes_at = now + max(PAUSE_S, PAUSE_RATIO * duration)
        if lease is not None:
            self._hand(worker, lease)
        return True

    async def leave(self, submission: Awaitable[T]) -> T:
        """Await what submits jobs in a thread; so go later ones meanwhile, as order of submission is order of arrival."""
        self._others += 1
        try:
            return await submission
        finally:
            self._others -= 1

    def close(self) -> None:
        """Accept nothing any more."""
        if self._store is not None:
            self._store.close()
            self._store = None
