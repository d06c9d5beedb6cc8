"""Files, uploads, batches and their lines as the database holds them. Times are whole Unix seconds."""

from __future__ import annotations

import secrets
from enum import StrEnum

import msgspec

PUBLIC_ID_BYTES = 12
SERVER_ERROR = "server_error"
"""The code of what is the service's own fault, of a batch or of a line."""


def new_public_id(prefix: str) -> str:
    """An id that nobody can guess, after a prefix such as "file-"."""
    return prefix + secrets.token_hex(PUBLIC_ID_BYTES)


class Purpose(StrEnum):
    """What a file is for; the last is given to results only."""

    BATCH = "batch"
    VISION = "vision"
    USER_DATA = "user_data"
    ASSISTANTS = "assistants"
    FINE_TUNE = "fine-tune"
    EVALS = "evals"
    BATCH_OUTPUT = "batch_output"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a client uploaded, or that a batch wrote."""

    id: str
    purpose: Purpose
    filename: str
    bytes: int
    sha256: str
    """Of its bytes, which lie in the spool."""
    created_at: int
    expires_at: int | None = None


class NamedFile(msgspec.Struct, frozen=True, kw_only=True):
    """What a request needs of a file that it names by id."""

    filename: str
    bytes: int
    sha256: str
    """Of its bytes, which lie in the spool."""


class UploadStatus(StrEnum):
    """Where an upload in parts is."""

    PENDING = "pending"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


class UploadSession(msgspec.Struct, frozen=True, kw_only=True):
    """A file on its way in parts."""

    id: str
    filename: str
    bytes: int
    """What all parts have to add up to."""
    purpose: Purpose
    mime_type: str
    status: UploadStatus
    created_at: int
    expires_at: int
    file: str | None = None
    """Id of the file, once completed."""
    file_lifetime_s: int | None = None


class UploadPart(msgspec.Struct, frozen=True, kw_only=True):
    """One part of an upload."""

    id: str
    upload: str
    sha256: str
    bytes: int
    created_at: int


class BatchApi(StrEnum):
    """Whose API a batch was created through: the same jobs in other words."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class BatchStatus(StrEnum):
    """Where a batch is in its life, in OpenAI's words."""

    VALIDATING = "validating"
    """Its lines are read and checked."""
    FAILED = "failed"
    """Its file was not valid: nothing ran."""
    IN_PROGRESS = "in_progress"
    """Its lines run."""
    FINALIZING = "finalizing"
    """Every line has ended; the result files are closed."""
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    """A client cancelled it; lines that run are being stopped."""
    CANCELLED = "cancelled"

    @property
    def is_ended(self) -> bool:
        """Whether nothing changes any more."""
        return self in (BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


class LineState(StrEnum):
    """Where a line of a batch is."""

    WAITING = "waiting"
    """Checked, not yet a job."""
    QUEUED = "queued"
    """Its job waits or runs."""
    WRITTEN = "written"
    """Its result stands in the output or the error file."""


class LineProblem(msgspec.Struct, frozen=True, kw_only=True):
    """Why a batch's file is not valid, in OpenAI's shape."""

    code: str
    message: str
    line: int | None = None
    """1-based physical line."""
    param: str | None = None


class TokenCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of a line's answer, or of all of a batch's."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(**{name: getattr(self, name) + getattr(other, name) for name in self.__struct_fields__})


class RequestKey(msgspec.Struct, frozen=True, kw_only=True):
    """The Idempotency-Key under which a batch is created: sent again, it finds the batch."""

    name: str
    fingerprint: str
    """Digest of the request: another one may not be sent under the same key."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """One batch."""

    sequence: int
    id: str
    api: BatchApi
    endpoint: str
    input_file: str | None
    input_sha256: str
    input_bytes: int
    completion_window: str
    status: BatchStatus
    created_at: int
    priority: int
    in_progress_at: int | None = None
    expires_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    metadata: dict[str, str] | None = None
    output_lifetime_s: int | None = None
    model: str | None = None
    errors: list[LineProblem] | None = None
    read_bytes: int = 0
    """Of the input, up to which lines have been read: where validation goes on after a crash."""
    read_lines: int = 0
    total: int = 0
    requests: int = 0
    """Lines that its client sent, where that is known before they are read."""
    tasks: int = 0
    """Of the lines read so far: of embeddings, their inputs."""
    completed: int = 0
    failed: int = 0
    """Lines in the error file."""
    lost: int = 0
    """Those of them that were not answered at all: the batch was cancelled or expired."""
    output_bytes: int = 0
    """Of the growing output file; what lies beyond was never accounted for and is cut off."""
    error_bytes: int = 0
    output_file: str | None = None
    error_file: str | None = None
    usage: TokenCounts = TokenCounts()


class BatchDraft(msgspec.Struct, frozen=True, kw_only=True):
    """A batch before it is accepted, with its input in the spool."""

    endpoint: str
    input_sha256: str
    input_bytes: int
    priority: int
    api: BatchApi = BatchApi.OPENAI
    completion_window: str = "24h"
    input_file: str | None = None
    new_file: StoredFile | None = None
    """The input as a file of its own that is accepted together with the batch, in place of `input_file`."""
    lifetime_s: int | None = None
    """Seconds after which what has not ended expires; None: never."""
    metadata: dict[str, str] | None = None
    output_lifetime_s: int | None = None
    requests: int = 0
    """Lines of the input, where they were counted."""
    key: RequestKey | None = None
    id: str = ""
    """Follows from the api where it is not given."""

    def __post_init__(self) -> None:
        if not self.id:
            prefix = "batch_" if self.api is BatchApi.OPENAI else "msgbatch_"
            msgspec.structs.force_setattr(self, "id", new_public_id(prefix))

    @property
    def blobs(self) -> tuple[str, ...]:
        """sha256 names of the spool files that it needs."""
        return (self.input_sha256,)


class BatchLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line: where its request stands in the input file."""

    batch: int
    """The batch's sequence."""
    line: int
    """1-based physical line."""
    custom_id: str
    start: int
    """First byte in the input."""
    length: int
    """Bytes."""
    request_id: str
    prefix: str = ""
    """Digest of what its prompt begins with: lines that share it run after each other."""
    state: LineState = LineState.WAITING
    job: str | None = None
