"""When a client that found no place in a queue should come back."""

from __future__ import annotations

import time
from collections import deque

LONGEST_RETRY_S = 120
_MEASURED_JOBS = 50
_MAX_OPEN_REFUSALS = 10_000


class ServiceTimeEstimate:
    """How fast one queue's jobs ended of late, from which each refused client gets a Retry-After of its own."""

    def __init__(self) -> None:
        self._service_times_s: deque[float] = deque(maxlen=_MEASURED_JOBS)
        """How long each of the last jobs kept the worker from the next."""
        self._last_end = 0.0
        self._open_refusals = 0
        """Clients that were refused, less the places that have become free since."""

    def job_ended(self, seconds: float) -> None:
        """A job ended that ran for `seconds`, maybe in a batch with others: those share the time."""
        now = time.monotonic()
        self._service_times_s.append(min(seconds, now - self._last_end))
        self._last_end = now
        self._open_refusals = max(0, self._open_refusals - 1)

    def refuse(self, excess: int = 0) -> int:
        """Seconds, 1 to 120, after which the next refused client should find a place; `excess`: clients that wait beyond
        the limit."""
        self._open_refusals = min(self._open_refusals + 1, _MAX_OPEN_REFUSALS)
        if not self._service_times_s:  # nothing is known yet, but soon will be
            return 1 + self._open_refusals % 5
        mean = sum(self._service_times_s) / len(self._service_times_s)
        return max(1, min(LONGEST_RETRY_S, round(mean * (excess + self._open_refusals))))
