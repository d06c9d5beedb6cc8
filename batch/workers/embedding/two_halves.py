"""The texts of a batch as two halves, each computed by one thread: threads that share a decode wait at every barrier."""

from __future__ import annotations

from collections.abc import Sequence

from batch.workers.embedding.tokenizer import Tokens

MIN_HALF_TOKENS = 64
"""Below so many llama.cpp's attention on a CPU takes a slower path."""
MAX_SMALLER_TOKENS = 512
"""Of the half with fewer tokens, which a context of its own computes."""
MAX_LARGER_SHARE = 0.6
"""Of a batch's tokens: the thread with the smaller half waits for the other."""

Halves = tuple[list[int], list[int]]
"""Places of texts; the half with more tokens comes first."""


def two_halves(texts: Sequence[Tokens]) -> Halves | None:
    """The places of the texts, in halves of nearly as many tokens; None where they make no good halves."""
    total = sum(map(len, texts))
    if total < 2 * MIN_HALF_TOKENS:
        return None
    halves: Halves = ([], [])
    sizes = [0, 0]
    for place in sorted(range(len(texts)), key=lambda place: -len(texts[place])):
        smaller = int(sizes[1] < sizes[0])
        halves[smaller].append(place)
        sizes[smaller] += len(texts[place])
    if not MIN_HALF_TOKENS <= min(sizes) <= MAX_SMALLER_TOKENS or max(sizes) > MAX_LARGER_SHARE * total:
        return None
    return halves if sizes[0] >= sizes[1] else halves[::-1]
