"""OpenAI's File, UploadSession and Part objects, and the pages of lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from batch.batches.rows import StoredFile, UploadPart, UploadSession


class FileObject(msgspec.Struct, kw_only=True):
    """A stored file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class UploadObject(msgspec.Struct, kw_only=True):
    """A file on its way in parts."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: str
    file: FileObject | None = None


class PartObject(msgspec.Struct, kw_only=True):
    """One part of an upload."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def to_file(file: StoredFile) -> FileObject:
    """A file as OpenAI's clients read it."""
    return FileObject(
        id=file.id,
        bytes=file.bytes,
        created_at=file.created_at,
        expires_at=file.expires_at,
        filename=file.filename,
        purpose=file.purpose,
    )


def to_upload(upload: UploadSession, file: StoredFile | None = None) -> UploadObject:
    """An upload as OpenAI's clients read it; `file` is what it became."""
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        filename=upload.filename,
        purpose=upload.purpose,
        status=upload.status,
        file=None if file is None else to_file(file),
    )


def to_part(part: UploadPart) -> PartObject:
    """A part as OpenAI's clients read it."""
    return PartObject(id=part.id, created_at=part.created_at, upload_id=part.upload)


def to_page(objects: Sequence[Any], has_more: bool) -> dict[str, object]:
    """A page of a list; clients ask for the next one after its last id."""
    return {
        "object": "list",
        "data": list(objects),
        "first_id": objects[0].id if objects else None,
        "last_id": objects[-1].id if objects else None,
        "has_more": has_more,
    }
