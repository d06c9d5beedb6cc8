"""GET /page/events: the status once a second, and which jobs ended, as server-sent events."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from batch.page.service import PageService


async def stream(page: PageService, request: Request) -> Response:
    """Events until the client goes; 503 when too many watch."""
    return StreamingResponse(page.live_view.follow(), media_type="text/event-stream")
