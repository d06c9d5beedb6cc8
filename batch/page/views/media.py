"""Pictures, sound and films of the ledger's files, and small pictures of them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.page.access import MEDIA_POLICY
from batch.page.media.byte_range import file_response
from batch.page.media.previews import PREVIEW_PIXELS, THUMBNAIL_PIXELS
from batch.page.parameters import whole_number
from batch.page.service import PageService


async def original(page: PageService, request: Request) -> Response:
    """A file's own bytes, or a range of them."""
    source = await page.open_source(whole_number(request.path_params["id"], "id"))
    headers = request.headers
    return await file_response(source, headers.get("range"), headers.get("if-none-match"), headers.get("if-range"))


async def thumbnail(page: PageService, request: Request) -> Response:
    """A picture for the gallery."""
    return await _small(page, request, THUMBNAIL_PIXELS)


async def preview(page: PageService, request: Request) -> Response:
    """A picture for its own page, whatever format the file has."""
    return await _small(page, request, PREVIEW_PIXELS)


async def _small(page: PageService, request: Request, pixels: int) -> Response:
    id = whole_number(request.path_params["id"], "id")
    source = await page.open_source(id)
    source.close()
    tag = f'"{source.tag}-{pixels}"'
    headers = {"etag": tag, "cache-control": "private, max-age=300", "content-security-policy": MEDIA_POLICY}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(await page.thumbnail(id, pixels), media_type="image/webp", headers=headers)
