"""A line for each receiver: one delivery of it at a time, so that one which answers slowly holds up nobody but itself."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import msgspec

SLOW_S = 2.0
"""A receiver that takes longer to answer is slow until it answers faster: slow ones share senders of their own."""

Schedule = Callable[[str, float], None]
"""Has a delivery attempted by some senders after a number of seconds."""


class _Line(msgspec.Struct):
    waiting: deque[str]
    """Deliveries that are due, behind the one under way."""
    turn: str | None = None
    """The delivery that is to be attempted next, which is on its way to its sender; None while one is under way."""


class ReceiverLines:
    """Methods may be called from any thread."""

    def __init__(self, schedule_fast: Schedule, schedule_slow: Schedule) -> None:
        self._schedule_fast, self._schedule_slow = schedule_fast, schedule_slow
        self._lines: dict[str, _Line] = {}
        """By receiver, of those that are told something just now."""
        self._slow: set[str] = set()
        self._lock = threading.Lock()

    def schedule(self, receiver: str, delivery: str, delay_s: float) -> None:
        """Have a delivery attempted after a number of seconds, by the senders for its receiver."""
        with self._lock:
            is_slow = receiver in self._slow
        (self._schedule_slow if is_slow else self._schedule_fast)(delivery, delay_s)

    def enter(self, receiver: str, delivery: str, *, is_slow_sender: bool) -> bool:
        """Whether a delivery may be attempted now, by this sender; else it is scheduled again when its turn comes."""
        with self._lock:
            line = self._lines.get(receiver)
            if line is not None and line.turn != delivery:
                line.waiting.append(delivery)
                return False
            if receiver not in self._slow or is_slow_sender:
                self._lines[receiver] = line or _Line(deque())
                self._lines[receiver].turn = None
                return True
        self._schedule_slow(delivery, 0.0)  # it was seen to be slow since this one was scheduled
        return False

    def leave(self, receiver: str, seconds: float) -> None:
        """An attempt has ended, after so many seconds: the receiver's next delivery has its turn, behind other receivers'."""
        with self._lock:
            (self._slow.add if seconds > SLOW_S else self._slow.discard)(receiver)
            line = self._lines[receiver]
            line.turn = next_delivery = line.waiting.popleft() if line.waiting else None
            if next_delivery is None:
                del self._lines[receiver]
        if next_delivery is not None:
            self.schedule(receiver, next_delivery, 0.0)
