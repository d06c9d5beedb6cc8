"""A generation that has collapsed: it says the same few tokens over and over and would go on to the end."""

from __future__ import annotations

from collections.abc import Sequence

EVERY = 64
"""Tokens between two looks."""
_LENGTH = 384
_PERIOD = 48


def collapsed(tokens: Sequence[int]) -> bool:
    """Whether the last 384 tokens are one run of at most 48 tokens, at least eight times."""
    tail = list(tokens[-_LENGTH:])
    if len(tail) < _LENGTH:
        return False
    return any(tail[period:] == tail[:-period] for period in range(1, _PERIOD + 1))
