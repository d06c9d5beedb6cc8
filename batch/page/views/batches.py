"""GET /page/batches: the batches of /v1/batches and /v1/messages/batches."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.batches.batch_store import BatchStore
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters
from batch.page.rendering import render
from batch.page.service import PageService

PAGE_BATCHES = 50


async def show(page: PageService, request: Request) -> Response:
    """A page of batches, the newest first."""
    after = Parameters.of_address(request).text("after", 128)
    batches, has_more = await page.read(lambda store: BatchStore(store).batches(None, after=after, limit=PAGE_BATCHES))
    return render(
        "batches.html",
        page="batches",
        batches=batches,
        after=batches[-1].id if has_more else None,
        is_first=after is None,
        notice=notice_of(request),
    )
