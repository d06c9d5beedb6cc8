"""Conversations in host memory, within a number of bytes: which of them go first."""

from __future__ import annotations

from collections.abc import Iterator

from batch.workers.chat.kv.stored_conversation import StoredConversation
from batch.workers.chat.kv.token_sequence import TokenSequence


class HostMemory:
    """Copies of conversations, oldest first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._items: list[StoredConversation] = []
        self._count = 0
        """How many have been added so far."""

    def __len__(self) -> int:
        return len(self._items)

    def __reversed__(self) -> Iterator[StoredConversation]:
        return reversed(self._items)

    def __contains__(self, stored: StoredConversation | None) -> bool:
        return stored in self._items

    @property
    def size(self) -> int:
        """Bytes in all."""
        return sum(stored.size for stored in self._items)

    def make_room(self, tokens: TokenSequence, size: int) -> bool:
        """Drop others for one of these tokens that will take so many bytes, before its copy is made; returns False where it
        is too large by itself."""
        if size > self.max_bytes:
            return False
        self._count += 1
        olds, self._items = self._items, []
        for old in olds:
            common = old.tokens.common_prefix(tokens)
            if 2 * common > len(old.tokens):
                old.repeated_by = self._count
            if common < len(old.tokens):  # a shorter state of the same conversation is of no more use
                self._items.append(old)
        while self.size + size > self.max_bytes:
            del self._items[self._least_useful()]
        return True

    def add(self, stored: StoredConversation) -> None:
        """Keep the one that room was made for."""
        stored.number = self._count
        self._items.append(stored)

    def take(self, stored: StoredConversation, *, keeps: bool) -> None:
        """One goes back into the KV; `keeps`: it stays here too, as the newest, as what is cut off may be wanted again."""
        self._items.remove(stored)
        if keeps:
            stored.repeated_by = 0
            self._items.append(stored)

    def _least_useful(self) -> int:
        """Which copy to drop: the oldest that a newer one repeats for the most part, say of a conversation whose last
        answer was rendered anew; else the oldest of bulk jobs, which nobody goes on with; else the oldest."""
        numbers = {self._count, *(stored.number for stored in self._items)}
        for at, old in enumerate(self._items):
            if old.repeated_by in numbers:
                return at
        return next((at for at, old in enumerate(self._items) if old.is_bulk), 0)
