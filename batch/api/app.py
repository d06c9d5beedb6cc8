"""The app factory: one FastAPI app a port, with health, errors and the guard around its routers."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from batch import __version__
from batch.api.errors import (
    error_response,
    handle_batch_error,
    handle_bug,
    handle_disconnect,
    handle_http_error,
    handle_invalid_parameter,
)
from batch.api.http.access import Guard
from batch.api.routes import routers
from batch.api.server.metrics import watch
from batch.errors import BatchError, Unavailable
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
    app.add_exception_handler(BatchError, handle_batch_error)
    app.add_exception_handler(RequestValidationError, handle_invalid_parameter)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(ClientDisconnect, handle_disconnect)
    app.add_exception_handler(Exception, handle_bug)
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
