"""Which tokens a draw can fall on, found without sorting the vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from batch.workers.chat.sampling.shortlist import likeliest_token, likeliest_tokens


@pytest.mark.parametrize("n_vocab", [262_144, 151_936, 32_001])
@pytest.mark.parametrize("count", [1, 7, 30])
def test_the_shortlist_holds_the_likeliest_tokens_and_hardly_more(n_vocab: int, count: int) -> None:
    logits = np.random.default_rng(count).normal(0, 3, n_vocab).astype(np.float32)
    logits[-1] = 99.0  # behind the last whole block
    tokens = likeliest_tokens(logits, count)
    assert tokens is not None and list(tokens) == sorted(tokens)
    assert set(np.argsort(-logits)[:count]) <= {*tokens}
    assert count <= len(tokens) <= 3 * count + 8


def test_tokens_that_are_all_alike_are_all_on_the_list() -> None:
    tokens = likeliest_tokens(np.zeros(32_000, np.float32), 5)
    assert tokens is not None and len(tokens) == 32_000


def test_there_is_no_shortlist_of_a_small_vocabulary_or_of_what_is_no_number() -> None:
    assert likeliest_tokens(np.zeros(2_000, np.float32), 40) is None
    assert likeliest_tokens(np.full(262_144, np.nan, np.float32), 40) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_likeliest_token_counts_biases(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(0, 1, 500).astype(np.float32)
    biased = np.concatenate([[logits.argmax()], random.choice(np.arange(400), 3, replace=False)]).astype(np.int64)
    biased = np.unique(biased)
    biases = random.choice([-np.inf, -2.0, 0.5, 4.0], len(biased)).astype(np.float32)
    whole = logits.copy()
    whole[biased] += biases
    assert likeliest_token(logits, biased, biases) == whole.argmax()
    assert likeliest_token(logits, biased[:0], biases[:0]) == logits.argmax()
