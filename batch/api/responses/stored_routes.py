"""Stored responses: fetching, streaming again, cancelling and deleting them, and the items that they were made from."""

from __future__ import annotations

from typing import Literal

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from batch.api.generation.jobs import hub_of
from batch.api.jobs.item_pages import item_page
from batch.api.json_body import json_response
from batch.api.responses.background import BackgroundResponses
from batch.api.responses.replay import events_of_response
from batch.api.responses.request import ResponsesBody
from batch.api.responses.response import ResponseObject
from batch.api.responses.routes import response_lifetime, stream_events
from batch.conversations.item_store import ItemStore
from batch.conversations.response_store import ResponseStore
from batch.conversations.rows import StoredResponse
from batch.errors import BadRequest

router = APIRouter()


@router.get("/v1/responses/{response_id}")
async def get_response(
    request: Request, response_id: str, stream: bool = False, starting_after: int = Query(-1, ge=-1)
) -> Response:
    """A response as far as it is known, or its events from a number on."""
    hub = hub_of(request)
    store = ResponseStore(hub.store)
    stored = await hub.in_thread(lambda: store.response(response_id))
    if not stored.background or stored.is_ended:
        await hub.in_thread(lambda: store.touch(response_id, response_lifetime(request.app.state.settings.retention)))
    if not stream:
        return Response(stored.data, media_type="application/json")
    if stored.background:
        background: BackgroundResponses = request.app.state.background
        return stream_events(background, response_id, starting_after)
    if not stored.is_ended:
        raise BadRequest(
            "A response that is not in the background is streamed to the client that asked for it.", param="stream"
        )
    response = msgspec.json.decode(stored.data, type=ResponseObject)
    events = events_of_response(msgspec.json.decode(stored.request, type=ResponsesBody), response)
    data = b"".join(piece for number, piece in events if number > starting_after)
    return Response(data, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})


@router.post("/v1/responses/{response_id}/cancel")
async def cancel_response(request: Request, response_id: str) -> Response:
    """Stop a background response; one that was cancelled stays as it is."""
    hub = hub_of(request)
    store = ResponseStore(hub.store)
    stored = await hub.in_thread(lambda: store.response(response_id))
    if not stored.background:
        raise BadRequest("Only a response that was created in the background can be cancelled.", param="response_id")
    if not stored.is_ended:
        await _cancel(request, stored)
        stored = await hub.in_thread(lambda: store.response(response_id))
    if stored.status != "cancelled":
        raise BadRequest(f"The response is {stored.status}: it cannot be cancelled any more.", param="response_id")
    return Response(stored.data, media_type="application/json")


@router.delete("/v1/responses/{response_id}")
async def delete_response(request: Request, response_id: str) -> Response:
    """Remove a response; one that runs is cancelled first."""
    hub = hub_of(request)
    store = ResponseStore(hub.store)
    stored = await hub.in_thread(lambda: store.response(response_id))
    if stored.background and not stored.is_ended:
        await _cancel(request, stored)
    await hub.in_thread(lambda: store.delete(response_id))
    return json_response({"id": response_id, "object": "response", "deleted": True})


async def _cancel(request: Request, stored: StoredResponse) -> None:
    background: BackgroundResponses = request.app.state.background
    await background.cancel(stored)


@router.get("/v1/responses/{response_id}/input_items")
async def list_input_items(
    request: Request,
    response_id: str,
    after: str | None = None,
    limit: int = Query(20, ge=1, le=100),
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """The items that a response was made from, its chain included."""
    hub = hub_of(request)
    store, items = ResponseStore(hub.store), ItemStore(hub.store, hub.spool)
    await hub.in_thread(lambda: store.response(response_id))
    ids = await hub.in_thread(lambda: store.item_ids(response_id, output=False))
    return json_response(await item_page(hub, items, ids, request, after=after, limit=limit, order=order))
