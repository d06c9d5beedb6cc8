"""In which sequences jobs stand that each have cells of their own."""

from __future__ import annotations

from typing import Any

import pytest

from batch.workers.chat.kv.checkpoints import Checkpoints
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.kv.slot_table import SlotTable
from batch.workers.chat.kv.token_sequence import TokenSequence


class NotedContext:
    """Notes what is moved where."""

    def __init__(self, *, has_own_kv: bool = True) -> None:
        self.has_own_kv = has_own_kv
        self.moves: list[tuple[int, int]] = []

    def copy_sequence(self, source: int, target: int, end: int) -> None:
        assert end == 10
        self.moves.append((source, target))

    def forget(self, seq: int, start: int = 0) -> bool:
        return True


def table(context: Any, busy: tuple[int, ...], n: int = 8) -> tuple[SlotTable, list[Slot]]:
    slots = [Slot(seq, Checkpoints(1)) for seq in range(n)]
    for seq in busy:
        slots[seq].is_busy, slots[seq].is_blank = True, False
        slots[seq].tokens.append_tokens([*range(10)])
    return SlotTable(context, slots), slots


@pytest.mark.parametrize(
    ("busy", "moves"),
    [
        ((0, 1, 2), []),
        ((2, 3, 4), []),
        ((0, 2, 3), [(3, 1)]),
        ((0, 3, 7), [(7, 1), (3, 2)]),
        ((5,), []),
    ],
)
def test_the_last_ones_move_to_where_others_have_ended(busy: tuple[int, ...], moves: list[tuple[int, int]]) -> None:
    context = NotedContext()
    slots_table, slots = table(context, busy)
    jobs = [slots[seq] for seq in busy]
    slots_table.close_ranks(jobs)
    assert context.moves == moves
    ranks = sorted(job.seq for job in jobs)
    assert ranks == list(range(ranks[0], ranks[0] + len(ranks)))
    assert sorted(slot.seq for slot in slots) == list(range(8)), "each sequence belongs to one slot"
    assert [slot.is_blank for slot in slots] == [slot not in jobs for slot in slots]


def test_nothing_is_copied_of_one_that_is_yet_empty() -> None:
    context = NotedContext()
    slots_table, slots = table(context, (0, 2))
    slots[2].tokens = TokenSequence()
    jobs = [slots[0], slots[2]]
    slots_table.close_ranks(jobs)
    assert context.moves == [] and [job.seq for job in jobs] == [0, 1]


def test_nobody_elses_sequence_is_taken() -> None:
    context = NotedContext()
    slots_table, slots = table(context, (0, 1, 2))
    slots_table.close_ranks([slots[0], slots[2]])  # those of a run inside another's yield point
    assert context.moves == []


def test_nothing_moves_where_all_share_their_cells() -> None:
    context = NotedContext(has_own_kv=False)
    slots_table, slots = table(context, (0, 4))
    slots_table.close_ranks([slots[0], slots[4]])
    assert context.moves == [] and slots_table.idlest(slots_table.free) is slots[1]
