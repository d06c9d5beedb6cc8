"""Conversations kept for their next turn: in the KV's sequences, and beyond those in host memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from batch.errors import BatchError
from batch.workers.chat.kv.checkpoint_writer import CheckpointWriter
from batch.workers.chat.kv.checkpoints import MIN_CHECKPOINT_TOKENS, Checkpoints, checkpoint_positions
from batch.workers.chat.kv.host_memory import HostMemory
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.kv.slot_table import SlotTable
from batch.workers.chat.kv.stored_conversation import StoredConversation
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.llama.context import STATE_PARTIAL, Context
from batch.workers.llama.model import Model

_SMALL_LOSS_TOKENS = 64
"""So few tokens of an old conversation may be overwritten without keeping a copy."""
_SMALL_LOSS_SHARE = 16
"""Or so small a part of it (one in 16): copying a token's KV costs a few dozen times less than computing it. A conversation in
host memory is copied back only for more of its tokens than that."""
_MIN_COPIED_TOKENS = 16
"""Fewer, such as those that open every chat, are computed sooner than all of a job's own cells are copied; and without them
prompts that are equally long stay so, and share decodes."""
_CHECKPOINT_SHARE = 4
"""The checkpoints of one conversation take at most one in 4 bytes of the budget."""
_MAX_AHEAD_BYTES = 64 << 20
"""A larger conversation is copied out only when its room is wanted: it would keep the next request waiting for too long."""


class PromptCache:
    """Which sequence a prompt goes into, and how many of its tokens stand there already."""

    def __init__(self, context: Context, model: Model, budget: int) -> None:
        """`budget`: bytes of host memory."""
        self._context = context
        self._n_swa = model.n_swa
        self._budget = budget
        self._can_roll_back = model.can_roll_back
        self._control_tokens = model.control_tokens
        self._writer = CheckpointWriter(
            context, model.n_swa, can_roll_back=model.can_roll_back, is_recurrent=model.is_recurrent
        )
        self._slots = SlotTable(context, [Slot(seq, self._no_checkpoints()) for seq in range(context.sequences)])
        self._stored = HostMemory(budget)
        self._clock = 0

    @property
    def host_bytes(self) -> int:
        """Bytes of host memory in use."""
        return self._stored.size

    @property
    def host_conversations(self) -> int:
        """Conversations in host memory."""
        return len(self._stored)

    @property
    def held_prefixes(self) -> list[Sequence[str]]:
        """The prefixes of each conversation that is kept, the latest first."""
        slots = sorted(self._slots, key=lambda slot: -slot.last_used)
        return [*(slot.prefixes for slot in slots), *(stored.prefixes for stored in reversed(self._stored))]

    @property
    def free_sequences(self) -> int:
        """How many more jobs `acquire` has a sequence for."""
        return len(self._slots.free)

    def acquire(self, prompt: TokenSequence, *, reuse: bool = True, is_bulk: bool = False) -> tuple[Slot, int]:
        """A sequence for the prompt and how many of its first tokens it holds. Give it back with `release`."""
        free = self._slots.free
        if not free:
            raise BatchError("More jobs were interrupted inside each other than the model has sequences.")
        # What another bulk job has computed so far can be shared while that one goes on.
        donors = [slot for slot in self._slots if slot.is_busy and slot.is_bulk and slot.parked is None] if is_bulk else []
        branches: list[int] = []
        best: Slot | StoredConversation | None = None
        n = 0
        if reuse:
            olds: list[Slot | StoredConversation] = [*free, *donors, *reversed(self._stored)]
            common = prompt.common_prefixes([old.tokens for old in olds])
            branches = self._branches(olds, common)
            best, n = self._find(olds, common, prompt)
            if self._context.has_own_kv and n < _MIN_COPIED_TOKENS:
                best, n = None, 0
        slot: Slot | None
        if isinstance(best, StoredConversation):
            slot = self._bring_back(best, free, n)
        elif best is not None and best.is_busy:
            slot = self._empty_slot(free)
            self._share(best, slot, n)
        else:
            slot = best
            if slot is not None and self._is_loss(slot, n):
                self._store(slot)
        if slot is None:
            slot, n = self._empty_slot(free), 0
        slot.is_busy, slot.is_bulk = True, is_bulk
        self._clock += 1
        slot.last_used = self._clock
        self._move_all_idle_out(slot)
        if n:
            n = self._roll_back(slot, n)
        if not n:
            self._clear(slot)
        slot.is_blank = False
        slot.checkpoint_at, slot.prefixes, slot.copy = [], (), None
        if not self._can_roll_back:
            positions = checkpoint_positions(prompt, self._control_tokens, branches, is_bulk=is_bulk)
            slot.checkpoint_at = [at for at in positions if at > n]
            self._note_risk(slot)
        return slot, n

    def release(self, slot: Slot) -> None:
        """The job is over; what the slot holds stays for the next turn."""
        slot.is_busy = False
        if slot.parked is not None:
            slot.parked = None
            self._clear(slot)
            return
        # An aborted decode may have left positions behind that belong to nobody.
        if not self._context.forget(slot.seq, slot.tokens.position(len(slot.tokens))):
            self._clear(slot)
        elif slot.is_bulk and any(other.is_busy and other.is_bulk for other in self._slots):
            self._clear(slot)  # those have what is shared, and nobody goes on with the rest
        elif any(other.is_busy for other in self._slots):
            self._store_and_clear(slot)

    def slice_end(self, slot: Slot, start: int, run_end: int, slice_tokens: int, total: int) -> int:
        """Where a slice of at most `slice_tokens` ends that begins at `start` of a prompt of `total` tokens, in a run of text
        that ends at `run_end`."""
        return self._writer.slice_end(slot, start, run_end, slice_tokens, total)

    def follow(self, slot: Slot, start: int, interval: int) -> None:
        """A slice of the prompt, from `start` on, stands in the slot now: see to its checkpoints, of which there is one in
        about `interval` tokens at least."""
        self._writer.follow(slot, start, interval)
        self._note_risk(slot)

    def prepare(self, slot: Slot, n_tokens: int) -> None:
        """So many tokens more are about to be computed: save what they may overwrite."""
        if len(slot.tokens) + n_tokens > slot.unsaved_end:
            self._writer.save(slot, self._slots.spare_sequence())

    def settle(self) -> bool:
        """Nobody waits: copy ahead what the next request would have to copy first. Takes a few milliseconds a call, in which
        one state is copied; returns whether there is more to do."""
        slot = next((slot for slot in self._slots.idle(None) if slot.copy is None), None)
        if slot is None or self._context.state_size(slot.seq) > _MAX_AHEAD_BYTES:
            return False
        if slot.unsaved and self._first_kept(slot):
            with suppress(MemoryError):  # it is computed again when it is wanted
                self._writer.save(slot, self._slots.spare_sequence(), most=1)
            return True
        self._store(slot)
        return slot.copy is not None

    def has_lost_window(self, slot: Slot) -> bool:
        """Whether an aborted decode has overwritten what the slot's next token attends to."""
        n = len(slot.tokens)
        return n > 0 and not self._writer.is_complete(n, self._context.first_position(slot.seq), slot.tokens)

    def reset(self, slot: Slot) -> None:
        """Forget all that the slot holds, though its job goes on."""
        self._clear(slot)
        slot.is_blank = False

    def make_room(self, wanting: Slot) -> bool:
        """Free cells for a slot: idle conversations move to host memory, then waiting jobs are parked there. Returns False
        when nothing is left to move, or where others have their own cells."""
        if self._context.has_own_kv:
            return False
        if self.move_idle_out(wanting):
            return True
        waiting = [s for s in self._slots if s.is_busy and s.parked is None and len(s.tokens) and s is not wanting]
        if waiting:
            self.park(min(waiting, key=lambda s: s.last_used))
            return True
        return False

    def move_idle_out(self, wanting: Slot) -> bool:
        """Move the idle conversation that was used longest ago to host memory; returns False when there is none."""
        idle = self._slots.idle(wanting)
        if idle:
            self._store_and_clear(min(idle, key=lambda s: s.last_used))
        return bool(idle)

    def park(self, slot: Slot) -> None:
        """Move a job's KV to host memory while the job waits."""
        slot.parked = self._context.save_state(slot.seq)
        self._context.forget(slot.seq)

    def unpark(self, slot: Slot) -> None:
        """Bring a parked job's KV back, before it goes on."""
        while not self.try_unpark(slot):
            if not self.make_room(slot):
                raise BatchError("There is no room left in the model's context to go on with an interrupted job.")

    def try_unpark(self, slot: Slot) -> bool:
        """Bring a parked job's KV back if there is room; returns whether it is there."""
        if slot.parked is not None and self._context.restore_state(slot.seq, slot.parked):
            slot.parked = None
        return slot.parked is None

    def close_ranks(self, slots: Sequence[Slot]) -> None:
        """These are about to be computed together: give them consecutive sequences where that matters."""
        self._slots.close_ranks(slots)

    # -- what stands where

    def _find(
        self, olds: Sequence[Slot | StoredConversation], common: Sequence[int], prompt: TokenSequence
    ) -> tuple[Slot | StoredConversation | None, int]:
        """The conversation that holds most of the prompt, and how many tokens of it. `olds`: those in sequences first, then
        the newest; `common`: what each shares with the prompt."""
        best: Slot | StoredConversation | None = None
        most = in_place = 0
        for old, shared in zip(olds, common, strict=True):
            if shared <= most:
                continue
            if isinstance(old, Slot):
                n = self._usable(old, prompt, shared, self._context.first_position(old.seq))
                in_place = max(in_place, n)
            else:
                n = self._usable(old, prompt, shared, old.first)
                if n - in_place <= len(old.tokens) // _SMALL_LOSS_SHARE:
                    continue
            if n > most:
                best, most = old, n
        return best, most

    def _branches(self, olds: Sequence[Slot | StoredConversation], common: Sequence[int]) -> list[int]:
        """Where a prompt parts from a conversation that has no checkpoint there: the next one will part there too."""
        longest = max(
            (n for old, n in zip(olds, common, strict=True) if isinstance(old, StoredConversation) or not old.is_busy),
            default=0,
        )
        return [longest] if longest >= MIN_CHECKPOINT_TOKENS else []

    def _bring_back(self, stored: StoredConversation, free: list[Slot], n: int) -> Slot | None:
        """Put a conversation, whose first n tokens are wanted, from host memory into a free slot; None: no room."""
        slot = self._slots.idlest(free)
        self._stored.take(stored, keeps=self._is_loss(stored, n))
        self._move_all_idle_out(None)
        slot.is_blank = False
        while not self._context.restore_state(slot.seq, stored.state):
            if not self.make_room(slot):
                self._clear(slot)
                return None
        slot.tokens, slot.checkpoints, slot.unsaved = stored.tokens.copy(), stored.checkpoints.copy(), [*stored.unsaved]
        return slot

    def _share(self, donor: Slot, slot: Slot, n: int) -> None:
        """Let an empty slot have a running job's first n tokens too."""
        slot.is_blank = False
        self._context.copy_sequence(donor.seq, slot.seq, donor.tokens.position(n))
        slot.tokens, slot.checkpoints = donor.tokens.copy(), donor.checkpoints.copy()

    def _usable(self, old: Slot | StoredConversation, prompt: TokenSequence, common: int, first: int) -> int:
        """How many of the `common` first tokens can be taken over: the last of a prompt is computed again for its logits."""
        n = prompt.uncut(min(common, len(prompt) - 1))
        if n <= 0 or self._writer.is_complete(n, first, old.tokens):
            return max(n, 0)
        checkpoint = old.checkpoints.last_before(n)
        return checkpoint.n if checkpoint else 0

    def _is_loss(self, old: Slot | StoredConversation, n: int) -> bool:
        """Whether cutting a conversation to n tokens loses so much of it that a copy is worth its memory."""
        return len(old.tokens) - n > max(_SMALL_LOSS_TOKENS, len(old.tokens) // _SMALL_LOSS_SHARE)

    def _roll_back(self, slot: Slot, n: int) -> int:
        """Make the slot hold its first n tokens, or those of the last checkpoint before; returns how many, 0: none."""
        if n < len(slot.tokens) and not self._writer.is_complete(n, self._context.first_position(slot.seq), slot.tokens):
            checkpoint = slot.checkpoints.last_before(n)
            if checkpoint is None or not self._context.restore_state(slot.seq, checkpoint.state, STATE_PARTIAL):
                return 0
            n = checkpoint.n
        if not self._context.forget(slot.seq, slot.tokens.position(n)):
            return 0
        slot.tokens.truncate(n)
        slot.checkpoints.truncate(n)
        slot.unsaved = [at for at in slot.unsaved if at <= n]
        return n

    # -- moving

    def _empty_slot(self, free: list[Slot]) -> Slot:
        """An empty slot; where none is, the one that was used longest ago, its conversation now in host memory."""
        slot = self._slots.idlest(free)
        self._store_and_clear(slot)
        return slot

    def _move_all_idle_out(self, claimed: Slot | None) -> None:
        """Idle conversations wait in host memory while a job runs, and a more urgent one's goes there when it ends: so a
        job's tokens lie in the KV as if it were alone, which keeps attention short and its rounding the same."""
        for slot in self._slots.idle(claimed):
            self._store_and_clear(slot)

    def _note_risk(self, slot: Slot) -> None:
        is_alone = not any(other is not slot and len(other.tokens) for other in self._slots)
        self._writer.note_risk(slot, is_alone=is_alone)

    def _no_checkpoints(self) -> Checkpoints:
        return Checkpoints(self._budget // _CHECKPOINT_SHARE)

    def _clear(self, slot: Slot) -> None:
        if not slot.is_blank:
            self._context.forget(slot.seq)
            slot.is_blank = True
        slot.tokens = TokenSequence()
        slot.prefixes, slot.copy = (), None
        slot.checkpoints = self._no_checkpoints()
        slot.unsaved = []
        self._note_risk(slot)

    def _store_and_clear(self, slot: Slot) -> None:
        self._store(slot)
        self._clear(slot)

    def _store(self, slot: Slot) -> None:
        """Copy a conversation to host memory, dropping the oldest ones for it."""
        if slot.copy in self._stored or len(slot.tokens) < _SMALL_LOSS_TOKENS:
            return
        size = self._context.state_size(slot.seq)
        if size + slot.checkpoints.size > self._budget:
            return
        if slot.is_bulk and slot.tokens.chunks:
            return  # a picture is described once, and nobody goes on from there
        first = self._first_kept(slot)
        try:
            if first:
                self._writer.save(slot, self._slots.spare_sequence())
            if not self._stored.make_room(slot.tokens, size + slot.checkpoints.size):
                return
            state = self._context.save_state(slot.seq)
        except MemoryError:
            return  # it is computed again when it is wanted
        tokens, checkpoints, unsaved = slot.tokens.copy(), slot.checkpoints.copy(), [*slot.unsaved]
        stored = StoredConversation(tokens, state, first, checkpoints, slot.is_bulk, prefixes=slot.prefixes, unsaved=unsaved)
        self._stored.add(stored)
        slot.copy = stored

    def _first_kept(self, slot: Slot) -> int:
        """The oldest position that all layers hold in a copy of what stands in the slot."""
        first = self._context.first_position(slot.seq)
        # Positions that the window has left may still be there, but are not saved.
        return max(first, self._context.last_position(slot.seq) - self._n_swa + 1) if self._n_swa else first
