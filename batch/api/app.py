"""The app factory: one FastAPI app a port, with health, errors and the guard around its routers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from batch import __version__
from batch.api.http.access import Guard
from batch.api.messages import response as messages_wire
from batch.api.routes import routers
from batch.api.server.metrics import watch
from batch.errors import BadRequest, BatchError, Cancelled, NotFound, QueueFull, Unavailable
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.settings import Settings


def create_app(kind: Kind, hub: Hub, settings: Settings) -> FastAPI:
    """The app of one port. `app.state` holds kind, hub and settings for its routers."""
    app = FastAPI(title=f"batch {kind}", version=__version__, docs_url=None, redoc_url=None)
    app.state.kind, app.state.hub, app.state.settings = kind, hub, settings
    app.router.redirect_slashes = False
    for path in ("/health", "/v1/health"):
        app.add_api_route(path, health, methods=["GET"])
        app.add_api_route(path, health, methods=["HEAD"], include_in_schema=False)
    for router in routers(kind):
        app.include_router(router)
    watch(app)
    app.add_exception_handler(BatchError, _batch_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _bug)
    app.add_middleware(Guard, limits=settings.limits, refusal=error_response)
    return app


async def health(request: Request) -> JSONResponse:
    """`{"status":"ok"}`, or llama-server's 503 while the model is not in."""
    state = request.app.state.hub.shown(request.app.state.kind)
    if state.status == "ready":
        return JSONResponse({"status": "ok"})
    error = Unavailable(state.error if state.status == "failed" else "Loading model")
    body = error.body()
    if state.status == "loading":
        body["progress"] = round(state.progress, 3)
    return JSONResponse({"error": body}, error.status)


def error_response(error: BatchError, path: str = "") -> Response:
    """A BatchError as this path's clients expect it."""
    headers = {}
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.details.get("retry_after", 1))
    if isinstance(error, Unavailable):
        headers["Retry-After"] = "5"
    body: Any = {"error": error.body()}
    if path.startswith("/v1/messages"):
        body = messages_wire.error_body(error)
    elif path in ("/inference", "/load"):
        body = {"error": error.message}
    return JSONResponse(body, error.status if not isinstance(error, Cancelled) else 499, headers)


async def _batch_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, BatchError)
    return error_response(error, request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    return error_response(BadRequest(f'"{field}" is not valid: {first["msg"]}.'), request.url.path)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code in (404, 405):
        return error_response(NotFound("File Not Found"), request.url.path)
    return error_response(BadRequest(str(error.detail)), request.url.path)


async def _gone(request: Request, error: Exception) -> Response:
    """The caller hung up in the middle of its body: nobody hears this."""
    return Response(status_code=Cancelled.status)


async def _bug(request: Request, error: Exception) -> Response:
    return error_response(BatchError("The service made a mistake with this request; its log says more."), request.url.path)
