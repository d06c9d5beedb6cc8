"""OpenAI's Uploads API: a large file in parts, which may arrive side by side."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from batch.api.files.quota import check_quota
from batch.api.files.request import CompleteBody, UploadBody, check_file, default_lifetime, read_purpose
from batch.api.files.response import to_part, to_upload
from batch.api.http.multipart import read_upload
from batch.api.json_body import documented, json_body, json_response, reader
from batch.api.openapi_schemas import form_schema
from batch.batches.file_store import FileStore
from batch.batches.rows import Purpose, UploadPart
from batch.errors import BadRequest, TooLarge
from batch.queue.hub.hub import Hub

router = APIRouter()

MAX_PART_BYTES = 64 << 20
"""What OpenAI's own helper sends."""
MAX_PARTS = 10_000
"""Of an upload: parts may be empty, and each costs a row."""
CHUNK_BYTES = 1 << 20

PART_FORM = form_schema({"data": {"type": "string", "format": "binary"}}, required=("data",))


@router.post("/v1/uploads", openapi_extra=documented(UploadBody))
async def create_upload(request: Request, body: Annotated[UploadBody, Depends(json_body(reader(UploadBody)))]) -> Response:
    """Begin a file in parts."""
    hub: Hub = request.app.state.hub
    settings = request.app.state.settings.files
    purpose = read_purpose(body.purpose)
    if body.bytes > settings.upload_bytes:
        limit = settings.upload_bytes
        raise TooLarge(f"'bytes' is {body.bytes}; {limit} are taken at most (files.upload_bytes in batch.toml).", param="bytes")
    check_file(purpose, body.filename, body.bytes if purpose is Purpose.BATCH else 0, settings)
    lifetime_s = body.expires_after.seconds if body.expires_after else default_lifetime(purpose, settings)
    files = FileStore(hub.store)
    await hub.in_thread(lambda: check_quota(files, settings, body.bytes))
    upload = await hub.in_thread(lambda: files.create_upload(body.filename, body.bytes, purpose, body.mime_type, lifetime_s))
    return json_response(to_upload(upload))


@router.post("/v1/uploads/{upload_id}/parts", openapi_extra=PART_FORM)
async def add_part(request: Request, upload_id: str) -> Response:
    """Store one part."""
    hub: Hub = request.app.state.hub
    files = FileStore(hub.store)
    await hub.in_thread(lambda: files.upload(upload_id))
    form = await read_upload(request, "data")
    if form.sha256 is None:
        raise BadRequest("'data' is required", param="data")
    if form.size > MAX_PART_BYTES:
        raise TooLarge(f"The part has {form.size} bytes; {MAX_PART_BYTES} are taken at most.", param="data")
    sha256, size = await asyncio.to_thread(hub.spool.make_durable, form.sha256), form.size

    def add() -> UploadPart:
        # A part may be sent again, and only one of the two is named at the end; but not for ever.
        upload, (count, received_bytes) = files.upload(upload_id), files.size_of_parts(upload_id)
        if count >= MAX_PARTS:
            raise BadRequest(f"The upload has {count} parts, which is the most: send larger ones.", param="data")
        if received_bytes + size > (limit := 2 * upload.bytes + MAX_PART_BYTES):
            raise TooLarge(
                f"The parts have {received_bytes + size} bytes together; this upload takes at most {limit}.", param="data"
            )
        check_quota(files, request.app.state.settings.files, size)
        return files.add_part(upload_id, sha256, size)

    return json_response(to_part(await hub.in_thread(add)))


@router.post("/v1/uploads/{upload_id}/complete", openapi_extra=documented(CompleteBody))
async def complete_upload(
    request: Request, upload_id: str, body: Annotated[CompleteBody, Depends(json_body(reader(CompleteBody)))]
) -> Response:
    """Join the parts, in the order that the client names, into a file."""
    hub: Hub = request.app.state.hub
    files = FileStore(hub.store)
    upload = await hub.in_thread(lambda: files.upload(upload_id))
    parts = await hub.in_thread(lambda: files.parts(upload_id, body.part_ids)) if not upload.file else []
    if not upload.file and (total := sum(part.bytes for part in parts)) != upload.bytes:
        raise BadRequest(f"The parts have {total} bytes together, the upload was to have {upload.bytes}.", param="part_ids")
    md5 = hashlib.md5(usedforsecurity=False)

    def chunks() -> Iterator[bytes]:
        for part in parts:
            with hub.path(part.sha256).open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    md5.update(chunk)
                    yield chunk

    sha256, _ = await asyncio.to_thread(lambda: hub.spool.keep_chunks(chunks(), durable=True))
    if body.md5 and not upload.file and md5.hexdigest() != body.md5.lower():
        raise BadRequest("'md5' is not the parts' digest: upload them again.", param="md5")
    file = await hub.in_thread(lambda: files.complete_upload(upload, sha256))
    return json_response(to_upload(await hub.in_thread(lambda: files.upload(upload_id)), file))


@router.post("/v1/uploads/{upload_id}/cancel")
async def cancel_upload(request: Request, upload_id: str) -> Response:
    """End an upload; its parts go."""
    hub: Hub = request.app.state.hub
    return json_response(to_upload(await hub.in_thread(lambda: FileStore(hub.store).cancel_upload(upload_id))))
