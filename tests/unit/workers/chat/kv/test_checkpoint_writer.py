"""How late checkpoints are saved."""

from __future__ import annotations

from typing import Any

import pytest

from batch.workers.chat.kv.checkpoint_writer import CheckpointWriter
from batch.workers.chat.kv.checkpoints import Checkpoints
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.kv.token_sequence import TokenSequence


class ContextWithoutMemory:
    """A context of which nothing can be copied out."""

    def __init__(self) -> None:
        self.held = {0}
        """The sequences in which something stands."""

    def first_position(self, seq: int) -> int:
        return 0

    def copy_sequence(self, source: int, target: int, end: int) -> None:
        self.held.add(target)

    def save_state(self, seq: int, flags: int = 0) -> Any:
        raise MemoryError

    def forget(self, seq: int, start: int = 0) -> bool:
        self.held.discard(seq)
        return True


def test_nothing_is_left_in_the_spare_sequence_where_there_is_no_memory_for_a_checkpoint() -> None:
    context: Any = ContextWithoutMemory()
    writer = CheckpointWriter(context, 64, can_roll_back=False, is_recurrent=False)
    slot = Slot(0, Checkpoints(1 << 20), TokenSequence(list(range(400))), unsaved=[200])
    with pytest.raises(MemoryError):
        writer.save(slot, 1)
    assert context.held == {0}
