"""Anthropic's Message Batches API: /v1/messages/batches, the same jobs in other words."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from fastapi import APIRouter, Query, Request
from starlette.responses import Response, StreamingResponse

from batch.api.batches.message_reader import MessageReader
from batch.api.batches.request import request_key
from batch.api.batches.response import MessageBatchObject, to_anthropic, to_message_result
from batch.api.files.quota import check_quota
from batch.api.json_body import json_response
from batch.api.openapi_schemas import NOTHING
from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.rows import Batch, BatchApi, BatchDraft
from batch.batches.service import BatchService
from batch.errors import BadRequest, BatchError, NotFound
from batch.payloads.json_text import encode
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Priority

router = APIRouter()

ENDPOINT = "/v1/messages"
MAX_PAGE = 1000
PIECE_BYTES = 256 << 10
"""Of results, sent together."""
READ_BYTES = 256 << 10
"""Of a body, read at a time: a few milliseconds of work."""


@router.post("/v1/messages/batches", openapi_extra=NOTHING)
async def create_message_batch(request: Request) -> Response:
    """Accept a list of requests, each of which is checked when it runs."""
    hub: Hub = request.app.state.hub
    service: BatchService = request.app.state.batches
    reader = MessageReader(ENDPOINT, request.app.state.settings.limits.body_bytes)
    content, pieces = hashlib.sha256(), request.stream()
    try:
        sha256, size = await hub.keep_stream(_lines(pieces, reader, content.update))
    except BatchError:
        with contextlib.suppress(BatchError):
            async for _ in pieces:  # who is still sending reads no answer
                pass
        raise
    await asyncio.to_thread(hub.spool.make_durable, sha256)
    draft = BatchDraft(
        api=BatchApi.ANTHROPIC,
        endpoint=ENDPOINT,
        input_sha256=sha256,
        input_bytes=size,
        priority=Priority.BATCH,
        requests=reader.count,
        key=request_key(request, content.hexdigest()),
    )

    def create() -> Batch:
        earlier = None if draft.key is None else service.store.created_under(BatchApi.ANTHROPIC, draft.key)
        if earlier is None:
            check_quota(FileStore(hub.store), request.app.state.settings.files, size)
        return service.store.create(draft)

    batch = await hub.in_thread(create)
    request.state.replayed = batch.id != draft.id
    service.wake()
    return json_response(_view(request, batch))


async def _lines(body: AsyncIterator[bytes], reader: MessageReader, digest: Callable[[bytes], None]) -> AsyncIterator[bytes]:
    """A body's requests as lines of a batch's input, as they come; `digest` is told every byte of it."""

    def read(data: bytes) -> bytes:
        digest(data)
        return reader.feed(data)

    pieces, size = list[bytes](), 0
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size >= READ_BYTES:
            yield await asyncio.to_thread(read, b"".join(pieces))
            pieces, size = [], 0
    yield await asyncio.to_thread(read, b"".join(pieces))
    yield await asyncio.to_thread(reader.close)


@router.get("/v1/messages/batches")
async def list_message_batches(
    request: Request,
    after_id: str | None = None,
    before_id: str | None = None,
    limit: int = Query(20, ge=1, le=MAX_PAGE),
) -> Response:
    """Batches, newest first."""
    if after_id is not None and before_id is not None:
        raise BadRequest("after_id and before_id exclude each other: send one of them", param="before_id")
    hub: Hub = request.app.state.hub
    store = BatchStore(hub.store)
    page, has_more = await hub.in_thread(
        lambda: store.batches(BatchApi.ANTHROPIC, after=after_id, before=before_id, limit=limit)
    )
    views = [_view(request, batch) for batch in page]
    first, last = (views[0].id, views[-1].id) if views else (None, None)
    return json_response({"data": views, "has_more": has_more, "first_id": first, "last_id": last})


@router.get("/v1/messages/batches/{batch_id}")
async def get_message_batch(request: Request, batch_id: str) -> Response:
    """How far a batch is."""
    return json_response(_view(request, await _batch(request, batch_id)))


@router.post("/v1/messages/batches/{batch_id}/cancel")
async def cancel_message_batch(request: Request, batch_id: str) -> Response:
    """Stop a batch; what has ended keeps its results."""
    hub: Hub = request.app.state.hub
    service: BatchService = request.app.state.batches
    batch = await hub.in_thread(lambda: service.store.cancel(batch_id, BatchApi.ANTHROPIC))
    service.wake()
    return json_response(_view(request, batch))


@router.delete("/v1/messages/batches/{batch_id}")
async def delete_message_batch(request: Request, batch_id: str) -> Response:
    """Remove an ended batch and its results."""
    hub: Hub = request.app.state.hub
    await hub.in_thread(lambda: BatchStore(hub.store).delete(batch_id, BatchApi.ANTHROPIC))
    return json_response({"id": batch_id, "type": "message_batch_deleted"})


@router.get("/v1/messages/batches/{batch_id}/results")
async def message_batch_results(request: Request, batch_id: str) -> Response:
    """The results of an ended batch, a line each."""
    hub: Hub = request.app.state.hub
    batch = await _batch(request, batch_id)
    if not batch.status.is_ended:
        raise NotFound(f"The batch {batch_id} has not ended: its results come when processing_status is ended.")
    files = FileStore(hub.store)
    ids = [id for id in (batch.output_file, batch.error_file) if id]
    paths = [await hub.fetch((await hub.in_thread(lambda id=id: files.file(id))).sha256) for id in ids]  # type: ignore[misc]
    if not all(path.is_file() for path in paths):
        raise NotFound(f"The results of {batch_id} are gone from the spool.")

    def pieces() -> Iterator[bytes]:
        piece = bytearray()
        for path in paths:
            with path.open("rb") as lines:
                for line in lines:
                    piece += encode(to_message_result(msgspec.json.decode(line))) + b"\n"
                    if len(piece) >= PIECE_BYTES:
                        yield bytes(piece)
                        piece.clear()
        yield bytes(piece)

    return StreamingResponse(_in_threads(pieces()), media_type="application/x-jsonl")


async def _in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


async def _batch(request: Request, batch_id: str) -> Batch:
    hub: Hub = request.app.state.hub
    return await hub.in_thread(lambda: BatchStore(hub.store).batch(batch_id, BatchApi.ANTHROPIC))


def _view(request: Request, batch: Batch) -> MessageBatchObject:
    address = f"{request.url.scheme}://{request.headers.get('host') or request.url.netloc}"
    return to_anthropic(batch, address)
