"""The app factory: one FastAPI app a port, with errors and access checks around its routers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp

from batch import __version__
from batch.api.errors import (
    error_response,
    handle_batch_error,
    handle_bug,
    handle_disconnect,
    handle_http_error,
    handle_invalid_parameter,
)
from batch.api.http.access import AccessControl
from batch.api.port_app import PortApp
from batch.api.responses.background import BackgroundResponses
from batch.api.routes import routers_of
from batch.api.server.metrics import count_ended_jobs
from batch.api.server.model_loading import ModelControl
from batch.batches.service import BatchService
from batch.errors import BatchError
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Kind
from batch.search.service import SearchService
from batch.settings import Settings


@dataclass(frozen=True, slots=True)
class AppServices:
    """What runs beside the ports, and is the same for all three."""

    batches: BatchService
    background: BackgroundResponses
    search: SearchService
    mcp: ASGIApp | None = None
    """Answers at /mcp of the chat model's port."""
    loader: ModelControl | None = None
    """Loads and unloads models."""


def create_app(
    kind: Kind,
    hub: Hub,
    settings: Settings,
    services: AppServices | None = None,
    more_routers: Sequence[APIRouter] = (),
) -> PortApp:
    """The app of one port: the routes of every port, and `more_routers`. `app.state` holds kind, hub, settings and the
    services for its routers."""
    app = PortApp(title=f"batch {kind}", version=__version__, docs_url=None, redoc_url=None)
    app.state.kind, app.state.hub, app.state.settings = kind, hub, settings
    if services is not None:
        app.state.batches, app.state.background = services.batches, services.background
        app.state.loader = services.loader
        app.state.search = services.search
    app.router.redirect_slashes = False
    routers = routers_of(kind)
    for router in (*routers, *more_routers):
        app.include_router(router)
    app.call_plainly(routers)
    if services is not None and services.mcp is not None and kind is Kind.VLM:
        app.router.routes.append(Route("/mcp", services.mcp, methods=["GET", "POST", "DELETE"], include_in_schema=False))
    count_ended_jobs(app)
    app.add_exception_handler(BatchError, handle_batch_error)
    app.add_exception_handler(RequestValidationError, handle_invalid_parameter)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(ClientDisconnect, handle_disconnect)
    app.add_exception_handler(Exception, handle_bug)
    max_file_bytes = settings.files.max_bytes
    app.enter_by(AccessControl(app.dispatch, limits=settings.limits, max_file_bytes=max_file_bytes, refusal=error_response))
    return app
