"""Transition: the hub with dicts, for endpoints that have not adopted the payload types yet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import msgspec

from batch.payloads.chat import ChatPayload, ChatResult, CompletionPayload
from batch.payloads.embedding import EmbeddingResult
from batch.payloads.job_payload import Result
from batch.payloads.questions import ApplyTemplate, CountTokens, Question
from batch.payloads.speech import TranscriptionResult
from batch.payloads.untyped import to_dict, to_payload
from batch.queue.frames import End
from batch.queue.hub import Hub
from batch.queue.jobs import Kind
from batch.queue.model_state import ModelState
from batch.queue.ticket import Ticket

_RESULTS: dict[Kind, type[Result]] = {
    Kind.VLM: ChatResult,
    Kind.EMBEDDING: EmbeddingResult,
    Kind.STT: TranscriptionResult,
}


async def result_dict(ticket: Ticket) -> dict[str, Any]:
    """A ticket's result as a dict."""
    return dict(to_dict(await ticket.result(_RESULTS[ticket.kind])))


async def burst_dicts(ticket: Ticket) -> AsyncIterator[list[dict[str, Any]]]:
    """A ticket's bursts with dicts for events; the last one holds its End under "end"."""
    async for burst in ticket.bursts():
        yield [{"type": "end", "end": event} if isinstance(event, End) else to_dict(event) for event in burst]


async def outcome_dict(hub: Hub, ticket: Ticket, event: Mapping[str, Any]) -> dict[str, Any]:
    """The result that a dict event of `burst_dicts` ends with, as a dict."""
    return dict(to_dict(await hub.outcome(ticket.id, _RESULTS[ticket.kind], event["end"])))


async def ask_dict(hub: Hub, kind: Kind, question: str, payload: Mapping[str, Any], timeout: float = 60.0) -> dict[str, Any]:
    """Put a question and read its answer as dicts."""
    value: Question
    match question:
        case "count":
            found = to_payload("chat" if "messages" in payload else "completion", payload)
            assert isinstance(found, ChatPayload | CompletionPayload)
            value = CountTokens(payload=found)
        case "apply_template":
            conversation = to_payload("chat", payload)
            assert isinstance(conversation, ChatPayload)
            value = ApplyTemplate(payload=conversation)
        case _:
            value = msgspec.convert({**payload, "question": question}, Question)
    answer = await hub.ask(kind, value, timeout)
    return dict(to_dict(answer))


def facts(state: ModelState) -> dict[str, Any]:
    """What is known of a model as a dict; empty until it is ready."""
    if state.info is None:
        return {}
    found: dict[str, Any] = to_dict(state.info)
    del found["kind"]
    return found
