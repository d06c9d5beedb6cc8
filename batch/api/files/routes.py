"""OpenAI's Files API: POST and GET /v1/files, /v1/files/{id}, its content, and DELETE."""

from __future__ import annotations

import asyncio
from typing import Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, Response

from batch.api.files.quota import check_quota
from batch.api.files.request import UPLOADABLE, check_file, read_form_lifetime, read_purpose
from batch.api.files.response import to_file, to_page
from batch.api.http.multipart import read_upload
from batch.api.json_body import json_response
from batch.api.openapi_schemas import form_schema
from batch.batches.file_store import FileStore
from batch.batches.rows import StoredFile
from batch.errors import BadRequest, NotFound
from batch.queue.hub.hub import Hub

router = APIRouter()

MAX_PAGE = 10_000

UPLOAD_FORM = form_schema(
    {
        "file": {"type": "string", "format": "binary"},
        "purpose": {"type": "string", "enum": list(UPLOADABLE)},
    },
    required=("file", "purpose"),
)


@router.post("/v1/files", openapi_extra=UPLOAD_FORM)
async def upload_file(request: Request) -> Response:
    """Store a file. Its content is not looked at: what is wrong with a batch's lines is told by the batch."""
    hub: Hub = request.app.state.hub
    settings = request.app.state.settings.files
    form = await read_upload(request)  # some clients send the file before its purpose, and no length
    if form.sha256 is None:
        raise BadRequest("'file' is required", param="file")
    purpose = read_purpose(form.last("purpose"))
    check_file(purpose, form.filename, form.size, settings)
    lifetime_s = read_form_lifetime(form, purpose, settings)
    files = FileStore(hub.store)
    sha256 = await asyncio.to_thread(hub.spool.make_durable, form.sha256)

    def create() -> StoredFile:
        check_quota(files, settings, form.size)
        return files.create_file(purpose, form.filename or "file", form.size, sha256, lifetime_s)

    return json_response(to_file(await hub.in_thread(create)))


@router.get("/v1/files")
async def list_files(
    request: Request,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = Query(MAX_PAGE, ge=1, le=MAX_PAGE),
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Files, newest first."""
    hub: Hub = request.app.state.hub
    files = FileStore(hub.store)
    page, has_more = await hub.in_thread(
        lambda: files.files(purpose=purpose, after=after, limit=limit, ascending=order == "asc")
    )
    return json_response(to_page([to_file(file) for file in page], has_more))


@router.get("/v1/files/{file_id}")
async def get_file(request: Request, file_id: str) -> Response:
    """What is known of a file."""
    hub: Hub = request.app.state.hub
    return json_response(to_file(await hub.in_thread(lambda: FileStore(hub.store).file(file_id))))


@router.get("/v1/files/{file_id}/content")
async def get_content(request: Request, file_id: str) -> Response:
    """A file's bytes, or the range of them that is asked for."""
    hub: Hub = request.app.state.hub
    file = await hub.in_thread(lambda: FileStore(hub.store).file(file_id))
    path = await hub.fetch(file.sha256)
    if not path.is_file():
        raise NotFound(f"The bytes of {file_id} are gone from the spool.")
    return FileResponse(path, media_type="application/octet-stream", filename=file.filename)


@router.delete("/v1/files/{file_id}")
async def delete_file(request: Request, file_id: str) -> Response:
    """Remove a file; a batch that runs holds its input itself."""
    hub: Hub = request.app.state.hub
    await hub.in_thread(lambda: FileStore(hub.store).delete_file(file_id))
    return json_response({"id": file_id, "object": "file", "deleted": True})
