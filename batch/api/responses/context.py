"""What a Responses request goes on from: items of an earlier response or a conversation, and those it refers to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batch.api.generation.conversation import MAX_ID_CHARS, MAX_TURNS
from batch.api.jobs.answer_ids import random_id
from batch.api.json_body import JsonObject
from batch.api.responses.request import ResponsesBody
from batch.conversations.conversation_store import ConversationStore
from batch.conversations.item_store import SPOOLED, ItemStore
from batch.conversations.response_store import ResponseStore
from batch.conversations.rows import Item
from batch.errors import BadRequest, NotFound
from batch.queue.hub.hub import Hub

_PREFIXES = {
    "message": "msg_",
    "function_call": "fc_",
    "function_call_output": "fco_",
    "custom_tool_call": "ctc_",
    "custom_tool_call_output": "ctco_",
    "reasoning": "rs_",
}


@dataclass(frozen=True, slots=True)
class ResponseContext:
    """The items that a response is made from."""

    items: list[Item]
    """Inherited ones and then the input's, oldest first."""
    inherited: int
    """How many of them were there before the request."""


def resolve_context(hub: Hub, body: ResponsesBody, response_lifetime_s: int | None) -> ResponseContext:
    """The whole context of a request. Blocking. Raises BadRequest and NotFound, naming the field."""
    items = ItemStore(hub.store, hub.spool)
    inherited_ids = _inherited_ids(hub, body, response_lifetime_s)
    own = input_items(body.input, items)
    if len(inherited_ids) > MAX_TURNS + len(own):  # not to load them all: a conversation grows without end
        raise BadRequest(f"The conversation has {len(inherited_ids)} items; {MAX_TURNS} are taken at most", param="input")
    inherited = items.items(inherited_ids)
    replaced = {item["id"] for item in own}
    inherited = [item for item in inherited if item["id"] not in replaced]
    if len(inherited) + len(own) > MAX_TURNS:
        raise BadRequest(
            f"The conversation has {len(inherited) + len(own)} items; {MAX_TURNS} are taken at most", param="input"
        )
    if inherited:
        _check_outputs([*inherited, *own])
    return ResponseContext([*inherited, *own], len(inherited))


def _inherited_ids(hub: Hub, body: ResponsesBody, response_lifetime_s: int | None) -> list[str]:
    if body.conversation_id is not None:
        try:
            return ConversationStore(hub.store).item_ids(body.conversation_id)
        except NotFound as error:
            raise NotFound(error.message, param="conversation") from None
    if body.previous_response_id is None:
        return []
    store, id = ResponseStore(hub.store), body.previous_response_id
    try:
        previous = store.response(id)
    except NotFound:
        raise BadRequest(
            f"Previous response with id '{id[:MAX_ID_CHARS]}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        ) from None
    if not previous.is_ended:
        raise BadRequest(f"The response {id} is {previous.status}: wait for its end.", param="previous_response_id")
    store.touch(id, response_lifetime_s)
    return store.item_ids(id)


def input_items(value: str | Sequence[JsonObject], items: ItemStore, field: str = "input") -> list[Item]:
    """A request's input as items with ids, references replaced by what they refer to, pictures in the spool. Blocking.

    Raises BadRequest and NotFound, naming the item.
    """
    if isinstance(value, str):
        value = [{"type": "message", "role": "user", "content": value}]
    own: list[Item] = []
    for at, item in enumerate(value):
        path = f"{field}[{at}]"
        if _is_reference(item):
            id = item.get("id")
            if not isinstance(id, str):
                raise BadRequest(f"Field '{path}.id': should be the id of a stored item", param=f"{path}.id")
            own.append(items.item(id))
        else:
            own.append(_with_id(_normalized(item, path), items))
    return items.spool_pictures(own)


def _is_reference(item: JsonObject) -> bool:
    kind = item.get("type")
    return kind == "item_reference" or (kind is None and "role" not in item and "content" not in item)


def _normalized(item: JsonObject, path: str) -> Item:
    kind = item.get("type") or "message"
    normalized: Item = {**item, "type": kind}
    content = item.get("content")
    for part in content if isinstance(content, list) else ():
        url = part.get("image_url") if isinstance(part, dict) else None
        if isinstance(url, str) and url.startswith(SPOOLED):
            raise BadRequest(f"Field '{path}.content': image_url should be a data: URL", param=f"{path}.content")
    if kind == "message":
        normalized.setdefault("status", "completed")
    return normalized


def _with_id(item: Item, items: ItemStore) -> Item:
    """The item under its own id, or a new one where it has none or that id is another item's."""
    id = item.get("id")
    if isinstance(id, str) and 0 < len(id) <= MAX_ID_CHARS:
        same_id = items.items([id])
        if not same_id or same_id[0] == item:
            return item
    return {**item, "id": random_id(_PREFIXES.get(str(item["type"]), "item_"))}


def _check_outputs(items: Sequence[Item]) -> None:
    """Raise BadRequest for a call of the conversation whose output is missing."""
    outputs = {item.get("call_id") for item in items if str(item["type"]).endswith("_call_output")}
    for item in items:
        if item["type"] in ("function_call", "custom_tool_call") and item.get("call_id") not in outputs:
            raise BadRequest(f"No tool output found for function call {item.get('call_id')}.", param="input")
