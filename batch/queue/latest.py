"""A dictionary that does not grow without end, whatever others send."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MAX_LATEST = 10_000
"""More senders, homes or jobs than anybody has at a time."""


class Latest(OrderedDict[K, V]):
    """At most so many entries: those that were set longest ago go for new ones."""

    def __init__(self, most: int = MAX_LATEST) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._most:
            self.popitem(last=False)
