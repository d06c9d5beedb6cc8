"""Pages of stored items, with or without their pictures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from fastapi import Request

from batch.conversations.item_store import ItemStore, without_pictures
from batch.conversations.rows import Item
from batch.errors import BadRequest
from batch.queue.hub.hub import Hub

PICTURES = "message.input_image.image_url"
"""What `include` names to have the pictures of items."""

MAX_PAGE_BYTES = 16 << 20
"""Of a page's items, unless one alone has more: an item may be as large as a request. What is left is the next page's."""


async def item_page(
    hub: Hub,
    items: ItemStore,
    ids: Sequence[str],
    request: Request,
    *,
    after: str | None,
    limit: int,
    order: Literal["asc", "desc"],
) -> dict[str, object]:
    """A page of the items with these ids, which are in order from the oldest. Raises BadRequest for an unknown `after`."""
    ordered = list(ids) if order == "asc" else list(ids)[::-1]
    if after is not None:
        if after not in ordered:
            raise BadRequest(f"'after': no such item here: {after[:100]}", param="after")
        ordered = ordered[ordered.index(after) + 1 :]
    with_pictures = wants_pictures(request)

    def read() -> tuple[list[Item], int]:
        return items.first_items(ordered[:limit], MAX_PAGE_BYTES, with_pictures=with_pictures)

    # Pictures may have to be brought here first: nobody else's look at the store waits for that.
    page, count = await (asyncio.to_thread(read) if with_pictures else hub.in_thread(read))
    if with_pictures:
        page = await asyncio.to_thread(lambda: [items.with_pictures(item) for item in page])
    else:
        page = [without_pictures(item) for item in page]
    page = [to_openai(item) for item in page]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(ordered) > count,
    }


def to_openai(item: Item) -> Item:
    """An item as lists show it: the text of a message always stands in a part."""
    content = item.get("content")
    if not isinstance(content, str):
        return item
    kind = "output_text" if item.get("role") == "assistant" else "input_text"
    return {**item, "content": [{"type": kind, "text": content}]}


def wants_pictures(request: Request) -> bool:
    """Whether a client asks to include the pictures of items."""
    query = request.query_params
    return PICTURES in [*query.getlist("include"), *query.getlist("include[]")]
