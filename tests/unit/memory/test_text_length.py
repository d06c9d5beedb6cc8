"""How long a text may be where memory is short."""

from __future__ import annotations

import pytest

from batch.memory.machine import MachineMemory
from batch.memory.text_length import text_tokens

GB = 1_000_000_000


@pytest.mark.parametrize(
    ("vocabulary", "memory", "tokens"),
    [
        (250_002, None, 8192),
        (250_002, MachineMemory(32 * GB, 20 * GB), 8192),
        (250_002, MachineMemory(16 * GB, 8 * GB), 3999),
        (250_002, MachineMemory(4 * GB, GB // 2), 512),
        (30_522, MachineMemory(4 * GB, 3 * GB), 8192),
    ],
)
def test_a_text_is_no_longer_than_half_of_the_free_memory_has_room_for_with_a_number_a_word_and_token(
    vocabulary: int, memory: MachineMemory | None, tokens: int
) -> None:
    assert text_tokens(8192, vocabulary, memory) == tokens


def test_a_model_that_was_trained_with_short_texts_takes_no_longer_ones() -> None:
    assert text_tokens(256, 250_002, MachineMemory(GB, GB)) == 256
