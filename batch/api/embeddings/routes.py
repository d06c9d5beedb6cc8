"""POST /v1/embeddings as OpenAI has it, /embeddings and /embedding in llama-server's own shape."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from batch.api.embeddings.request import EmbeddingBody, EmbeddingRequest
from batch.api.embeddings.response import read_vectors, to_native, to_openai
from batch.api.jobs.disconnect import result_for_client
from batch.api.jobs.submit import submit
from batch.api.json_body import OFF_LOOP_BYTES, documented
from batch.api.openapi_schemas import NOTHING
from batch.errors import NotSupported
from batch.payloads.embedding import EmbeddingResult
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Draft, Kind, Origin, Priority

router = APIRouter()

MAX_SHORT_REQUEST_INPUTS = 64
"""Calls of more inputs let others go first."""


async def embeddings(request: Request) -> Response:
    """Vectors of texts, in OpenAI's shape."""
    return await _embed(request, is_native=False)


# Called by PortApp itself, as it needs nothing of FastAPI's; below it is documented.
router.add_route("/v1/embeddings", embeddings, methods=["POST"], include_in_schema=False)
router.post("/v1/embeddings", openapi_extra=documented(EmbeddingBody))(embeddings)


@router.post("/embeddings", openapi_extra=documented(EmbeddingBody))
@router.post("/embedding", openapi_extra=documented(EmbeddingBody))
async def native_embeddings(request: Request) -> Response:
    """Vectors of texts, as a list of {"index", "embedding": [[…]]}."""
    return await _embed(request, is_native=True)


@router.post("/v1/rerank", openapi_extra=NOTHING)
@router.post("/v1/reranking", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
@router.post("/reranking", include_in_schema=False)
async def rerank() -> Response:
    """Refused: no model here ranks."""
    raise NotSupported("This model makes vectors and ranks nothing: embed the texts and compare their vectors instead.")


async def _embed(request: Request, *, is_native: bool) -> Response:
    data = await request.body()
    is_large = len(data) > OFF_LOOP_BYTES
    body = await asyncio.to_thread(EmbeddingRequest.read, data) if is_large else EmbeddingRequest.read(data)
    del data
    hub: Hub = request.app.state.hub
    blob = await hub.keep(body.input_json) if body.input_json is not None else None
    priority = Priority.LARGE_REQUEST if body.input_count > MAX_SHORT_REQUEST_INPUTS else Priority.INTERACTIVE
    draft = Draft(body.payload(blob), Origin.HTTP, priority, blobs=() if blob is None else (blob,), waited=True)
    (ticket,) = await submit(request, [hub.for_model(draft, body.model)], is_small=body.inputs is not None)
    result = await result_for_client(request, ticket, EmbeddingResult)
    vectors = read_vectors(result, await hub.fetch(result.blob) if result.blob is not None else None)
    if is_native or body.is_native:
        chunks = to_native(vectors)
    else:
        name = body.model or hub.model(Kind.EMBEDDING).name
        chunks = to_openai(vectors, name, sum(result.tokens), as_base64=body.as_base64)
    if result.blob is not None:
        return StreamingResponse(chunks, media_type="application/json")
    return Response(b"".join(chunks), media_type="application/json")
