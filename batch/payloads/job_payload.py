"""The payload and result of any job, by its task."""

from __future__ import annotations

import msgspec

from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.speech import TranscriptionPayload, TranscriptionResult

Payload = ChatPayload | CompletionPayload | EmbeddingPayload | TranscriptionPayload
Result = ChatResult | EmbeddingResult | TranscriptionResult

PAYLOAD_TYPES: dict[str, type[Payload]] = {
    "chat": ChatPayload,
    "completion": CompletionPayload,
    "embed": EmbeddingPayload,
    "transcribe": TranscriptionPayload,
}
"""By task, the word that stands in a job's row."""

RESULT_TYPES: dict[str, type[Result]] = {
    "chat": ChatResult,
    "completion": ChatResult,
    "embed": EmbeddingResult,
    "transcribe": TranscriptionResult,
}


def task_of(payload: Payload) -> str:
    """The task that a payload is for."""
    return str(type(payload).__struct_config__.tag)


def decode_payload(task: str, text: str | bytes) -> Payload:
    """A row's payload. Raises msgspec.ValidationError where it does not fit, KeyError for an unknown task."""
    return msgspec.json.decode(text, type=PAYLOAD_TYPES[task])


def decode_result(task: str, text: str | bytes) -> Result:
    """A row's result. Raises msgspec.ValidationError where it does not fit, KeyError for an unknown task."""
    return msgspec.json.decode(text, type=RESULT_TYPES[task])
