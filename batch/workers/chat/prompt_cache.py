"""Conversations kept for their next turn: in the KV's sequences, and beyond those in host memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from batch.errors import BatchError
from batch.workers.chat.token_sequence import Cells
from batch.workers.llama.context import STATE_PARTIAL, Context, State

CHECKPOINT_FROM = 256
"""A prefix shorter than this is computed again sooner than it is worth remembering."""
_CHECKPOINTS = 8
_SMALL_LOSS = 64
"""So few cells of an old conversation may be overwritten without keeping a copy."""
_SMALL_SHARE = 16
"""Or so small a part of it: copying a cell costs a few dozen times less than computing it."""


@dataclass(slots=True, eq=False)
class Checkpoint:
    """What the layers that forget (sliding windows, recurrent state) held after the first `n` cells."""

    n: int
    data: State


@dataclass(slots=True, eq=False)
class Kept:
    """A conversation in host memory."""

    cells: Cells
    data: State
    first: int
    checkpoints: list[Checkpoint]

    @property
    def size(self) -> int:
        return len(self.data) + sum(len(c.data) for c in self.checkpoints)


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence of the KV and what stands in it."""

    seq: int
    cells: Cells = field(default_factory=Cells)
    checkpoints: list[Checkpoint] = field(default_factory=list)
    busy: bool = False
    parked: State | None = None
    """Its KV while it waits outside, because an inner job needed the room."""
    used: int = 0


class PromptCache:
    """Which sequence a prompt goes into, and how much of it is there already."""

    def __init__(self, context: Context, n_swa: int, budget: int, *, forgets: bool) -> None:
        """`budget` bytes of host memory; `forgets`: the memory cannot roll every layer back (SWA, recurrent)."""
        self._context = context
        self._n_swa = n_swa
        self._budget = budget
        self._forgets = forgets
        self._slots = [Slot(s) for s in range(context.sequences)]
        self._kept: list[Kept] = []
        """Oldest first."""
        self._clock = 0

    @property
    def host_bytes(self) -> int:
        return sum(k.size for k in self._kept)

    @property
    def host_conversations(self) -> int:
        return len(self._kept)

    def acquire(self, prompt: Cells, *, reuse: bool = True) -> tuple[Slot, int]:
        """A sequence for the prompt and how many of its first cells are in it. Give it back with `release`."""
        free = [s for s in self._slots if not s.busy]
        if not free:
            raise BatchError("More jobs were interrupted inside each other than the model has sequences.")
        slot, found = self._choose(free, prompt) if reuse else (None, 0)
        if slot is None:
            slot = min(free, key=lambda s: (len(s.cells) > 0, s.used))
            self._keep(slot)
            self._clear(slot)
        elif len(slot.cells) - found > max(_SMALL_LOSS, len(slot.cells) // _SMALL_SHARE):
            self._keep(slot)
        slot.busy = True
        self._clock += 1
        slot.used = self._clock
        self._move_out(slot)
        if found:
            found = self._roll_back(slot, found)
        if not found:
            self._clear(slot)
        return slot, found

    def release(self, slot: Slot) -> None:
        """The job is over; what the slot holds stays for the next turn."""
        slot.busy = False
        if slot.parked is not None:
            slot.parked = None
            self._clear(slot)
            return
        # An aborted decode may have left cells behind that nobody asked for.
        if not self._context.forget(slot.seq, slot.cells.position(len(slot.cells))):
            self._clear(slot)
        elif any(s.busy for s in self._slots):
            self._keep(slot)
            self._clear(slot)

    def _move_out(self, taken: Slot | None) -> None:
        """Idle conversations wait in host memory while a job runs, and an urgent one's goes there when it ends: so a
        job's cells lie in the KV as if it were alone, which keeps attention short and its rounding the same."""
        for slot in self._slots:
            if not slot.busy and slot is not taken and len(slot.cells):
                self._keep(slot)
                self._clear(slot)

    def _choose(self, free: list[Slot], prompt: Cells) -> tuple[Slot | None, int]:
        best: Slot | Kept | None = None
        most = 0
        for slot in free:
            if len(slot.cells):
                n = self._usable(slot, prompt, self._context.first_position(slot.seq))
                if n > most:
                    best, most = slot, n
        for kept in reversed(self._kept):
            n = self._usable(kept, prompt, kept.first)
            if n > most:
                best, most = kept, n
        if isinstance(best, Kept):
            return self._bring_back(best, free), most
        return best, most

    def _bring_back(self, kept: Kept, free: list[Slot]) -> Slot | None:
        slot = min(free, key=lambda s: (len(s.cells) > 0, s.used))
        self._kept.remove(kept)
        self._move_out(None)
        while not self._context.restore_state(slot.seq, kept.data):
            if not self.make_room(slot):
                self._clear(slot)
                return None
        slot.cells, slot.checkpoints = kept.cells, kept.checkpoints
        return slot

    def _usable(self, old: Slot | Kept, prompt: Cells, first: int) -> int:
        """How many first cells can be taken over: the last of a prompt is computed again for its logits."""
        n = prompt.whole(min(old.cells.common(prompt), len(prompt) - 1))
        if n <= 0 or self._complete(n, first, old.cells):
            return max(n, 0)
        return max((c.n for c in old.checkpoints if c.n <= n), default=0)

    def _complete(self, n: int, first: int, cells: Cells) -> bool:
        """Whether the layers that forget still hold what a token behind `n` cells looks at."""
        if not self._forgets:
            return True
        return 0 <= first < max(1 if self._n_swa else 0, cells.position(n) - self._n_swa)

    def _roll_back(self, slot: Slot, n: int) -> int:
        """Make the slot hold its first n cells, or what the last checkpoint before leaves of them; 0: nothing."""
        if n < len(slot.cells) and not self._complete(n, self._context.first_position(slot.seq), slot.cells):
            saved = max((c for c in slot.checkpoints if c.n <= n), key=lambda c: c.n, default=None)
            if saved is None or not self._context.restore_state(slot.seq, saved.data, STATE_PARTIAL):
                return 0
            n = saved.n
        if not self._context.forget(slot.seq, slot.cells.position(n)):
            return 0
        slot.cells.cut(n)
        slot.checkpoints = [c for c in slot.checkpoints if c.n <= n]
        return n

    def broken(self, slot: Slot) -> bool:
        """Whether a decode that was broken off has overwritten cells that the slot's next token looks at."""
        n = len(slot.cells)
        return n > 0 and not self._complete(n, self._context.first_position(slot.seq), slot.cells)

    def empty(self, slot: Slot) -> None:
        """Forget all that the slot holds, though its job goes on."""
        self._clear(slot)

    def checkpoint_at(self, start: int, prompt: Cells) -> int | None:
        """Where to stop on the way through the prompt for a checkpoint: a few cells before its end, where the next
        turn or another try will part from it."""
        at = len(prompt) - 4
        if not self._forgets or at < CHECKPOINT_FROM or at <= start or prompt.whole(at) != at:
            return None
        return at

    def checkpoint(self, slot: Slot) -> None:
        """Remember what the forgetting layers hold now."""
        n = len(slot.cells)
        if any(c.n == n for c in slot.checkpoints):
            return
        slot.checkpoints.append(Checkpoint(n, self._context.save_state(slot.seq, STATE_PARTIAL)))
        del slot.checkpoints[:-_CHECKPOINTS]

    def _clear(self, slot: Slot) -> None:
        self._context.forget(slot.seq)
        slot.cells = Cells()
        slot.checkpoints = []

    def _keep(self, slot: Slot) -> None:
        """Copy an idle conversation to host memory, letting the oldest ones go for it."""
        if len(slot.cells) < _SMALL_LOSS or self._context.state_size(slot.seq) > self._budget:
            return
        first = self._context.first_position(slot.seq)
        if self._n_swa:
            # Cells that the window has left may still be there, but are not saved.
            first = max(first, self._context.last_position(slot.seq) - self._n_swa + 1)
        kept = Kept(slot.cells.copy(), self._context.save_state(slot.seq), first, list(slot.checkpoints))
        if kept.size > self._budget:
            return
        # A shorter state of the same conversation is of no more use.
        self._kept = [k for k in self._kept if k.cells.common(kept.cells) < len(k.cells)]
        self._kept.append(kept)
        while self.host_bytes > self._budget:
            del self._kept[self._least()]

    def _least(self) -> int:
        """Which copy to let go: the oldest that a newer one repeats for the most part, say of a conversation whose last
        answer was rendered anew; else the oldest."""
        for at, old in enumerate(self._kept[:-1]):
            if any(2 * old.cells.common(new.cells) > len(old.cells) for new in self._kept[at + 1 :]):
                return at
        return 0

    def make_room(self, wanting: Slot) -> bool:
        """Free cells for a slot: idle conversations move to host memory, then the jobs that wait outside are parked."""
        idle = [s for s in self._slots if not s.busy and len(s.cells) and s is not wanting]
        if idle:
            slot = min(idle, key=lambda s: s.used)
            self._keep(slot)
            self._clear(slot)
            return True
        outer = [s for s in self._slots if s.busy and s.parked is None and len(s.cells) and s is not wanting]
        if outer:
            slot = min(outer, key=lambda s: s.used)
            slot.parked = self._context.save_state(slot.seq)
            self._context.forget(slot.seq)
            return True
        return False

    def unpark(self, slot: Slot) -> None:
        """Bring a parked job's KV back, before it goes on."""
        while slot.parked is not None:
            if self._context.restore_state(slot.seq, slot.parked):
                slot.parked = None
            elif not self.make_room(slot):
                raise BatchError("There is no room left in the model's context to go on with an interrupted job.")
