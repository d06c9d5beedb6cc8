"""How long a text an embedding model takes, by the memory that llama.cpp needs for it."""

from __future__ import annotations

from batch.memory.machine import MachineMemory

_NUMBER_BYTES = 4
_FREE_SHARE = 0.5
"""Of the free memory, for the longest text: the largest that was computed stays allocated."""
MIN_TEXT_TOKENS = 512
"""So long a text is taken in any case."""
EMBEDDING_PROCESS_BYTES = 200_000_000
"""Of an embedding worker beside its file: Python, libraries, and two contexts that have computed batches (MiniLM's were
measured: 75 MB each)."""


def text_tokens(most: int, vocabulary: int, memory: MachineMemory | None) -> int:
    """How many tokens a text may have, at most `most`: with each one computed llama.cpp sets a number aside for every word of
    the vocabulary, also where vectors alone are asked for. `memory`: what this machine has; None: it does not say."""
    if memory is None:
        return most
    return min(most, max(MIN_TEXT_TOKENS, int(_FREE_SHARE * memory.free) // (_NUMBER_BYTES * vocabulary)))
