"""GET and POST /v1/search on every port: what was captioned, heard or written."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import Response

from batch.api.json_body import documented, json_response
from batch.api.search.request import SearchBody, read_json, read_parameters
from batch.search.request import SearchRequest
from batch.search.service import SearchService

router = APIRouter()


@router.get("/v1/search")
async def search_by_address(request: Request) -> Response:
    """Search with the keys of a query string: `?q=red+circle&kind=image`."""
    return await _search(request, read_parameters(request.query_params))


@router.post("/v1/search", openapi_extra=documented(SearchBody))
async def search(request: Request) -> Response:
    """Search with the same keys as JSON."""
    return await _search(request, read_json(await request.body()))


async def _search(request: Request, search: SearchRequest) -> Response:
    service: SearchService = request.app.state.search
    return json_response(await service.search(search))
