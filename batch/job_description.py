"""Jobs in words: what was sent, and what came out."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from batch.errors import BatchError
from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload, ImagePart, Message, TextPart
from batch.payloads.embedding import EmbeddingPayload, EmbeddingResult
from batch.payloads.job_payload import Payload, Result
from batch.payloads.speech import TranscriptionPayload, TranscriptionResult
from batch.queue.jobs import Job, JobSummary

_MAX_CHARS = 4000


def describe_payload(job: Job) -> str:
    """What a job was sent, in a few lines."""
    try:
        return _shortened(_payload_text(job.payload))
    except BatchError as error:
        return error.message


def describe_result(job: Job) -> str | None:
    """What came out, in a few lines: a caption, an answer, a transcript, how many vectors; None before."""
    text = full_result(job)
    return None if text is None else _shortened(text)


def full_result(job: Job) -> str | None:
    """As `describe_result`, however long it is."""
    try:
        return None if job.result is None else _result_text(job.result)
    except BatchError as error:
        return error.message


def model_name(job: Job | JobSummary) -> str:
    """A job's model for people: its kind, and the name that the settings give it besides."""
    return f"{job.kind} {job.model}" if job.model else str(job.kind)


def job_summary(job: Job, node: str | None = None) -> dict[str, Any]:
    """A job for a JSON list: everything but its payload and its result. Times are Unix seconds. `node`: the worker that has it
    or ended it, where several machines share the jobs."""
    return {
        "id": job.id,
        "kind": str(job.kind),
        "model": job.model,
        "task": job.task,
        "state": str(job.state),
        "origin": str(job.origin),
        "priority": job.priority,
        "source": job.source,
        "parent": job.parent,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "attempts": job.attempts,
        "progress": asdict(job.progress) if job.progress else None,
        "error": job.error["message"] if job.error else None,
        "node": node,
    }


def job_document(job: Job, node: str | None = None) -> dict[str, Any]:
    """A job as JSON with its payload and result as they stand in the row, whichever version of batch wrote them. `node`: as for
    `job_summary`."""
    values = {key: str(value) if isinstance(value, StrEnum) else value for key, value in asdict(job).items()}
    payload, result = values.pop("payload_json"), values.pop("result_json")
    return values | {"node": node, "request": json.loads(payload), "result": None if result is None else json.loads(result)}


def _payload_text(payload: Payload) -> str:
    match payload:
        case ChatPayload():
            pictures = sum(isinstance(part, ImagePart) for message in payload.messages for part in _parts(message))
            last = payload.messages[-1] if payload.messages else None
            text = "\n".join(part.text for part in _parts(last) if isinstance(part, TextPart)) if last else ""
            notes = [
                f"{len(payload.messages)} messages" if len(payload.messages) > 1 else "",
                _number_of(pictures, "picture"),
                _number_of(len(payload.tools), "tool"),
            ]
            return _with_notes(text, notes)
        case CompletionPayload():
            return payload.prompt if isinstance(payload.prompt, str) else f"{len(payload.prompt)} tokens to continue"
        case EmbeddingPayload():
            inputs = payload.inputs or []
            if len(inputs) == 1 and isinstance(inputs[0], str):
                return inputs[0]
            return _number_of(len(inputs), "text") if inputs else "texts, kept in the spool"
        case TranscriptionPayload():
            language = payload.options.language or "auto"
            return _with_notes(payload.filename or "a recording", [f"language {language}"])


def _result_text(result: Result) -> str:
    match result:
        case ChatResult():
            return "\n".join(_choice_text(result, number) for number in range(len(result.choices)))
        case TranscriptionResult():
            return "\n".join(segment.text.strip() for segment in result.segments) or result.text.strip()
        case EmbeddingResult():
            return f"{_number_of(result.count, 'vector')} of {result.dimensions} dimensions"


def _choice_text(result: ChatResult, number: int) -> str:
    choice = result.choices[number]
    if choice.message is None:
        return choice.text or ""
    calls = [f"{call.function.name}({call.function.arguments})" for call in choice.message.tool_calls]
    return "\n".join(part for part in (choice.message.content or "", *calls) if part)


def _parts(message: Message | None) -> list[TextPart | ImagePart]:
    if message is None or message.content is None:
        return []
    return [TextPart(text=message.content)] if isinstance(message.content, str) else list(message.content)


def _number_of(number: int, noun: str) -> str:
    return "" if not number else f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _with_notes(text: str, notes: list[str]) -> str:
    inner = ", ".join(note for note in notes if note)
    return f"{text} ({inner})".strip() if inner else text


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[:_MAX_CHARS]}… ({len(text):,} characters; --json shows all)"
