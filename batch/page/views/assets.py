"""The page's own scripts and styles, which browsers keep as long as they like: another version has another name."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import NotFound
from batch.page.rendering import assets
from batch.page.service import PageService


async def asset(page: PageService, request: Request) -> Response:
    """One of the page's files."""
    served = assets().get(request.path_params["name"])
    if served is None:
        raise NotFound("There is no such file of the page: load it anew.")
    return Response(served.data, media_type=served.media_type, headers={"cache-control": "public, max-age=31536000, immutable"})


async def missing(page: PageService, request: Request) -> Response:
    """What stands at no address of the page."""
    raise NotFound("There is no such page.")
