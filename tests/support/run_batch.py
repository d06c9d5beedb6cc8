"""What a command run in the tests' own process ended with."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    """What a command ended with and printed."""

    status: int
    out: str
    err: str


RunBatch = Callable[..., Outcome]
