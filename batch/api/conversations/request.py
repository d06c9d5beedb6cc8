"""What clients send about conversations, checked."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from batch.api.json_body import Body

MAX_NEW_ITEMS = 20


class ConversationBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/conversations."""

    items: Annotated[list[dict[str, Any]], Meta(max_length=MAX_NEW_ITEMS)] | None = None
    metadata: dict[str, Any] | None = None


class MetadataBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/conversations/{id}."""

    metadata: dict[str, Any]


class ItemsBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/conversations/{id}/items."""

    items: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MAX_NEW_ITEMS)]
