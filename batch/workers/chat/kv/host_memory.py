"""Conversations in host memory, within a number of bytes: which of them go first."""

from __future__ import annotations

from collections.abc import Iterator

from batch.workers.chat.kv.stored_conversation import StoredConversation


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

    def add(self, stored: StoredConversation) -> bool:
        """Keep one more, dropping others for it; returns False where it is too large by itself."""
        if stored.size > self.max_bytes:
            return False
        self._count += 1
        stored.number = self._count
        olds, self._items = self._items, []
        for old in olds:
            common = old.tokens.common_prefix(stored.tokens)
            if 2 * common > len(old.tokens):
                old.repeated_by = stored.number
            if common < len(old.tokens):  # a shorter state of the same conversation is of no more use
                self._items.append(old)
        self._items.append(stored)
        while self.size > self.max_bytes:
            del self._items[self._least_useful()]
        return True

    def take(self, stored: StoredConversation, *, keeps: bool) -> None:
        """One goes back into the KV; `keeps`: it stays here too, as the newest, as what is cut off may be wanted again."""
        self._items.remove(stored)
        if keeps:
            stored.repeated_by = 0
            self._items.append(stored)

    def _least_useful(self) -> int:
        """Which copy to drop: the oldest that a newer one repeats for the most part, say of a conversation whose last
        answer was rendered anew; else the oldest of bulk jobs, which nobody goes on with; else the oldest."""
        numbers = {stored.number for stored in self._items}
        for at, old in enumerate(self._items[:-1]):
            if old.repeated_by in numbers:
                return at
        return next((at for at, old in enumerate(self._items[:-1]) if old.is_bulk), 0)
