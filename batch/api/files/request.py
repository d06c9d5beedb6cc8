"""What clients send about files and uploads, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from batch.api.http.multipart import FormUpload
from batch.api.json_body import Body, quoted
from batch.batches.rows import Purpose
from batch.errors import BadRequest, TooLarge
from batch.settings import FileSettings

MIN_LIFETIME_S, MAX_LIFETIME_S = 3600, 2_592_000
DAY_S = 86_400
UPLOADABLE = tuple(purpose for purpose in Purpose if purpose is not Purpose.BATCH_OUTPUT)
Lifetime = Annotated[int, Meta(ge=MIN_LIFETIME_S, le=MAX_LIFETIME_S)]


class ExpiresAfter(Body, frozen=True, kw_only=True):
    """When a file goes."""

    anchor: Literal["created_at"]
    seconds: Lifetime


class UploadBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/uploads."""

    bytes: Annotated[int, Meta(ge=1)]
    filename: Annotated[str, Meta(min_length=1, max_length=255)]
    mime_type: Annotated[str, Meta(max_length=255)]
    purpose: str
    expires_after: ExpiresAfter | None = None


class CompleteBody(Body, frozen=True, kw_only=True):
    """The body of POST /v1/uploads/{id}/complete."""

    part_ids: Annotated[list[str], Meta(min_length=1, max_length=100_000)]
    md5: str | None = None


def read_purpose(word: str | None) -> Purpose:
    """A purpose that a client may give. Raises BadRequest."""
    if word not in UPLOADABLE:
        names = ", ".join(UPLOADABLE)
        raise BadRequest(f"'purpose' should be one of {names}, not {quoted(word or '')}", param="purpose")
    return Purpose(word)


def read_form_lifetime(form: FormUpload, purpose: Purpose, files: FileSettings) -> int | None:
    """Seconds that an uploaded file is kept; None: until it is deleted. Raises BadRequest."""
    anchor, seconds = form.last("expires_after[anchor]"), form.last("expires_after[seconds]")
    if anchor is None and seconds is None:
        return default_lifetime(purpose, files)
    if anchor != "created_at":
        raise BadRequest("'expires_after[anchor]' should be created_at", param="expires_after[anchor]")
    if seconds is None or not seconds.isdecimal() or len(seconds) > 10 or not MIN_LIFETIME_S <= int(seconds) <= MAX_LIFETIME_S:
        raise BadRequest(
            f"'expires_after[seconds]' should be from {MIN_LIFETIME_S} to {MAX_LIFETIME_S}", param="expires_after[seconds]"
        )
    return int(seconds)


def default_lifetime(purpose: Purpose, files: FileSettings) -> int | None:
    """Seconds that a file of this purpose is kept when its client did not say."""
    return round(files.batch_days * DAY_S) if purpose is Purpose.BATCH and files.batch_days else None


def check_file(purpose: Purpose, filename: str, size: int, files: FileSettings) -> None:
    """Raise BadRequest for a name that a batch's input cannot have, TooLarge for too many bytes."""
    if purpose is Purpose.BATCH and not filename.lower().endswith(".jsonl"):
        raise BadRequest("Invalid file format for Batch API. Must be .jsonl", param="file")
    limit, key = (files.batch_bytes, "batch_bytes") if purpose is Purpose.BATCH else (files.max_bytes, "max_bytes")
    if size > limit:
        raise TooLarge(f"The file has {size} bytes; {limit} are taken at most (files.{key} in batch.toml).", param="file")
