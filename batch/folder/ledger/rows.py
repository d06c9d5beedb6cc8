"""What the ledger keeps and hands out: files of the inbox, and the content that several of them may share."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from batch.batches.rows import BatchDraft
from batch.folder.safe_open import FileStamp
from batch.media.kind import MediaKind
from batch.queue.jobs import Draft
from batch.search.documents import content_key
from batch.settings import SourceFate

if TYPE_CHECKING:
    from batch.search.index.prepared_content import PreparedContent

ErrorRecord = dict[str, Any]
"""What `BatchError.record` gives."""


class FileState(StrEnum):
    """Where a file of the inbox is on its way."""

    WAITING = "waiting"
    """Its jobs are queued or run."""
    WRITING = "writing"
    """Its outcome is known, and not yet in the outbox."""
    DONE = "done"
    """Its results lie in the outbox."""
    LINKED = "linked"
    """Its results lie in the outbox, made by the work on another file with the same content."""
    FAILED = "failed"
    """Its error lies in the outbox."""


class ContentState(StrEnum):
    """Where a piece of work is on its way."""

    WORKING = "working"
    DONE = "done"
    FAILED = "failed"
    DROPPED = "dropped"
    """Its file changed before it was done, and no other file has this content: its job is cancelled."""


class CaptionParameters(msgspec.Struct, frozen=True):
    """What the result of a picture depends on besides its bytes."""

    prompt: str
    max_tokens: int
    temperature: float
    thinking: bool
    embed: bool


class TranscriptParameters(msgspec.Struct, frozen=True):
    """What the result of a recording or a film depends on besides its bytes."""

    language: str
    translate: bool
    embed: bool


class TextParameters(msgspec.Struct, frozen=True):
    """A text's vectors depend on its bytes alone."""


class PageParameters(msgspec.Struct, frozen=True):
    """What the text of a document's pages depends on besides its bytes, where they are pictures."""

    page_prompt: str
    max_tokens: int
    temperature: float
    embed: bool


class RequestParameters(msgspec.Struct, frozen=True):
    """A file of batch requests: the endpoint that its lines ask."""

    endpoint: str


ContentParameters = CaptionParameters | TranscriptParameters | TextParameters | PageParameters | RequestParameters


class SourceReading(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """How a text was got out of its file."""

    encoding: str | None = None
    is_encoding_guessed: bool = False
    format: str | None = None
    """pdf, docx or html, where the text is not the file's own."""
    pages: int | None = None
    page_starts: list[int] | None = None
    """Where each page's text begins, in characters; known at once where the document holds its text."""
    document: str | None = None
    """The file's sha256 in the spool, while pages of it are still to be drawn."""
    note: str | None = None


class DeliveryRules(msgspec.Struct, frozen=True):
    """What is done once a file has its outcome."""

    formats: tuple[str, ...] = ("txt", "json", "srt")
    source: SourceFate = "keep"
    done_folder: str = ""
    """Where `source = "move"` puts it: a folder below the home's own done folder."""


class ContentWork(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be done for a content, and the first job of it."""

    key: str
    """Equal for the same bytes, parameters and models."""
    sha256: str
    kind: MediaKind
    parameters: ContentParameters
    step: str
    draft: Draft | BatchDraft
    """The first step's job, or its batch; not submitted when the content is in the ledger already."""
    result_blobs: tuple[str, ...] = ()
    """Spool files among the draft's blobs that are needed again when the results are written."""
    reading: SourceReading = SourceReading()


class RedoRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `batch redo` asks for: the settings that are different this time."""

    prompt: str | None = None
    language: str | None = None


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it was taken from the inbox: a piece of work, or an error where nothing can be made of it."""

    path: str
    stamp: FileStamp
    rules: DeliveryRules = DeliveryRules()
    work: ContentWork | None = None
    error: ErrorRecord | None = None
    is_redo: bool = False
    """Its old result stays until there is a new one, which is made anew whatever is known of the content."""


class AcceptedFile(msgspec.Struct, frozen=True):
    """A file that is in the ledger now."""

    path: str
    state: FileState
    """Waiting or writing."""
    is_redo: bool = False
    superseded_job: str = ""
    """The job of what the path held before, when nobody wants that any more: it is to be cancelled."""


class Content(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work, shared by all files with these bytes and parameters."""

    id: int
    sha256: str
    size: int
    """Bytes of the file."""
    kind: MediaKind
    parameters: ContentParameters
    state: ContentState
    step: str
    """The latest step."""
    job: str
    """The latest step's job, or its batch."""
    jobs: dict[str, str]
    """Job ids by step, in order."""
    models: dict[str, str]
    """Model names by step."""
    error: ErrorRecord | None
    reading: SourceReading = SourceReading()


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """A file whose outcome belongs into the outbox."""

    id: int
    path: str
    stamp: FileStamp
    rules: DeliveryRules
    error: ErrorRecord | None
    content: Content | None
    linked: bool
    accepted_at: float
    is_redo: bool = False
    """The old result stays where there is no new one."""


class StepOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What an ended job means for its content: a next job, the end, or an error."""

    content: int
    job: str
    """The job that ended: a content that has gone on to another job meanwhile is left alone."""
    model: str = ""
    next_step: str = ""
    draft: Draft | None = None
    error: ErrorRecord | None = None
    search_entry: PreparedContent | None = None
    """What the step's result puts into the search index."""


class RecordedFile(msgspec.Struct, frozen=True):
    """What the ledger holds of a path."""

    stamp: FileStamp
    state: FileState
    gone: bool
    """It had left the inbox when last looked at."""
    redo: RedoRequest | None = None
    """It is to be done again."""


def search_key(content: Content) -> str:
    """Under which the index knows a content."""
    return content_key(content.sha256, content.kind, msgspec.json.encode(content.parameters))
