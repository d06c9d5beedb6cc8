"""One response that is stored: its row before its first byte, its final state before its last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import msgspec

from batch.api.responses.request import ResponsesBody
from batch.api.responses.response import ResponseObject
from batch.conversations.response_store import ResponseStore
from batch.conversations.rows import Item
from batch.errors import Conflict
from batch.payloads.json_text import encode
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft


class ConversationLocked(Conflict):
    """Another response runs on the conversation: clients try again."""

    sentence = "Another response runs on this conversation: try again once it has ended."
    status = 400


class StoredRun:
    """Writes the states of one response."""

    def __init__(self, hub: Hub, body: ResponsesBody, response: ResponseObject, items: Sequence[Item]) -> None:
        """`response`: as it stands before the first token; `items`: its whole context and input."""
        self._hub, self._body, self._response, self._items = hub, body, response, items
        self._store = ResponseStore(hub.store)

    async def create(self, job: str, lifetime_s: int | None, draft: Draft | None = None) -> None:
        """Write the row; with a `draft`, its job in the same transaction. Raises ConversationLocked."""
        created = await self._hub.in_thread(
            lambda: _create_row(self._store, self._body, self._response, self._items, job, lifetime_s, draft)
        )
        if not created:
            raise ConversationLocked(param="conversation", code="conversation_locked")

    async def end(self, response: ResponseObject) -> None:
        """Write the final state, unless the response had ended before."""
        output = output_items(response)
        await self._hub.in_thread(
            lambda: self._store.end(response.id, response.status, encode(response), output, durable=response.background)
        )


def store_response(
    hub: Hub, body: ResponsesBody, response: ResponseObject, items: Sequence[Item], job: str, lifetime_s: int | None
) -> None:
    """Store a response that has ended. Blocking."""
    store = ResponseStore(hub.store)
    _create_row(store, body, msgspec.structs.replace(response, status="in_progress"), items, job, lifetime_s)
    store.end(response.id, response.status, encode(response), output_items(response))


def _create_row(
    store: ResponseStore,
    body: ResponsesBody,
    response: ResponseObject,
    items: Sequence[Item],
    job: str,
    lifetime_s: int | None = None,
    draft: Draft | None = None,
) -> bool:
    return store.create(
        id=response.id,
        status=response.status,
        data=encode(response),
        request=encode(msgspec.structs.replace(body, input="")),
        items=items,
        created_at=response.created_at,
        is_kept=response.store,
        background=response.background,
        streamed=bool(body.stream),
        conversation=body.conversation_id,
        job=job,
        draft=draft,
        lifetime_s=lifetime_s if response.store else None,
    )


def output_items(response: ResponseObject) -> list[Item]:
    """A response's output as items."""
    return [cast(Item, msgspec.to_builtins(item)) for item in response.output]
