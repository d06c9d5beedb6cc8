"""POST /v1/embeddings as OpenAI has it, /embeddings and /embedding in llama-server's own shape."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from msgspec import Meta

from batch.api.http.content_digest import digest
from batch.api.jobs.disconnect import cancel_on_disconnect
from batch.api.jobs.submit import KEY_HEADER, submit
from batch.api.json_body import Body, documented, parse_json
from batch.api.openapi_schemas import NOTHING
from batch.errors import BadRequest, NotSupported, TooLarge
from batch.payloads.untyped import to_payload
from batch.queue.jobs import Draft, Kind, Origin, Priority
from batch.queue.untyped_hub import facts, result_dict

router = APIRouter()

LARGE = 64
"""Items in a call above which short calls go first."""
MOST_INPUTS = 1 << 16
"""Most texts in a call, which bounds the memory its vectors take."""
INLINE_INPUT = 8 << 10
"""Bytes of input above which it goes to the spool instead of the job's row."""
_THREAD = 1 << 18
"""Bytes of body above which it is parsed off the event loop."""
_STEP = 1 << 20
"""Bytes of vectors turned into text at a time: a few milliseconds."""

Matrix = npt.NDArray[np.float32]


class EmbeddingBody(Body, frozen=True, kw_only=True):
    """What the routes document; `input` is read by hand, as its errors name the item."""

    model: Any = None
    input: str | list[str | int | list[int | str]] | None = None
    content: str | list[str | int | list[int | str]] | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    truncate: bool | None = None


@router.post("/v1/embeddings", openapi_extra=documented(EmbeddingBody))
async def embeddings(request: Request) -> Response:
    return await _embed(request, native=False)


@router.post("/embeddings", openapi_extra=documented(EmbeddingBody))
@router.post("/embedding", openapi_extra=documented(EmbeddingBody))
async def native_embeddings(request: Request) -> Response:
    """A list of {"index", "embedding": [[…]]}."""
    return await _embed(request, native=True)


@router.post("/v1/rerank", openapi_extra=NOTHING)
@router.post("/v1/reranking", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
@router.post("/reranking", include_in_schema=False)
async def rerank() -> Response:
    raise NotSupported("This model makes vectors and ranks nothing: embed the texts and compare their vectors instead.")


async def _embed(request: Request, *, native: bool) -> Response:
    data = await request.body()
    fingerprint = digest(data) if KEY_HEADER in request.headers else None
    job, blob, shape = await asyncio.to_thread(_read, data) if len(data) > _THREAD else _read(data)
    priority = Priority.LARGE_CALL if shape["items"] > LARGE else Priority.CALLER
    del data
    hub = request.app.state.hub
    blobs: tuple[str, ...] = ()
    if blob is not None:
        job["blob"] = await hub.keep(blob)
        blobs = (job["blob"],)
        del blob
    draft = Draft(to_payload("embed", job), Origin.HTTP, priority, blobs=blobs, waited=True)
    (ticket,) = await submit(request, [draft], fingerprint)
    async with cancel_on_disconnect(request, ticket):
        result = await result_dict(ticket)
    vectors = _vectors(result, hub.path(result["blob"]) if "blob" in result else None)
    model = shape["model"] or facts(hub.model(Kind.EMBEDDING)).get("model", "")
    if native or shape["native"]:
        chunks = _native(vectors)
    else:
        chunks = _openai(vectors, model, sum(result["tokens"]), as_base64=shape["base64"])
    if "blob" in result:
        return StreamingResponse(chunks, media_type="application/json")
    return Response(b"".join(chunks), media_type="application/json")


def _read(data: bytes) -> tuple[dict[str, Any], bytes | None, dict[str, Any]]:
    """The job's request, its input's JSON if that belongs in the spool, and how the answer is to look."""
    body = parse_json(data)
    if not isinstance(body, dict):
        raise BadRequest("The request body must be a JSON object.")
    field = "input" if body.get("input") is not None else "content"
    if body.get(field) is None:
        raise BadRequest('"input" or "content" must be provided')
    inputs = _inputs(field, body[field])
    form = body.get("encoding_format")
    form = "float" if form is None else form
    if form not in ("float", "base64"):
        raise BadRequest('"encoding_format" must be "float" or "base64".', param="encoding_format")
    job: dict[str, Any] = {}
    if (dimensions := body.get("dimensions")) is not None:
        if type(dimensions) is not int or dimensions < 1:
            raise BadRequest('"dimensions" must be a whole number of at least 1.', param="dimensions")
        job["dimensions"] = dimensions
    if (truncate := body.get("truncate")) is not None:
        if type(truncate) is not bool:
            raise BadRequest('"truncate" must be true or false.', param="truncate")
        job["truncate"] = truncate
    model = body.get("model")
    shape = {
        "model": model if isinstance(model, str) else "",
        "base64": form == "base64",
        "native": field == "content",
        "items": len(inputs),
    }
    if len(data) <= INLINE_INPUT:
        return {**job, "inputs": inputs}, None, shape
    return job, json.dumps(inputs, ensure_ascii=False, separators=(",", ":")).encode(), shape


def _inputs(field: str, given: Any) -> list[str | list[int | str]]:
    """A list of texts and token arrays; a list with a number in it is one token array, as llama-server has it."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list):
        raise BadRequest(f'"{field}" must be a string, an array of strings or an array of token ids.', param=field)
    if not given:
        raise BadRequest('"input" must not be empty')
    if any(type(item) in (int, float) for item in given):
        given = [given]
    if len(given) > MOST_INPUTS:
        raise TooLarge(f'"{field}" has {len(given)} items: send at most {MOST_INPUTS} in a call.', param=field)
    for index, item in enumerate(given):
        if isinstance(item, str):
            continue
        if not isinstance(item, list):
            raise BadRequest(f'"{field}" item {index} is neither a string nor an array of token ids.', param=field)
        if not item:
            raise BadRequest(f'"{field}" item {index} is an empty token array.', param=field)
        if not all(type(token) in (int, str) for token in item):
            raise BadRequest(f'"{field}" item {index} may hold only token ids (whole numbers) and texts.', param=field)
    return list(given)


def _vectors(result: Mapping[str, Any], path: Path | None) -> Matrix:
    """(count, dimensions) float32; a spooled result is mapped, not read."""
    shape = (result["count"], result["dimensions"])
    if path is not None:
        return np.memmap(path, "<f4", "r", shape=shape).view(np.ndarray)
    return np.frombuffer(base64.b64decode(result["vectors"]), "<f4").reshape(shape)


def _steps(vectors: Matrix) -> Iterator[tuple[int, Matrix]]:
    """(index of its first row, some rows)"""
    rows = max(1, _STEP // (4 * vectors.shape[1]))
    for at in range(0, len(vectors), rows):
        yield at, vectors[at : at + rows]


def _openai(vectors: Matrix, model: str, tokens: int, *, as_base64: bool) -> Iterator[bytes]:
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield orjson.dumps({"model": model, "object": "list", "usage": usage})[:-1] + b',"data":['
    for at, some in _steps(vectors):
        items = [
            {
                "embedding": base64.b64encode(row.tobytes()).decode(),
                "index": i,
                "object": "embedding",
                "encoding_format": "base64",
            }
            if as_base64
            else {"embedding": row, "index": i, "object": "embedding"}
            for i, row in enumerate(some, at)
        ]
        yield (b"," if at else b"") + orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]}"


def _native(vectors: Matrix) -> Iterator[bytes]:
    yield b"["
    for at, some in _steps(vectors):
        items = [{"index": i, "embedding": [row]} for i, row in enumerate(some, at)]
        yield (b"," if at else b"") + orjson.dumps(items, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
    yield b"]"
