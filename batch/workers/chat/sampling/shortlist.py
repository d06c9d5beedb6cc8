"""The few tokens of a large vocabulary that a draw can fall on, found in a fraction of the time that sorting it takes."""

from __future__ import annotations

from typing import Any

import numpy as np

Logits = np.ndarray[Any, np.dtype[np.float32]]
TokenIds = np.ndarray[Any, np.dtype[np.int64]]

_BLOCK_TOKENS = 256
_MIN_BLOCKS_PER_TOKEN = 4
"""Below so many blocks for each token wanted, most of the vocabulary would be on the list."""


def likeliest_tokens(logits: Logits, count: int) -> TokenIds | None:
    """Ids, ascending, of at least the `count` tokens with the largest logits, (n_vocab,), and hardly more.

    None where the vocabulary is too small for that, or where logits are not numbers.
    """
    n_blocks = len(logits) // _BLOCK_TOKENS
    if n_blocks < count * _MIN_BLOCKS_PER_TOKEN:
        return None
    peaks = logits[: n_blocks * _BLOCK_TOKENS].reshape(n_blocks, _BLOCK_TOKENS).max(axis=1)
    # So many blocks have a token that large, so there are at least so many such tokens, and none that is larger is missed.
    least = np.partition(peaks, n_blocks - count)[n_blocks - count]
    tokens = np.flatnonzero(logits >= least)
    return tokens if len(tokens) >= count else None


def likeliest_token(logits: Logits, biased: TokenIds, biases: Logits) -> int:
    """The token with the largest logit, (n_vocab,), once `biases`, (n,), are added to those of the tokens in `biased`, (n,)."""
    best = int(logits.argmax())
    if not len(biased):
        return best
    if best in biased:
        others = logits.copy()
        others[biased] = -np.inf
        best = int(others.argmax())
    sums = logits[biased] + biases
    best_biased = int(sums.argmax())
    return int(biased[best_biased]) if sums[best_biased] > logits[best] or best in biased else best
