"""Finds a generation that has collapsed: it repeats the same few tokens and would do so until the context is full."""

from __future__ import annotations

from collections.abc import Sequence

CHECK_INTERVAL_TOKENS = 64
"""How many tokens are generated between two checks."""
_WINDOW_TOKENS = 384
_MAX_PERIOD_TOKENS = 48


def has_collapsed(tokens: Sequence[int]) -> bool:
    """Whether the last 384 tokens repeat one run of at most 48 tokens, at least eight times."""
    tail = list(tokens[-_WINDOW_TOKENS:])
    if len(tail) < _WINDOW_TOKENS:
        return False
    return any(tail[period:] == tail[:-period] for period in range(1, _MAX_PERIOD_TOKENS + 1))
