"""OpenAI's stored chat completions: listing, fetching, changing and deleting them, and their messages."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from batch.api.chat_completions.stored_chat import to_openai_message
from batch.api.generation.jobs import hub_of
from batch.api.generation.metadata import read_metadata
from batch.api.json_body import Body, JsonObject, documented, json_body, json_response, reader
from batch.conversations.completion_store import CompletionStore, StoredCompletion
from batch.conversations.item_store import ItemStore
from batch.conversations.rows import Item
from batch.errors import BadRequest

router = APIRouter()

Order = Literal["asc", "desc"]
MAX_METADATA_FILTERS = 16


class CompletionChanges(Body, frozen=True, kw_only=True):
    """The body of POST /v1/chat/completions/{id}."""

    metadata: JsonObject | None


@router.get("/v1/chat/completions")
async def list_completions(
    request: Request,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: Order = "asc",
    model: str | None = None,
) -> Response:
    """Stored completions, of a model and with all the pairs of metadata that are asked for."""
    filters = {
        name[len("metadata[") : -1]: value
        for name, value in request.query_params.items()
        if name.startswith("metadata[") and name.endswith("]")
    }
    if len(filters) > MAX_METADATA_FILTERS:
        raise BadRequest(f"'metadata' names {len(filters)} pairs; {MAX_METADATA_FILTERS} are taken at most", param="metadata")
    store = CompletionStore(hub_of(request).store)
    page, has_more = await hub_of(request).in_thread(
        lambda: store.page(after=after, limit=limit, ascending=order == "asc", model=model, metadata=filters)
    )
    return await asyncio.to_thread(lambda: json_response(_page([_object(one) for one in page], has_more)))


@router.get("/v1/chat/completions/{completion_id}")
async def get_completion(request: Request, completion_id: str) -> Response:
    """One stored completion."""
    return json_response(_object(await _completion(request, completion_id)))


@router.post("/v1/chat/completions/{completion_id}", openapi_extra=documented(CompletionChanges))
async def update_completion(
    request: Request, completion_id: str, body: Annotated[CompletionChanges, Depends(json_body(reader(CompletionChanges)))]
) -> Response:
    """Replace a stored completion's metadata."""
    metadata = read_metadata(body.metadata) or {}
    store = CompletionStore(hub_of(request).store)
    return json_response(_object(await hub_of(request).in_thread(lambda: store.set_metadata(completion_id, metadata))))


@router.delete("/v1/chat/completions/{completion_id}")
async def delete_completion(request: Request, completion_id: str) -> Response:
    """Remove a stored completion."""
    store = CompletionStore(hub_of(request).store)
    await hub_of(request).in_thread(lambda: store.delete(completion_id))
    return json_response({"id": completion_id, "object": "chat.completion.deleted", "deleted": True})


@router.get("/v1/chat/completions/{completion_id}/messages")
async def list_messages(
    request: Request, completion_id: str, after: str | None = None, limit: int = Query(20, ge=1, le=100), order: Order = "asc"
) -> Response:
    """The messages that a stored completion answers."""
    hub = hub_of(request)
    stored, items = await _completion(request, completion_id), ItemStore(hub.store, hub.spool)

    def show() -> Response:
        messages = msgspec.json.decode(stored.messages, type=list[Item])
        if order == "desc":
            messages.reverse()
        start = 0
        if after is not None:
            ids = [message["id"] for message in messages]
            if after not in ids:
                raise BadRequest(f"'after': no such message here: {after[:100]}", param="after")
            start = ids.index(after) + 1
        page = [to_openai_message(items, message) for message in messages[start : start + limit]]
        return json_response(_page(page, len(messages) > start + limit))

    return await asyncio.to_thread(show)


async def _completion(request: Request, id: str) -> StoredCompletion:
    hub = hub_of(request)
    return await hub.in_thread(lambda: CompletionStore(hub.store).completion(id))


def _object(completion: StoredCompletion) -> dict[str, Any]:
    return {**msgspec.json.decode(completion.data), "metadata": completion.metadata}


def _page(data: list[Any], has_more: bool) -> dict[str, Any]:
    ids = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return {"object": "list", "data": data, **ids, "has_more": has_more}
