"""Makes a conversation's checkpoints: as late as what they hold is still there, so that no first token waits for them."""

from __future__ import annotations

import sys

from batch.workers.chat.kv.checkpoints import MIN_CHECKPOINT_TOKENS, Checkpoint
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.llama.context import STATE_PARTIAL, Context


class CheckpointWriter:
    """Saves what the layers that forget hold after some of a sequence's tokens.

    A sliding window's layers forget nothing before so many tokens have come as it is long, and what it has left is
    overwritten only as the cells are needed. So a prompt is not cut for a checkpoint in its middle: the state after fewer
    tokens is read out of that after more, through another sequence that shares the cells. Recurrent state has to be saved
    where it is, and bulk jobs, with which nobody goes on, have few checkpoints: there slices end where they are made.
    """

    def __init__(self, context: Context, n_swa: int, *, can_roll_back: bool, is_recurrent: bool) -> None:
        """`can_roll_back`: every layer keeps every position; `is_recurrent`: some keep a state of no positions."""
        self._context = context
        self._n_swa = n_swa
        self._can_roll_back = can_roll_back
        self._can_wait = n_swa > 0 and not is_recurrent

    def is_complete(self, n: int, first: int, tokens: TokenSequence) -> bool:
        """Whether the layers that forget, whose oldest position is `first`, hold what a token behind `n` others attends to."""
        if self._can_roll_back:
            return True
        return 0 <= first < max(1 if self._n_swa else 0, tokens.position(n) - self._n_swa)

    def slice_end(self, slot: Slot, start: int, run_end: int, slice_tokens: int, total: int) -> int:
        """Where a slice of at most `slice_tokens` ends that begins at `start` of a prompt of `total` tokens, in a run of text
        that ends at `run_end`."""
        end = min(run_end, start + slice_tokens)
        if not self._waits(slot):
            return min(end, next((n for n in slot.checkpoint_at if n > start), end))
        # The last slice is one micro-batch: all that it overwrites lies a window before its beginning.
        last = total - min(slice_tokens, self._context.n_ubatch)
        return min(end, last) if start < last else end

    def follow(self, slot: Slot, start: int, interval: int) -> None:
        """A slice that began at `start` stands in the slot: note the checkpoints in it, or make the one at its end.

        `interval`: the slice's end is one once so many tokens have come since the last.
        """
        n = len(slot.tokens)
        if self._can_roll_back or n < MIN_CHECKPOINT_TOKENS:
            return
        if not self._waits(slot):
            if n in slot.checkpoint_at or n - slot.checkpoints.newest >= interval:
                self._add(slot, n, slot.seq)
            return
        passed = [at for at in slot.checkpoint_at if start < at <= n]
        newest = max([slot.checkpoints.newest, *slot.unsaved, *passed])
        if n - newest >= interval:
            passed.append(n)
        slot.unsaved += [at for at in passed if at not in slot.unsaved and not slot.checkpoints.has(at)]

    def note_risk(self, slot: Slot, *, is_alone: bool) -> None:
        """Work out how far the slot can go before its unsaved checkpoints are in danger; `is_alone`: no other sequence of
        the context holds tokens."""
        if not slot.unsaved:
            slot.unsaved_end = sys.maxsize
            return
        # Cells are taken one after the other, round and round; a micro-batch is left for what was cut off in between.
        cells = min(self._context.n_ctx, self._n_swa * self._context.sequences + self._context.n_ubatch)
        end = min(slot.unsaved) - self._n_swa + cells - self._context.n_ubatch if is_alone else 0
        slot.unsaved_end = max(self._n_swa, end)

    def save(self, slot: Slot, spare: int | None, most: int | None = None) -> None:
        """Save what is unsaved and still there, `most` of it; `spare`: a sequence in which nothing stands, if there is one."""
        unsaved, slot.unsaved = slot.unsaved[:most], slot.unsaved[most:] if most is not None else []
        if not slot.unsaved:
            slot.unsaved_end = sys.maxsize
        first = self._context.first_position(slot.seq)
        for at in unsaved:
            if at == len(slot.tokens):
                self._add(slot, at, slot.seq)
            elif spare is not None and at < len(slot.tokens) and self.is_complete(at, first, slot.tokens):
                self._context.copy_sequence(slot.seq, spare, slot.tokens.position(at))
                try:
                    self._add(slot, at, spare)
                finally:
                    self._context.forget(spare)  # also without memory for it: the spare one counts as blank

    def _waits(self, slot: Slot) -> bool:
        return self._can_wait and not slot.is_bulk

    def _add(self, slot: Slot, n: int, seq: int) -> None:
        if not slot.checkpoints.has(n):
            slot.checkpoints.add(Checkpoint(n, self._context.save_state(seq, STATE_PARTIAL)))
