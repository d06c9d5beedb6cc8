"""GET /page/item/{id}: one file with its picture or player, its text, and its jobs."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.media.kind import MediaKind
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters, whole_number
from batch.page.reading.item import Item, read_item
from batch.page.rendering import render
from batch.page.service import PageService

PAGE_SEGMENTS = 400


async def show(page: PageService, request: Request) -> Response:
    """The page of a file of the ledger."""
    id = whole_number(request.path_params["id"], "id")
    parameters = Parameters.of_address(request)
    at, first = parameters.seconds("t"), parameters.number("segment")
    spool, inbox = page.hub.spool, page.settings.inbox_dir
    item = await page.read(lambda store: read_item(store, spool, id))
    current = None if at is None else _segment_at(item, at)
    if first is None:
        first = (current or 0) // PAGE_SEGMENTS * PAGE_SEGMENTS
    return render(
        "item.html",
        page="item",
        item=item,
        is_picture=item.file.kind is MediaKind.IMAGE,
        player={MediaKind.AUDIO: "audio", MediaKind.VIDEO: "video"}.get(item.file.kind or MediaKind.UNKNOWN),
        at=at,
        current=current,
        first=first,
        segments=list(enumerate(item.segments))[first : first + PAGE_SEGMENTS],
        page_segments=PAGE_SEGMENTS,
        inbox=str(inbox),
        notice=notice_of(request),
    )


def _segment_at(item: Item, seconds: float) -> int | None:
    """The segment that is said then, or the last one before."""
    before = [number for number, segment in enumerate(item.segments) if segment.start <= seconds + 0.01]
    return before[-1] if before else None
