"""Which classes of bulk work are held back: nothing of them is begun until they are resumed, over restarts too."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import NamedTuple

from batch.queue.jobs import Kind, Priority


class PriorityRange(NamedTuple):
    """Priorities between two bounds, both left out."""

    above: float
    below: float = inf


class Pause(NamedTuple):
    """A class of a model's jobs that is held back."""

    kind: Kind
    priority: Priority


def open_ranges(floor: float, paused: Iterable[float]) -> list[PriorityRange]:
    """What of the priorities above `floor` is not held back, the most urgent first.

    Ranges, as a look for the next message must walk past no message that is held back: there may be a million.
    """
    ranges: list[PriorityRange] = []
    below = inf
    for priority in sorted(paused, reverse=True):
        if priority > floor:
            ranges.append(PriorityRange(priority, below))
            below = priority
    if below > floor:
        ranges.append(PriorityRange(floor, below))
    return ranges
