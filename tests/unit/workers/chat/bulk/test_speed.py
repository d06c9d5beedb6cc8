"""What is measured of a model before its bulk jobs share decodes."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from batch.workers.chat.bulk.speed import MAX_JOINT_TOKENS, _joint_prompt_tokens, expected_tokens

MODEL: Any = SimpleNamespace(n_vocab=1000)


class PlayedContext:
    """Its logits are the token's number, and what is left of a decode's rows by so many at a time is computed otherwise."""

    def __init__(self, rows_together: int, sequences: int = 8) -> None:
        self.sequences = sequences
        self._rows_together = rows_together
        self._tokens: list[int] = []
        self.kept: set[int] = set()
        """Sequences that were not forgotten."""

    def decode_parts(self, parts: Sequence[tuple[Sequence[int], int, int, bool]]) -> int:
        self._tokens = [token for tokens, *_ in parts for token in tokens]
        self.kept |= {seq for *_, seq, _ in parts}
        return 0

    def logits(self, row: int) -> Any:
        is_left = row >= len(self._tokens) // self._rows_together * self._rows_together
        return np.array([self._tokens[row] + 0.001 * is_left])

    def forget(self, seq: int) -> None:
        self.kept.discard(seq)


@pytest.mark.parametrize(
    ("rows_together", "sequences", "slice_tokens", "joint"),
    [
        (1, 8, 512, (MAX_JOINT_TOKENS, 1)),
        (4, 8, 512, (MAX_JOINT_TOKENS, 4)),
        (4, 8, 16, (16, 4)),
        (16, 8, 512, (0, 1)),
        (1, 1, 512, (0, 1)),  # there are no others
    ],
)
def test_slices_share_a_decode_only_where_each_has_the_numbers_that_it_has_alone(
    rows_together: int, sequences: int, slice_tokens: int, joint: tuple[int, int]
) -> None:
    context: Any = PlayedContext(rows_together, sequences)
    assert _joint_prompt_tokens(MODEL, context, slice_tokens) == joint
    assert not context.kept


@pytest.mark.parametrize(
    ("max_tokens", "own_kv", "expected"),
    [
        (-1, True, 1024),
        (4096, True, 1024),
        (64, True, 64),
        (0, True, 0),
        (-1, False, 4096),
        (64, False, 64),
        (9000, False, 9000),
    ],
)
def test_a_high_bound_keeps_no_job_from_being_computed_with_others(max_tokens: int, own_kv: bool, expected: int) -> None:
    assert expected_tokens(4096, max_tokens, own_kv=own_kv) == expected
