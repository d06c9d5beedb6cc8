"""The sequences of one context: which are free, and in which order they are taken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from batch.workers.chat.kv.slot import Slot
from batch.workers.llama.context import Context


class SlotTable:
    """All slots of a context."""

    def __init__(self, context: Context, slots: Sequence[Slot]) -> None:
        self._context = context
        self._slots = slots

    def __iter__(self) -> Iterator[Slot]:
        return iter(self._slots)

    @property
    def free(self) -> list[Slot]:
        """Those that no job has."""
        return [slot for slot in self._slots if not slot.is_busy]

    def idlest(self, free: Sequence[Slot]) -> Slot:
        """The one to be overwritten first: an empty one, or else the one that was used longest ago."""
        # Those that are computed together should have consecutive sequences where each has its own cells.
        return min(free, key=lambda s: (len(s.tokens) > 0, s.seq if self._context.has_own_kv else s.last_used))

    def idle(self, wanting: Slot | None) -> list[Slot]:
        """Those in which a conversation stands that no job goes on with, without `wanting`."""
        return [slot for slot in self._slots if not slot.is_busy and slot is not wanting and len(slot.tokens)]

    def spare_sequence(self) -> int | None:
        """A sequence in which nothing stands."""
        return next((slot.seq for slot in self._slots if not slot.is_busy and not len(slot.tokens)), None)

    def close_ranks(self, slots: Sequence[Slot]) -> None:
        """Where each sequence has its own cells: move these together, as llama.cpp computes those at once that have consecutive
        numbers, and reads the weights again for the others."""
        if not self._context.has_own_kv:
            return
        ranks = sorted(slots, key=lambda slot: slot.seq)
        while ranks and ranks[-1].seq - ranks[0].seq >= len(ranks):
            first, last = ranks[0].seq, ranks[-1]
            gaps = [s for s in self._slots if first < s.seq < last.seq and not s.is_busy and not len(s.tokens)]
            if not gaps:
                return
            self._move(last, min(gaps, key=lambda slot: slot.seq))
            ranks.sort(key=lambda slot: slot.seq)

    def _move(self, slot: Slot, empty: Slot) -> None:
        if n := len(slot.tokens):
            self._context.copy_sequence(slot.seq, empty.seq, slot.tokens.position(n))
        self._context.forget(slot.seq)
        slot.seq, empty.seq = empty.seq, slot.seq
        empty.is_blank = True
