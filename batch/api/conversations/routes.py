"""OpenAI's Conversations API: lists of items that responses go on from and add to."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from batch.api.conversations.request import ConversationBody, ItemsBody, MetadataBody
from batch.api.generation.jobs import hub_of
from batch.api.generation.metadata import read_metadata
from batch.api.jobs.item_pages import item_page, to_openai, wants_pictures
from batch.api.json_body import documented, json_body, json_response, reader
from batch.api.responses.context import input_items
from batch.conversations.conversation_store import ConversationStore
from batch.conversations.item_store import ItemStore, without_pictures
from batch.conversations.rows import Conversation, Item
from batch.errors import NotFound

router = APIRouter()


@router.post("/v1/conversations", openapi_extra=documented(ConversationBody))
async def create_conversation(
    request: Request, body: Annotated[ConversationBody, Depends(json_body(reader(ConversationBody)))]
) -> Response:
    """Begin a conversation, empty or with items."""
    hub = hub_of(request)
    metadata = read_metadata(body.metadata) or {}

    def create() -> Conversation:
        items = input_items(body.items or [], ItemStore(hub.store, hub.spool), "items")
        return ConversationStore(hub.store).create(items, metadata)

    return json_response(_object(await hub.in_thread(create)))


@router.get("/v1/conversations/{conversation_id}")
async def get_conversation(request: Request, conversation_id: str) -> Response:
    """What is known of a conversation."""
    hub = hub_of(request)
    return json_response(_object(await hub.in_thread(lambda: ConversationStore(hub.store).conversation(conversation_id))))


@router.post("/v1/conversations/{conversation_id}", openapi_extra=documented(MetadataBody))
async def update_conversation(
    request: Request, conversation_id: str, body: Annotated[MetadataBody, Depends(json_body(reader(MetadataBody)))]
) -> Response:
    """Replace a conversation's metadata."""
    hub = hub_of(request)
    metadata = read_metadata(body.metadata) or {}
    store = ConversationStore(hub.store)
    return json_response(_object(await hub.in_thread(lambda: store.set_metadata(conversation_id, metadata))))


@router.delete("/v1/conversations/{conversation_id}")
async def delete_conversation(request: Request, conversation_id: str) -> Response:
    """Remove a conversation; responses keep their own items."""
    hub = hub_of(request)
    await hub.in_thread(lambda: ConversationStore(hub.store).delete(conversation_id))
    return json_response({"id": conversation_id, "object": "conversation.deleted", "deleted": True})


@router.post("/v1/conversations/{conversation_id}/items", openapi_extra=documented(ItemsBody))
async def add_items(
    request: Request, conversation_id: str, body: Annotated[ItemsBody, Depends(json_body(reader(ItemsBody)))]
) -> Response:
    """Append items."""
    hub = hub_of(request)
    store = ConversationStore(hub.store)

    def add() -> list[Item]:
        store.conversation(conversation_id)
        items = input_items(body.items, ItemStore(hub.store, hub.spool), "items")
        store.add_items(conversation_id, items)
        return items

    added = [to_openai(without_pictures(item)) for item in await hub.in_thread(add)]
    ids = {"first_id": added[0]["id"], "last_id": added[-1]["id"]}
    return json_response({"object": "list", "data": added, **ids, "has_more": False})


@router.get("/v1/conversations/{conversation_id}/items")
async def list_items(
    request: Request,
    conversation_id: str,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """A page of a conversation's items."""
    hub = hub_of(request)
    ids = await hub.in_thread(lambda: ConversationStore(hub.store).item_ids(conversation_id))
    items = ItemStore(hub.store, hub.spool)
    return json_response(await item_page(hub, items, ids, request, after=after, limit=limit, order=order))


@router.get("/v1/conversations/{conversation_id}/items/{item_id}")
async def get_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """One item of a conversation."""
    hub = hub_of(request)
    items = ItemStore(hub.store, hub.spool)

    def read() -> Item:
        if item_id not in ConversationStore(hub.store).item_ids(conversation_id):
            raise NotFound(f"Item with id '{item_id}' not found.")
        return items.item(item_id)

    item = await hub.in_thread(read)
    shown = await asyncio.to_thread(items.with_pictures, item) if wants_pictures(request) else without_pictures(item)
    return json_response(to_openai(shown))


@router.delete("/v1/conversations/{conversation_id}/items/{item_id}")
async def delete_item(request: Request, conversation_id: str, item_id: str) -> Response:
    """Take an item out of a conversation; the conversation."""
    hub = hub_of(request)
    store = ConversationStore(hub.store)
    await hub.in_thread(lambda: store.delete_item(conversation_id, item_id))
    return json_response(_object(await hub.in_thread(lambda: store.conversation(conversation_id))))


def _object(conversation: Conversation) -> dict[str, Any]:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": conversation.created_at,
        "metadata": conversation.metadata,
    }
