"""GET /page/search: what was captioned, heard or written, by words or by likeness to a file."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from batch.errors import BadRequest, BatchError
from batch.page.endpoint import notice_of
from batch.page.parameters import Parameters
from batch.page.reading.file_pages import ids_of_paths
from batch.page.rendering import render
from batch.page.service import PageService
from batch.search.request import SEARCHABLE_KINDS, SearchRequest
from batch.search.result import SearchResult

PAGE_HITS = 20
MAX_OFFSET = 180
_DEGRADED = {
    "embedding_unavailable": "The embedding model is not there: only files with these very words are shown.",
    "other_model": "The index was made by another embedding model: only files with these very words are shown.",
    "reindexing": "The index is being made anew: some files may be missing.",
}


async def show(page: PageService, request: Request) -> Response:
    """Hits with their words marked, each leading to the moment in its recording; what is wrong with a query is said."""
    parameters = Parameters.of_address(request)
    words, like = parameters.text("q"), parameters.text("like")
    kinds = parameters.texts("kind")
    offset = min(parameters.number("offset") or 0, MAX_OFFSET)
    result: SearchResult | None = None
    problem: BatchError | None = None
    ids: dict[bytes, int] = {}
    if words or like:
        try:
            search = SearchRequest.of(
                query=words,
                like=None if words else like,
                kinds=kinds or None,
                folder=parameters.text("folder"),
                language=parameters.text("language"),
                limit=PAGE_HITS,
                offset=offset,
            )
            result = await page.search.search(search)
            paths = [hit.source_path() for hit in result.data]
            ids = await page.read(lambda store: ids_of_paths(store, paths))
        except BatchError as error:
            if not isinstance(error, BadRequest) and error.status not in (404, 429, 503):
                raise
            problem = error
    return render(
        "search.html",
        200 if problem is None else problem.status,
        page="search",
        words=words,
        like=like,
        kinds=kinds,
        all_kinds=SEARCHABLE_KINDS,
        folder=parameters.text("folder"),
        language=parameters.text("language"),
        offset=offset,
        page_hits=PAGE_HITS,
        max_offset=MAX_OFFSET,
        result=result,
        degraded=_DEGRADED.get(result.degraded or "") if result else None,
        ids=ids,
        problem=problem.message if problem else None,
        notice=notice_of(request),
    )
