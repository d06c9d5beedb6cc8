"""Checkpoints of a conversation whose KV cannot be rolled back: sliding windows, recurrent state."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.llama.context import State

MIN_CHECKPOINT_TOKENS = 256
"""A shorter prefix is computed again sooner than it is worth remembering."""
_END_DISTANCES = (4, 64, 256)
"""How many tokens before a prompt's end there are checkpoints: another try, another question, another paragraph."""
_LONG_PROMPT_TOKENS = 1024
"""From here on a prompt gets all of them, a shorter one only the first."""
_TAIL_TOKENS = 16
"""In so many last tokens of a prompt stands what opens the answer's turn; the same token opened the turns before."""
_TURNS = 2
"""So many earlier turns get a checkpoint at their start."""
_MIN_GAP_TOKENS = 4
_NEWEST_KEPT = 4
"""Checkpoints that thinning out leaves alone."""


@dataclass(slots=True, eq=False)
class Checkpoint:
    """What the layers that forget held after the first `n` tokens."""

    n: int
    state: State


class Checkpoints:
    """The checkpoints of one conversation, ascending, within a number of bytes."""

    __slots__ = ("_items", "_max_bytes")

    def __init__(self, max_bytes: int, items: Iterable[Checkpoint] = ()) -> None:
        self._items = list(items)
        self._max_bytes = max_bytes

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(len(item.state) for item in self._items)

    @property
    def newest(self) -> int:
        """After how many tokens the last one stands; 0: there is none."""
        return self._items[-1].n if self._items else 0

    def copy(self) -> Checkpoints:
        """An independent list of the same states."""
        return Checkpoints(self._max_bytes, self._items)

    def has(self, n: int) -> bool:
        """Whether there is one after exactly n tokens."""
        return any(item.n == n for item in self._items)

    def last_before(self, n: int) -> Checkpoint | None:
        """The newest one that stands after at most n tokens."""
        return max((item for item in self._items if item.n <= n), key=lambda item: item.n, default=None)

    def add(self, checkpoint: Checkpoint) -> None:
        """Add one, thinning out old ones where they are closest together once there are too many bytes."""
        self._items.append(checkpoint)
        self._items.sort(key=lambda item: item.n)
        while self.size > self._max_bytes and len(self._items) > 1:
            inner = range(max(1, len(self._items) - _NEWEST_KEPT))
            starts = [0, *(item.n for item in self._items)]
            del self._items[min(inner, key=lambda i: starts[min(i + 2, len(starts) - 1)] - starts[i])]

    def truncate(self, n: int) -> None:
        """Drop those that stand after more than n tokens."""
        self._items = [item for item in self._items if item.n <= n]


def checkpoint_positions(
    prompt: TokenSequence, control_tokens: Collection[int], branches: Iterable[int] = (), *, is_bulk: bool = False
) -> list[int]:
    """After how many tokens of a prompt to make checkpoints, ascending: where a next request is likely to part from it.

    That is at its end (not of a bulk job, with which nobody goes on), at the starts of its last turns (which a control
    token opens), and at `branches`, where an earlier conversation did part.
    """
    total, ids = len(prompt), prompt.ids
    distances = () if is_bulk else _END_DISTANCES if total >= _LONG_PROMPT_TOKENS else _END_DISTANCES[:1]
    positions = {total - distance for distance in distances} | set(branches)
    openers = {token for token in ids[-_TAIL_TOKENS:] if token in control_tokens}
    remaining = dict.fromkeys(openers, _TURNS)
    for at in range(total - _TAIL_TOKENS - 1, MIN_CHECKPOINT_TOKENS - 1, -1) if openers else ():
        if remaining.get(ids[at]):
            positions.add(at)
            remaining[ids[at]] -= 1
            if not any(remaining.values()):
                break
    chosen_positions: list[int] = []
    for at in sorted(positions):
        if at < MIN_CHECKPOINT_TOKENS or at >= total or prompt.uncut(at) != at:
            continue
        if chosen_positions and at - chosen_positions[-1] < _MIN_GAP_TOKENS:
            continue
        chosen_positions.append(at)
    return chosen_positions
