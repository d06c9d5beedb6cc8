"""Stored chat completions in the database; their pictures in the spool."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from batch.errors import NotFound
from batch.payloads.json_text import encode
from batch.queue.reading.expiring_rows import ExpiringRows
from batch.queue.store import Store


class StoredCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """One chat completion that its client asked to store. Times are Unix seconds."""

    id: str
    model: str
    metadata: dict[str, str]
    data: bytes
    """The chat.completion object as JSON."""
    messages: bytes
    """The request's messages as JSON, pictures named by their sha256."""
    created_at: int
    expires_at: int | None = None


_COLUMNS = ", ".join(StoredCompletion.__struct_fields__)
_PAGES = ExpiringRows("chat_completion", _COLUMNS.replace("messages", "'[]'"), "chat completion")
LEAST_USED = (
    # Each half by an index: a completion's time stands behind its data, so that sorting by it would read all of the table.
    "select * from (select 0, sequence, used_at from response where status not in ('queued', 'in_progress') "
    "order by used_at, sequence limit :limit) as a "
    "union all select * from (select 1, sequence, created_at from chat_completion order by sequence limit :limit) "
    "as b order by 3, 2 limit :limit"
)
"""(whether it is a completion, sequence, time) of what was used longest ago, running responses apart."""
_CONVERSATION_SLICE = (
    "select max(c.place), sum(case when exists (select 1 from conversation_item o where o.item=c.item and o.place<c.place) "
    "then 0 else octet_length(i.data) end) "
    "from (select place, item from conversation_item where place > ? order by place limit 200) c "
    "left join item i on i.id=c.item"
)


class CompletionStore:
    """Named queries on stored chat completions. Blocking; methods may be called from any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, completion: StoredCompletion, pictures: Sequence[str] = ()) -> None:
        """Store a completion, which holds its pictures' spool files; one that is stored already stays as it is."""
        row = (
            completion.id,
            completion.model,
            encode(completion.metadata).decode(),
            completion.data.decode(),
            completion.messages.decode(),
            completion.created_at,
            completion.expires_at,
        )
        with self._store.transaction() as transaction:
            transaction.execute(f"insert into chat_completion ({_COLUMNS}) values (?,?,?,?,?,?,?) on conflict do nothing", row)
            transaction.hold(completion.id, list(pictures), "picture")

    def completion(self, id: str) -> StoredCompletion:
        """One completion that has not expired. Raises NotFound."""
        rows = self._store.read(f"select {_COLUMNS} from chat_completion where id=?", (id,))
        completion = _completion(rows[0]) if rows else None
        if completion is None or (completion.expires_at is not None and completion.expires_at <= time.time()):
            raise NotFound(f"Chat completion with id '{id}' not found.", param="completion_id")
        return completion

    def page(
        self,
        *,
        after: str | None,
        limit: int,
        ascending: bool,
        model: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[list[StoredCompletion], bool]:
        """A page of completions of a model and with all pairs of metadata, without their messages, and whether more follow.

        Raises BadRequest for an unknown `after`.
        """
        conditions: list[str] = []
        parameters: list[str] = []
        if model is not None:
            conditions.append("model=?")
            parameters.append(model)
        for key, value in (metadata or {}).items():
            conditions.append("exists (select 1 from json_each(metadata) where key=? and value=?)")
            parameters += [key, value]
        rows, has_more = _PAGES.page(self._store, conditions, parameters, after=after, limit=limit, ascending=ascending)
        return [_completion(row) for row in rows], has_more

    def set_metadata(self, id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        """Replace a completion's metadata. Raises NotFound."""
        self.completion(id)
        with self._store.transaction(durable=True) as transaction:
            transaction.execute("update chat_completion set metadata=? where id=?", (encode(metadata).decode(), id))
        return self.completion(id)

    def delete(self, id: str) -> None:
        """Remove a completion. Raises NotFound."""
        with self._store.transaction(durable=True) as transaction:
            if not transaction.execute("delete from chat_completion where id=?", (id,)).rowcount:
                raise NotFound(f"Chat completion with id '{id}' not found.", param="completion_id")

    def delete_expired(self, limit: int = 100) -> int:
        """Remove completions past their time; returns how many."""
        with self._store.transaction() as transaction:
            return transaction.execute(
                "delete from chat_completion where sequence in (select sequence from chat_completion where expires_at <= ? "
                "limit ?)",
                (int(time.time()), limit),
            ).rowcount


def stored_bytes(store: Store) -> int:
    """Bytes that stored responses with their items and event logs, and chat completions, take."""
    return int(store.read("select n from stored_bytes")[0][0])


def conversation_bytes(store: Store) -> Iterator[int]:
    """Bytes of the items that conversations hold, which go with those alone; a part of them at each step."""
    place: int | None = 0
    while (row := store.read(_CONVERSATION_SLICE, (place,))[0])[0] is not None:
        place = row[0]
        yield int(row[1] or 0)


def delete_least_used(store: Store, limit: int = 20) -> int:
    """Remove the responses and completions that were used longest ago, running ones apart; returns how many."""
    with store.transaction() as transaction:
        rows = transaction.execute(LEAST_USED, {"limit": limit}).fetchall()
        for is_completion, sequence, _ in rows:
            table = "chat_completion" if is_completion else "response"
            transaction.execute(f"delete from {table} where sequence=?", (sequence,))
    return len(rows)


def _completion(row: Sequence[Any]) -> StoredCompletion:
    values = dict(zip(StoredCompletion.__struct_fields__, row, strict=True))
    return StoredCompletion(
        **values
        | {
            "metadata": msgspec.json.decode(values["metadata"], type=dict[str, str]),
            "data": values["data"].encode(),
            "messages": values["messages"].encode(),
        }
    )
