"""What conversations in host memory take, also while one more is copied there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from batch.workers.chat.kv.checkpoints import Checkpoint
from batch.workers.chat.kv.prompt_cache import PromptCache
from batch.workers.chat.kv.token_sequence import TokenSequence

BUDGET_BYTES = 2500
STATE_BYTES = 1000


class CountingContext:
    """One sequence, whose state takes as many bytes as the test says."""

    sequences = 1
    n_ctx = n_ubatch = 4096
    has_own_kv = False

    def __init__(self) -> None:
        self.size = STATE_BYTES
        self.copies: list[int] = []
        """What was in host memory with each copy of a state."""
        self.cache: PromptCache | None = None

    def first_position(self, seq: int) -> int:
        return 0

    def last_position(self, seq: int) -> int:
        return 0

    def forget(self, seq: int, start: int = 0) -> bool:
        return True

    def state_size(self, seq: int, flags: int = 0) -> int:
        return self.size

    def save_state(self, seq: int, flags: int = 0) -> Any:
        assert self.cache is not None
        self.copies.append(self.cache.host_bytes + self.size)
        return np.zeros(self.size, np.uint8)


@pytest.fixture
def context() -> CountingContext:
    context: Any = CountingContext()
    model: Any = SimpleNamespace(n_swa=0, can_roll_back=True, is_recurrent=False, control_tokens=())
    context.cache = PromptCache(context, model, BUDGET_BYTES)
    assert isinstance(context, CountingContext)
    return context


def converse(context: CountingContext, number: int, *, checkpoint_bytes: int = 0) -> None:
    """A conversation that has nothing in common with those of other numbers comes and ends, and is copied ahead."""
    assert context.cache is not None
    tokens = TokenSequence([number] * 100)
    slot, _ = context.cache.acquire(tokens)
    slot.tokens = tokens
    if checkpoint_bytes:
        slot.checkpoints.add(Checkpoint(50, np.zeros(checkpoint_bytes, np.uint8)))
    context.cache.release(slot)
    context.cache.settle()


def test_room_is_made_in_host_memory_before_a_conversation_is_copied_there(context: CountingContext) -> None:
    for number in range(1, 6):
        converse(context, number)
    assert len(context.copies) == 5
    assert max(context.copies) <= BUDGET_BYTES
    assert context.cache is not None and context.cache.host_conversations == BUDGET_BYTES // STATE_BYTES


def test_a_conversation_too_large_with_its_checkpoints_is_not_copied_and_drops_no_other(context: CountingContext) -> None:
    converse(context, 1)
    context.size = BUDGET_BYTES - 500
    converse(context, 2, checkpoint_bytes=600)
    assert len(context.copies) == 1
    assert context.cache is not None and context.cache.host_bytes == STATE_BYTES
