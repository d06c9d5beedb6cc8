"""Conversations in the database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import msgspec

from batch.batches.rows import new_public_id
from batch.conversations.item_store import insert_items
from batch.conversations.rows import Conversation, Item
from batch.errors import NotFound
from batch.payloads.json_text import encode
from batch.queue.store import Store, Transaction


class ConversationStore:
    """Named queries on conversations. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, items: Sequence[Item], metadata: Mapping[str, str]) -> Conversation:
        """Begin a conversation; durable when it returns."""
        conversation = Conversation(id=new_public_id("conv_"), created_at=int(time.time()), metadata=dict(metadata))
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "insert into conversation values (?,?,?)",
                (conversation.id, conversation.created_at, encode(conversation.metadata).decode()),
            )
            _append_items(transaction, conversation.id, items)
        return conversation

    def conversation(self, id: str) -> Conversation:
        """One conversation. Raises NotFound."""
        rows = self._store.read("select id, created_at, metadata from conversation where id=?", (id,))
        if not rows:
            raise NotFound(f"Conversation with id '{id}' not found.")
        return Conversation(id=rows[0][0], created_at=rows[0][1], metadata=msgspec.json.decode(rows[0][2]))

    def set_metadata(self, id: str, metadata: Mapping[str, str]) -> Conversation:
        """Replace a conversation's metadata. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("update conversation set metadata=? where id=?", (encode(dict(metadata)).decode(), id))
        return self.conversation(id)

    def delete(self, id: str) -> None:
        """Remove a conversation; responses keep their own lists of items. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            if not transaction.execute("delete from conversation where id=?", (id,)).rowcount:
                raise NotFound(f"Conversation with id '{id}' not found.")

    def add_items(self, id: str, items: Sequence[Item]) -> None:
        """Append items; one that is there already is not doubled. Raises NotFound."""
        self.conversation(id)
        with self._store.transaction(durable=True) as transaction:
            _append_items(transaction, id, items)

    def item_ids(self, id: str) -> list[str]:
        """Ids of a conversation's items, oldest first. Raises NotFound."""
        self.conversation(id)
        rows = self._store.read("select item from conversation_item where conversation=? order by place", (id,))
        return [row[0] for row in rows]

    def delete_item(self, id: str, item: str) -> None:
        """Take an item out of a conversation. Raises NotFound."""
        self.conversation(id)
        with self._store.transaction(durable=True) as transaction:
            delete = "delete from conversation_item where conversation=? and item=?"
            if not transaction.execute(delete, (id, item)).rowcount:
                raise NotFound(f"Item with id '{item}' not found.")


def _append_items(transaction: Transaction, id: str, items: Sequence[Item]) -> None:
    insert_items(transaction, items)
    for item in items:
        transaction.execute(
            "insert into conversation_item (conversation, item) values (?,?) on conflict do nothing", (id, str(item["id"]))
        )
