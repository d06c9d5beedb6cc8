"""OpenAI's Batch and Anthropic's MessageBatch: two views of the same rows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from batch.batches.rows import Batch, BatchStatus, LineProblem, TokenCounts

ANTHROPIC_LIFETIME_S = 29 * 86_400
"""How long Anthropic's clients may fetch results; expires_at is never null there."""


class RequestCounts(msgspec.Struct, kw_only=True):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class ErrorList(msgspec.Struct, kw_only=True):
    """Why a batch's file is not valid."""

    object: Literal["list"] = "list"
    data: list[LineProblem]


class CachedTokens(msgspec.Struct):
    """Of the input's tokens: those that stood in the prompt cache."""

    cached_tokens: int


class ReasoningTokens(msgspec.Struct):
    """Of the output's tokens: those spent on thinking."""

    reasoning_tokens: int


class BatchUsage(msgspec.Struct, kw_only=True):
    """Tokens of all lines."""

    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class BatchObject(msgspec.Struct, kw_only=True):
    """OpenAI's Batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: ErrorList | None
    input_file_id: str
    completion_window: str
    status: str
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int | None
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: BatchUsage | None
    metadata: dict[str, str] | None


def to_openai(batch: Batch) -> BatchObject:
    """A batch as OpenAI's clients read it. Counts stay 0 until its file is validated."""
    is_counted = batch.in_progress_at is not None or batch.status.is_ended
    return BatchObject(
        id=batch.id,
        endpoint=batch.endpoint,
        model=batch.model,
        errors=ErrorList(data=batch.errors) if batch.status is BatchStatus.FAILED and batch.errors else None,
        input_file_id=batch.input_file or "",
        completion_window=batch.completion_window,
        status=batch.status,
        output_file_id=batch.output_file,
        error_file_id=batch.error_file,
        created_at=batch.created_at,
        in_progress_at=batch.in_progress_at,
        expires_at=batch.expires_at,
        finalizing_at=batch.finalizing_at,
        completed_at=batch.completed_at,
        failed_at=batch.failed_at if batch.status is BatchStatus.FAILED else None,
        expired_at=batch.expired_at if batch.status is BatchStatus.EXPIRED else None,
        cancelling_at=batch.cancelling_at,
        cancelled_at=batch.cancelled_at,
        request_counts=RequestCounts(total=batch.total if is_counted else 0, completed=batch.completed, failed=batch.failed),
        usage=_usage(batch.usage) if batch.in_progress_at else None,
        metadata=batch.metadata,
    )


def _usage(counts: TokenCounts) -> BatchUsage:
    return BatchUsage(
        input_tokens=counts.input_tokens,
        input_tokens_details=CachedTokens(counts.cached_tokens),
        output_tokens=counts.output_tokens,
        output_tokens_details=ReasoningTokens(counts.reasoning_tokens),
        total_tokens=counts.input_tokens + counts.output_tokens,
    )


class MessageCounts(msgspec.Struct, kw_only=True):
    """Requests of an Anthropic batch; they sum to the total, and all stay in processing until its end."""

    processing: int = 0
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class MessageBatchObject(msgspec.Struct, kw_only=True):
    """Anthropic's MessageBatch."""

    id: str
    type: Literal["message_batch"] = "message_batch"
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    archived_at: str | None = None
    results_url: str | None


def to_anthropic(batch: Batch, address: str) -> MessageBatchObject:
    """A batch as Anthropic's clients read it.

    `address` is the one that the client dialled ("http://127.0.0.1:8080"): it fetches the results from there.
    """
    ended = batch.status.is_ended
    counts = MessageCounts(processing=max(batch.total, batch.requests))
    if ended:
        is_cancelled = batch.status is BatchStatus.CANCELLED
        counts = MessageCounts(
            succeeded=batch.completed,
            errored=batch.failed - batch.lost,
            canceled=batch.lost if is_cancelled else 0,
            expired=0 if is_cancelled else batch.lost,
        )
    ended_at = batch.completed_at or batch.cancelled_at or batch.failed_at or (batch.expired_at if ended else None)
    status: Literal["in_progress", "canceling", "ended"] = "ended" if ended else "in_progress"
    return MessageBatchObject(
        id=batch.id,
        processing_status="canceling" if batch.status is BatchStatus.CANCELLING else status,
        request_counts=counts,
        created_at=_rfc3339(batch.created_at) or "",
        expires_at=_rfc3339(batch.expires_at or batch.created_at + ANTHROPIC_LIFETIME_S) or "",
        ended_at=_rfc3339(ended_at),
        cancel_initiated_at=_rfc3339(batch.cancelling_at),
        results_url=f"{address}/v1/messages/batches/{batch.id}/results" if ended else None,
    )


def _rfc3339(seconds: int | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def to_message_result(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a result file as Anthropic's clients read it."""
    custom_id, response, error = line["custom_id"], line["response"], line["error"]
    if response is not None and response["status_code"] == 200:
        return {"custom_id": custom_id, "result": {"type": "succeeded", "message": response["body"]}}
    if response is not None:
        return {"custom_id": custom_id, "result": {"type": "errored", "error": response["body"]}}
    match error["code"]:
        case "batch_cancelled" | "request_cancelled":
            return {"custom_id": custom_id, "result": {"type": "canceled"}}
        case "batch_expired":
            return {"custom_id": custom_id, "result": {"type": "expired"}}
        case _:
            body = {"type": "error", "error": {"type": "api_error", "message": error["message"]}}
            return {"custom_id": custom_id, "result": {"type": "errored", "error": body}}
