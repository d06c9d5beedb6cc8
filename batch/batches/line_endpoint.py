"""What a batch needs of an endpoint: a request body turned into a job, and the job's result into a response body."""

from __future__ import annotations

from typing import Protocol

import msgspec

from batch.batches.rows import TokenCounts
from batch.errors import BatchError
from batch.payloads.job_payload import Payload, Result

SERVED_ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
)
"""What batches may be made of."""

JsonObject = dict[str, object]
"""A JSON object as it was parsed."""


class LineJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job that a line stands for."""

    payload: Payload
    blobs: tuple[str, ...] = ()
    """sha256 names of the spool files it needs."""


class LineResponse(msgspec.Struct, frozen=True, kw_only=True):
    """What a line's job answered."""

    body: JsonObject | msgspec.Raw
    usage: TokenCounts = TokenCounts()
    model: str = ""


class LineEndpoint(Protocol):
    """One endpoint that batches may be made of, by its path."""

    def count_tasks(self, body: JsonObject) -> int:
        """How many of the batch's tasks a line is: its inputs for embeddings, else 1."""
        ...

    async def create_job(self, body: JsonObject, batch: int | None = None) -> LineJob:
        """Check a line's body as the route does. Raises BatchError, which becomes that line's error response.

        `batch`: the sequence of the line's batch, which may name files that it holds though their client deleted them.
        """
        ...

    def to_response(self, body: JsonObject, result: Result, job: str) -> LineResponse:
        """The response that the route would give. `job` is the job's id, from which ids and times follow, so that a
        response made again after a crash is the same."""
        ...

    def to_error(self, error: BatchError) -> JsonObject:
        """The body of an error response."""
        ...
