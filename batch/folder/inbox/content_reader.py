"""What is in a file, and what is to be done with it: its bytes go into the spool, and its first job is drafted."""

from __future__ import annotations

import hashlib
import os
import time

from batch.batches.line_endpoint import SERVED_ENDPOINTS
from batch.batches.line_reader import named_endpoint
from batch.batches.rows import BatchDraft, Purpose, StoredFile, new_public_id
from batch.errors import BadRequest, BatchError, DiskFull, TooLarge, UnsupportedMedia
from batch.folder.file_names import one_line, readable
from batch.folder.folder_settings import EffectiveSettings
from batch.folder.inbox.source_file import SourceFile, StillChanging, TakesLong
from batch.folder.ledger.rows import (
    CaptionParameters,
    ContentParameters,
    ContentWork,
    PageParameters,
    RequestParameters,
    SourceReading,
    TextParameters,
    TranscriptParameters,
)
from batch.folder.pipeline import (
    BATCH,
    CAPTION,
    EMBEDDING,
    TRANSCRIPT,
    caption_draft,
    content_key,
    content_parameters,
    embedding_draft,
    page_draft,
    page_step,
    transcript_draft,
)
from batch.folder.source_text import text_of_document, text_of_file
from batch.media.document.document_process import pdf_page_picture
from batch.media.image import image_header
from batch.media.kind import MediaKind, kind_of
from batch.queue.jobs import Draft, Priority
from batch.queue.spool import Spool
from batch.settings import Settings

DAY_S = 86_400
MAX_FIRST_LINE_BYTES = 64 << 20
_RESERVE_BYTES = 1 << 30
"""A copy leaves this much of the disk free, or a twentieth of a small disk: sparse files hold more than they take."""


class ContentReader:
    """Blocking; one file at a time in each thread."""

    def __init__(self, settings: Settings, spool: Spool) -> None:
        self._settings = settings
        self._limits = settings.limits
        self._spool = spool

    def read(self, source: SourceFile, settings: EffectiveSettings, *, may_take_long: bool) -> ContentWork:
        """Read an open file. Raises BatchError for what nothing can be made of, DiskFull, StillChanging, and TakesLong for
        a document unless it `may_take_long`."""
        name = source.name
        if source.stamp.size == 0:
            raise BadRequest(f"{name} is empty.")
        kind = kind_of(source.head(), source.path)
        match kind:
            case MediaKind.UNKNOWN:
                raise UnsupportedMedia(
                    f"{name} is of a kind that is not known here: images, sound, video, texts, PDF and Word documents are."
                )
            case MediaKind.TEXT:
                endpoint = requested_endpoint(source)
                return self._read_text(source) if endpoint is None else self._read_requests(source, endpoint)
            case MediaKind.DOCUMENT if not may_take_long:
                raise TakesLong
            case MediaKind.DOCUMENT:
                return self._read_document(source, settings)
            case MediaKind.IMAGE | MediaKind.AUDIO | MediaKind.VIDEO:
                return self._read_media(source, kind, content_parameters(kind, settings.folder))

    # -- pictures, sound and films

    def _read_media(self, source: SourceFile, kind: MediaKind, parameters: ContentParameters) -> ContentWork:
        match parameters:
            case CaptionParameters():
                data = source.read_whole(self._limits.image_bytes, "limits.image_bytes")
                try:
                    image_header(data, self._limits.image_pixels, self._limits.image_bytes)
                except BatchError as error:
                    raise type(error)(f"{source.name}: {error.message}") from None
                sha256 = self._put_in_spool(data)
                return self._work(sha256, kind, parameters, CAPTION, caption_draft(sha256, parameters, source.name))
            case TranscriptParameters():
                sha256 = self._copy(source)
                return self._work(sha256, kind, parameters, TRANSCRIPT, transcript_draft(sha256, parameters, source.name))
            case TextParameters() | PageParameters() | RequestParameters():
                raise UnsupportedMedia(f"{source.name} is neither picture nor sound.")

    # -- requests

    def _read_requests(self, source: SourceFile, endpoint: str) -> ContentWork:
        """A file of batch requests, whose lines are checked when the batch begins."""
        size, limit = source.stamp.size, self._settings.files.batch_bytes
        if size > limit:
            raise TooLarge(f"{source.name} has {size:,} bytes; at most {limit:,} are taken (files.batch_bytes).")
        if endpoint not in SERVED_ENDPOINTS:
            served = ", ".join(SERVED_ENDPOINTS)
            raise BadRequest(f"{source.name} asks {one_line(endpoint)[:80]}, which is not served in batches; {served} are.")
        sha256 = self._copy(source)
        now, days = int(time.time()), self._settings.files.batch_days
        file = StoredFile(
            id=new_public_id("file-"),
            purpose=Purpose.BATCH,
            filename=readable(source.path).rpartition("/")[2],
            bytes=size,
            sha256=sha256,
            created_at=now,
            expires_at=now + round(days * DAY_S) if days else None,
        )
        draft = BatchDraft(endpoint=endpoint, input_sha256=sha256, input_bytes=size, priority=Priority.BATCH, new_file=file)
        return self._work(sha256, MediaKind.TEXT, RequestParameters(endpoint), BATCH, draft)

    # -- texts and documents

    def _read_text(self, source: SourceFile) -> ContentWork:
        data = source.read_whole(self._limits.text_bytes, "limits.text_bytes")
        text, reading = text_of_file(data, source.path, source.name)
        return self._text_work(source, hashlib.sha256(data).hexdigest(), text, reading)

    def _read_document(self, source: SourceFile, settings: EffectiveSettings) -> ContentWork:
        size, limit = source.stamp.size, self._limits.document_bytes
        if size > limit:
            raise TooLarge(f"{source.name} has {size:,} bytes; at most {limit:,} are taken (limits.document_bytes).")
        text, reading = text_of_document(source.descriptor, source.head(), source.name, self._limits)
        if not text and reading.pages:
            return self._page_work(source, reading.pages, settings)
        return self._text_work(source, _hash_of(source), text, reading)

    def _text_work(self, source: SourceFile, sha256: str, text: str, reading: SourceReading) -> ContentWork:
        if not text.strip():
            raise BadRequest(f"{source.name} holds no text.")
        draft = embedding_draft(text, self._put_in_spool, source.name)
        return self._work(sha256, MediaKind.TEXT, TextParameters(), EMBEDDING, draft, reading, draft.blobs)

    def _page_work(self, source: SourceFile, pages: int, settings: EffectiveSettings) -> ContentWork:
        """The first of a document's pages, which are pictures; the others follow one by one."""
        folder = settings.folder
        parameters = PageParameters(folder.page_prompt, folder.caption_max_tokens, folder.caption_temperature, folder.embed)
        picture = pdf_page_picture(source.descriptor, source.name, 0)
        sha256 = self._copy(source)
        draft = page_draft(self._put_in_spool(picture), parameters, source.name)
        reading = SourceReading(format="pdf", pages=pages, document=sha256)
        return self._work(sha256, MediaKind.TEXT, parameters, page_step(0), draft, reading)

    # -- the spool

    def _work(
        self,
        sha256: str,
        kind: MediaKind,
        parameters: ContentParameters,
        step: str,
        draft: Draft | BatchDraft,
        reading: SourceReading = SourceReading(),  # noqa: B008
        result_blobs: tuple[str, ...] = (),
    ) -> ContentWork:
        return ContentWork(
            key=content_key(sha256, kind, parameters, self._settings),
            sha256=sha256,
            kind=kind,
            parameters=parameters,
            step=step,
            draft=draft,
            result_blobs=result_blobs,
            reading=reading,
        )

    def _put_in_spool(self, data: bytes) -> str:
        return self._spool.keep(data, durable=True)

    def _copy(self, source: SourceFile) -> str:
        """Copy a file into the spool; returns its sha256."""
        disk = os.statvfs(self._spool.folder)
        reserve = min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // 20)
        size = source.stamp.size
        # Not to fill the disk with a copy that cannot be finished, again and again.
        if size > disk.f_bavail * disk.f_frsize - reserve:
            raise DiskFull(f"{source.name} has {size:,} bytes, more than are free for its copy in {self._spool.folder}.")
        sha256, copied = self._spool.keep_chunks(source.chunks(), durable=True)
        if copied != size:
            raise StillChanging
        return sha256


def requested_endpoint(source: SourceFile) -> str | None:
    """The endpoint that the first request of a .jsonl file asks; None for a file that holds none."""
    if not source.path.lower().endswith(".jsonl"):
        return None
    start = b""
    for chunk in source.chunks():
        start = (start + chunk).lstrip(b"\r\n\t ")
        if b"\n" in start or len(start) > MAX_FIRST_LINE_BYTES:
            break
    return named_endpoint(start.partition(b"\n")[0])


def _hash_of(source: SourceFile) -> str:
    digest, size = hashlib.sha256(), 0
    for chunk in source.chunks():
        digest.update(chunk)
        size += len(chunk)
    if size != source.stamp.size:
        raise StillChanging
    return digest.hexdigest()
