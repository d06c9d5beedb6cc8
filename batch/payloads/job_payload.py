"""The payload and result of any job, by its task."""

from __future__ import annotations

from typing import Any

import msgspec

from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.json_text import decode
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
    type = PAYLOAD_TYPES[task]
    try:
        return decode(text, type)
    except msgspec.ValidationError:
        value = decode(text, dict[str, Any])
        choice = value.get("tool_choice")
        if not isinstance(choice, dict) or "function" not in choice:
            raise
        return msgspec.convert(value | {"tool_choice": choice["function"]}, type)  # as earlier versions wrote it


def decode_result(task: str, text: str | bytes) -> Result:
    """A row's result. Raises msgspec.ValidationError where it does not fit, KeyError for an unknown task."""
    type = RESULT_TYPES[task]
    if type is ChatResult and _GIVEN in (text if isinstance(text, str) else text.decode("utf-8", "replace")):
        value = decode(text, dict[str, Any])
        for choice in value.get("choices", ()):
            if "given" in choice:
                choice["prefill"] = choice.pop("given")
        return msgspec.convert(value, type)
    return decode(text, type)


_GIVEN = '"given":{'
"""How rows of earlier versions spell `ChatChoice.prefill`."""
