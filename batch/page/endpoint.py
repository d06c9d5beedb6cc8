"""A view as an endpoint: who asks is checked, errors become a page, and every answer has the page's headers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from batch.api.errors import retry_headers, to_openai_error
from batch.errors import BadRequest, BatchError, Forbidden, NotFound
from batch.page.access import add_headers, check_access
from batch.page.parameters import Parameters
from batch.page.rendering import NOTICES, address, render
from batch.page.service import PageService

View = Callable[[PageService, Request], Awaitable[Response]]
_TITLES: dict[type[BatchError], str] = {
    NotFound: "Not found",
    Forbidden: "Not allowed",
    BadRequest: "This cannot be done",
}


def add_view(router: APIRouter, service: PageService, path: str, view: View, *, method: str = "GET") -> None:
    """Serve a view at a path."""

    async def endpoint(request: Request) -> Response:
        try:
            check_access(request)
            response = await view(service, request)
        except BatchError as error:
            response = error_response(request, error)
        if isinstance(response, StreamingResponse) and getattr(request.state, "is_head", False):
            # Nobody reads the body: a film would be read for nothing, and a stream of events never ends.
            response = Response(status_code=response.status_code, headers=dict(response.headers))
        add_headers(response)
        return response

    router.add_route(path, endpoint, methods=[method], include_in_schema=False)


def error_response(request: Request, error: BatchError) -> Response:
    """An error as a page, or as JSON for who asks for that."""
    if wants_json(request):
        return JSONResponse(to_openai_error(error), error.status, retry_headers(error))
    title = next((title for kind, title in _TITLES.items() if isinstance(error, kind)), "Something went wrong")
    response = render("error.html", error.status, page="", title=title, message=error.message, notice=None)
    response.headers.update(retry_headers(error))
    return response


def wants_json(request: Request) -> bool:
    """Whether a client says that it reads JSON and not HTML."""
    accept = request.headers.get("accept", "")
    return "application/json" in accept and "text/html" not in accept


def notice_of(request: Request) -> str | None:
    """What a page says about what was just done."""
    parameters = Parameters.of_address(request)
    sentence = NOTICES.get(parameters.text("notice") or "")
    return None if sentence is None else sentence.format(n=parameters.number("n") or 0)


def done(request: Request, back: str, notice: str, number: int = 1) -> Response:
    """The answer to a form: back to a page, which says what was done; the same as JSON for who asks for that."""
    if wants_json(request):
        return JSONResponse({"notice": notice, "n": number, "message": NOTICES[notice].format(n=number)})
    path, _, query = back.partition("?")
    location = address(path, notice=notice, n=number)
    return Response(status_code=303, headers={"location": f"{location}&{query}" if query else location})
