"""What is kept of a chat completion whose client asked for that: the object, and the messages that it answers."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from batch.api.chat_completions.response import ChatCompletion
from batch.conversations.completion_store import CompletionStore, StoredCompletion
from batch.conversations.item_store import ItemStore, picture_blobs
from batch.conversations.rows import Item
from batch.payloads.json_text import encode
from batch.queue.hub.hub import Hub

KEPT_PART_TYPES = ("text", "image_url")


class _RawChat(msgspec.Struct, frozen=True):
    messages: list[dict[str, Any]]


def store_completion(
    hub: Hub, body: bytes, completion: ChatCompletion, metadata: dict[str, str] | None, lifetime_s: int | None
) -> None:
    """Store a completion with the messages of its request's body. Blocking; safe from a kill when it returns."""
    raw = msgspec.json.decode(body, type=_RawChat)
    items = ItemStore(hub.store, hub.spool)
    messages = items.spool_pictures([stored_message(completion.id, at, one) for at, one in enumerate(raw.messages)])
    stored = StoredCompletion(
        id=completion.id,
        model=completion.model,
        metadata=metadata or {},
        data=encode(completion),
        messages=encode(messages),
        created_at=completion.created,
        expires_at=None if lifetime_s is None else int(time.time()) + lifetime_s,
    )
    CompletionStore(hub.store).create(stored, [sha256 for one in messages for sha256 in picture_blobs(one)])


def stored_message(completion_id: str, place: int, message: dict[str, Any]) -> Item:
    """A message of a request as it is stored; pictures stand in its parts as an item's do."""
    content = message.get("content")
    parts = [_flat(part) for part in content if _is_kept(part)] if isinstance(content, list) else None
    fields = {key: message[key] for key in ("name", "tool_calls", "tool_call_id") if message.get(key) is not None}
    text = content if isinstance(content, str) else None
    # Under "content" until it is shown: that is where an item's pictures are looked for.
    by_type = {"content": parts, "text": text}
    return {"id": f"{completion_id}-{place}", "role": message.get("role"), **fields, **by_type}


def to_openai_message(items: ItemStore, message: Item) -> Item:
    """A stored message as OpenAI's clients read it, with its pictures."""
    message = items.with_pictures(message)
    parts = message.pop("content", None)
    text = message.pop("text", None)
    nested = [_nested(part) for part in parts] if isinstance(parts, list) else None
    return {**message, "content": text, "content_parts": nested}


def _is_kept(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in KEPT_PART_TYPES


def _flat(part: dict[str, Any]) -> Item:
    url = part.get("image_url")
    if part["type"] == "text":  # whatever else it holds was not read
        return {"type": "text", "text": part.get("text")}
    return {**part, "image_url": url.get("url")} if isinstance(url, dict) else part


def _nested(part: Any) -> Any:
    if isinstance(part, dict) and part.get("type") == "image_url":
        return {**part, "image_url": {"url": part.get("image_url")}}
    return part
