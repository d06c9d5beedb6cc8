"""POST /models/load and /models/unload, as llama-server's router has them: which models hold memory."""

from __future__ import annotations

from typing import Annotated, Protocol

from fastapi import APIRouter, Depends, Request
from msgspec import Meta
from starlette.responses import Response

from batch.api.json_body import Body, documented, json_body, json_response, reader

router = APIRouter()

MAX_NAME_CHARS = 256


class ModelControl(Protocol):
    """Loads and unloads models by the names that the settings give them; vlm, embedding and stt are the kinds' own."""

    async def load(self, name: str) -> None:
        """Load a model; returns once it is ready. Raises NotFound and Unavailable."""
        ...

    async def unload(self, name: str) -> None:
        """Free a model's memory; its next job loads it again. Raises NotFound, and Conflict while it works."""
        ...


class ModelBody(Body, frozen=True, kw_only=True):
    """The body of both routes."""

    model: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]
    """A name of the settings, or vlm, embedding, stt."""


ReadModel = Annotated[ModelBody, Depends(json_body(reader(ModelBody)))]


@router.post("/models/load", openapi_extra=documented(ModelBody))
async def load(request: Request, body: ReadModel) -> Response:
    """Load a model, and answer once it is ready."""
    await request.app.state.loader.load(body.model)
    return json_response({"success": True})


@router.post("/models/unload", openapi_extra=documented(ModelBody))
async def unload(request: Request, body: ReadModel) -> Response:
    """Free a model's memory until its next job."""
    await request.app.state.loader.unload(body.model)
    return json_response({"success": True})
