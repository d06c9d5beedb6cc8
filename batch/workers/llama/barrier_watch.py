"""When another program holds a core, threads that share a decode wait at each barrier for the one that has none.

llama.cpp's threads meet at a barrier behind every node of the graph, and spin there; two that lie on one core wait for the
scheduler's slice each time. Beside one program that kept one of two cores busy, a text that MiniLM embeds in 5 ms took 180 to
1,600 ms with two threads, and 8 to 17 with one.
"""

from __future__ import annotations

import math

SLOW = 1.5
"""Times what fewer threads would have taken: then more of them are in each other's way."""
SUSPICION_S = 10.0
"""A decode is slow now and then for other reasons; a second one within this time is one too many."""
PAUSE_PER_LOSS = 10.0
"""Fewer threads compute for so many times what the slow decode lost: trying again then costs a tenth."""
MAX_PAUSE_S = 30.0


class BarrierWatch:
    """Chooses how many threads share a decode by how long decodes took. Used from one thread."""

    def __init__(self, few: int) -> None:
        """`few`: threads with which the speed is known."""
        self._few = few
        self._few_until = self._suspicious_until = -math.inf

    def choose(self, threads: int, now: float) -> int:
        """So many threads, or as few as the speed is known of while more are in each other's way; `now` is time.monotonic()."""
        return min(threads, self._few) if now < self._few_until else threads

    def note(self, threads: int, took_s: float, few_take_s: float, now: float) -> None:
        """So many threads took `took_s` for what few take `few_take_s` for."""
        if threads <= self._few or took_s <= SLOW * few_take_s:
            return
        if now < self._suspicious_until:
            self._few_until = now + min(MAX_PAUSE_S, PAUSE_PER_LOSS * (took_s - few_take_s))
        self._suspicious_until = max(now, self._few_until) + SUSPICION_S
