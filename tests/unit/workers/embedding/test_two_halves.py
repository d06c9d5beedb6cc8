"""A batch in two halves that two threads compute beside each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch.workers.embedding.two_halves import MAX_LARGER_SHARE, MAX_SMALLER_TOKENS, MIN_HALF_TOKENS, two_halves


@given(st.lists(st.integers(1, 600), max_size=64))
def test_every_text_is_in_one_half_and_the_halves_are_alike(lengths: list[int]) -> None:
    halves = two_halves([np.zeros(length, np.int32) for length in lengths])
    if halves is None:
        return
    larger, smaller = halves
    assert sorted(larger + smaller) == list(range(len(lengths)))
    sizes = [sum(lengths[place] for place in half) for half in halves]
    assert sizes[0] >= sizes[1] and MIN_HALF_TOKENS <= sizes[1] <= MAX_SMALLER_TOKENS
    assert sizes[0] <= MAX_LARGER_SHARE * sum(lengths)


@pytest.mark.parametrize(
    ("lengths", "is_halved"),
    [
        ([14] * 14, True),
        ([14] * 8, False),  # halves too small to be computed well
        ([200, 14, 14], False),  # one thread would wait for the other
        ([100, 100], True),
        ([512, 512], True),
        ([513, 513], False),  # more than the second context has room for
        ([], False),
    ],
)
def test_only_what_makes_good_halves_is_halved(lengths: list[int], is_halved: bool) -> None:
    assert (two_halves([np.zeros(length, np.int32) for length in lengths]) is not None) is is_halved
