"""GET /page/events: the status once a second, and which jobs ended, as server-sent events."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from batch.page.live_view import StreamPlace
from batch.page.service import PageService


class _LiveResponse(StreamingResponse):
    """Gives its place back however it ends, also where the client went before the first event was asked for."""

    def __init__(self, page: PageService, place: StreamPlace) -> None:
        super().__init__(page.live_view.follow(place), media_type="text/event-stream")
        self._place = place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._place.release()


async def stream(page: PageService, request: Request) -> Response:
    """Events until the client goes; 503 when too many watch. Who asks for the head alone takes no place."""
    if getattr(request.state, "is_head", False):
        return Response(media_type="text/event-stream")
    return _LiveResponse(page, page.live_view.take_place())
