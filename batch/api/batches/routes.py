"""OpenAI's Batch API: POST and GET /v1/batches, /v1/batches/{id} and its cancelling."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from batch.api.batches.request import BatchBody, read_window, request_key
from batch.api.batches.response import to_openai
from batch.api.files.response import to_page
from batch.api.generation.metadata import read_metadata
from batch.api.http.content_digest import digest
from batch.api.json_body import documented, json_body, json_response, quoted, reader
from batch.batches.batch_store import BatchStore
from batch.batches.file_store import FileStore
from batch.batches.rows import Batch, BatchApi, BatchDraft, Purpose
from batch.batches.service import BatchService
from batch.errors import BadRequest, NotFound
from batch.queue.hub.hub import Hub
from batch.queue.jobs import Priority

router = APIRouter()


@router.post("/v1/batches", openapi_extra=documented(BatchBody))
async def create_batch(request: Request, body: Annotated[BatchBody, Depends(json_body(reader(BatchBody)))]) -> Response:
    """Accept a file of requests; its lines are checked at once and run behind interactive work."""
    hub: Hub = request.app.state.hub
    service: BatchService = request.app.state.batches
    settings = request.app.state.settings.files
    if body.endpoint not in service.endpoint_paths:
        served = ", ".join(service.endpoint_paths)
        raise BadRequest(f"'endpoint' should be one of {served}, not {quoted(body.endpoint)}", param="endpoint")
    window_s = read_window(body.completion_window)
    metadata = read_metadata(body.metadata)
    key = request_key(request, digest(await request.body()))

    def create() -> Batch:
        if key is not None and (earlier := service.store.created_under(BatchApi.OPENAI, key)):
            request.state.replayed = True  # its file may be gone by now
            return earlier
        try:
            file = FileStore(hub.store).file(body.input_file_id)
        except NotFound:
            raise BadRequest(f"No such File object: {quoted(body.input_file_id)}", param="input_file_id") from None
        if file.purpose is not Purpose.BATCH:
            raise BadRequest(
                f"The file {file.id} was uploaded for {file.purpose}; a batch needs one of purpose batch", param="input_file_id"
            )
        return service.store.create(
            BatchDraft(
                endpoint=body.endpoint,
                input_file=file.id,
                input_sha256=file.sha256,
                input_bytes=file.bytes,
                completion_window=body.completion_window,
                lifetime_s=window_s if settings.enforce_window else None,
                metadata=metadata,
                output_lifetime_s=body.output_expires_after.seconds if body.output_expires_after else None,
                priority=Priority.BATCH,
                key=key,
            )
        )

    batch = await hub.in_thread(create)
    service.wake()
    return json_response(to_openai(batch))


@router.get("/v1/batches")
async def list_batches(request: Request, after: str | None = None, limit: int = Query(20, ge=1, le=100)) -> Response:
    """Batches, newest first."""
    hub: Hub = request.app.state.hub
    store = BatchStore(hub.store)
    page, has_more = await hub.in_thread(lambda: store.batches(BatchApi.OPENAI, after=after, limit=limit))
    return json_response(to_page([to_openai(batch) for batch in page], has_more))


@router.get("/v1/batches/{batch_id}")
async def get_batch(request: Request, batch_id: str) -> Response:
    """How far a batch is."""
    hub: Hub = request.app.state.hub
    batch = await hub.in_thread(lambda: BatchStore(hub.store).batch(batch_id, BatchApi.OPENAI))
    return json_response(to_openai(batch))


@router.post("/v1/batches/{batch_id}/cancel")
async def cancel_batch(request: Request, batch_id: str) -> Response:
    """Stop a batch: what runs is aborted, what has ended stays in its files."""
    hub: Hub = request.app.state.hub
    service: BatchService = request.app.state.batches
    batch = await hub.in_thread(lambda: service.store.cancel(batch_id, BatchApi.OPENAI))
    service.wake()
    return json_response(to_openai(batch))
