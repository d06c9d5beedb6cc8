"""Conversations and stored chat completions in the database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from batch.batches.file_store import new_public_id
from batch.conversations.item_store import insert_items
from batch.conversations.rows import Conversation, Item, StoredCompletion
from batch.errors import BadRequest, NotFound
from batch.payloads.json_text import encode
from batch.queue.store import Store


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
        if items:
            self.add_items(conversation.id, items)
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
            insert_items(transaction, items)
            for item in items:
                transaction.execute(
                    "insert or ignore into conversation_item (conversation, item) values (?,?)", (id, str(item["id"]))
                )

    def item_ids(self, id: str) -> list[str]:
        """Ids of a conversation's items, oldest first. Raises NotFound."""
        self.conversation(id)
        rows = self._store.read("select item from conversation_item where conversation=? order by place", (id,))
        return [row[0] for row in rows]

    def delete_item(self, id: str, item: str) -> None:
        """Take an item out of a conversation. Raises NotFound."""
        self.conversation(id)
        with self._store.transaction(durable=True) as transaction:
            gone = transaction.execute("delete from conversation_item where conversation=? and item=?", (id, item)).rowcount
            if not gone:
                raise NotFound(f"Item with id '{item}' not found.")


class CompletionStore:
    """Named queries on stored chat completions. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(self, completion: StoredCompletion, lifetime_s: int | None) -> None:
        """Store a completion; one of the same id stays as it is."""
        expires = None if lifetime_s is None else int(time.time()) + lifetime_s
        with self._store.transaction(durable=True) as transaction:
            transaction.execute(
                "insert or ignore into chat_completion (id, model, metadata, data, messages, created_at, expires_at) "
                "values (?,?,?,?,?,?,?)",
                (
                    completion.id,
                    completion.model,
                    encode(completion.metadata).decode(),
                    completion.data.decode(),
                    completion.messages.decode(),
                    completion.created_at,
                    expires,
                ),
            )

    def completion(self, id: str) -> StoredCompletion:
        """One completion. Raises NotFound."""
        rows = self._store.read(
            "select id, model, metadata, data, messages, created_at from chat_completion where id=? and "
            "(expires_at is null or expires_at > ?)",
            (id, int(time.time())),
        )
        if not rows:
            raise NotFound(f"Completion with id '{id}' not found.")
        return _completion(rows[0])

    def completions(
        self, *, model: str | None, metadata: Mapping[str, str], after: str | None, limit: int, ascending: bool
    ) -> tuple[list[StoredCompletion], bool]:
        """A page of completions that match a model and every pair of metadata, and whether more follow.

        Raises BadRequest for an unknown `after`.
        """
        where = ["(expires_at is null or expires_at > ?)"]
        conditions: list[Any] = [int(time.time())]
        if model is not None:
            where.append("model=?")
            conditions.append(model)
        for key, value in metadata.items():
            where.append("exists (select 1 from json_each(metadata) pair where pair.key=? and pair.value=?)")
            conditions += [key, value]
        if after is not None:
            rows = self._store.read("select sequence from chat_completion where id=?", (after,))
            if not rows:
                raise BadRequest(f"'after': no such completion: {after}", param="after")
            where.append("sequence > ?" if ascending else "sequence < ?")
            conditions.append(rows[0][0])
        rows = self._store.read(
            f"select id, model, metadata, data, messages, created_at from chat_completion where {' and '.join(where)} "
            f"order by sequence {'asc' if ascending else 'desc'} limit ?",
            (*conditions, limit + 1),
        )
        return [_completion(row) for row in rows[:limit]], len(rows) > limit

    def set_metadata(self, id: str, metadata: Mapping[str, str], data: bytes) -> None:
        """Replace a completion's metadata, and the object that repeats it. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            changed = transaction.execute(
                "update chat_completion set metadata=?, data=? where id=?",
                (encode(dict(metadata)).decode(), data.decode(), id),
            ).rowcount
            if not changed:
                raise NotFound(f"Completion with id '{id}' not found.")

    def delete(self, id: str) -> None:
        """Remove a completion. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            if not transaction.execute("delete from chat_completion where id=?", (id,)).rowcount:
                raise NotFound(f"Completion with id '{id}' not found.")


def _completion(row: Sequence[Any]) -> StoredCompletion:
    id, model, metadata, data, messages, created_at = row
    return StoredCompletion(
        id=id,
        model=model,
        metadata=msgspec.json.decode(metadata),
        data=data.encode(),
        messages=messages.encode(),
        created_at=created_at,
    )
