"""Transition: structs as the dicts that modules which have not adopted the payload types yet still read and write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec

from batch.errors import BadRequest
from batch.payloads.chat import FunctionDelta, MessageDelta
from batch.payloads.events import JobEvent
from batch.payloads.job_payload import PAYLOAD_TYPES, RESULT_TYPES, Payload, Result, task_of
from batch.payloads.json_text import encode


def to_payload(task: str, request: Mapping[str, Any]) -> Payload:
    """A request dict as the payload of a task. Raises BadRequest where it does not fit."""
    try:
        choice = request.get("tool_choice")
        if isinstance(choice, Mapping) and "function" in choice:
            request = {**request, "tool_choice": choice["function"]}
        return msgspec.convert(request, PAYLOAD_TYPES[task])
    except msgspec.ValidationError as error:
        raise BadRequest(f"The request is not valid: {error}.") from None


def to_request(payload: Payload) -> dict[str, Any]:
    """A payload as a request dict, defaults left out."""
    found: dict[str, Any] = json.loads(encode(payload))
    del found["task"]
    for message in found.get("messages", ()):
        message.setdefault("content", None)
        for call in message.get("tool_calls", ()):
            call["type"] = "function"
    for tool in found.get("tools", ()):
        tool["type"] = "function"
    if isinstance(choice := found.get("tool_choice"), dict):
        found["tool_choice"] = {"type": "function", "function": choice}
    return found


def to_result(payload: Payload, result: Mapping[str, Any] | Result) -> Result:
    """An engine's result dict as a struct."""
    if isinstance(result, msgspec.Struct):
        return result
    choices = [{**c, "prefill": c["given"]} if "given" in c else c for c in result.get("choices", ())]
    return msgspec.convert({**result, "choices": choices} if choices else result, RESULT_TYPES[task_of(payload)])


def to_event(event: Mapping[str, Any] | JobEvent) -> JobEvent:
    """An engine's event dict as a struct."""
    return event if isinstance(event, msgspec.Struct) else msgspec.convert(event, JobEvent)


def to_dict(value: Any) -> Any:
    """A struct as a dict with all its fields that are not None; of what is new in a message only what is there."""
    if isinstance(value, MessageDelta | FunctionDelta):
        return msgspec.to_builtins(value)
    if isinstance(value, msgspec.Struct):
        config = value.__struct_config__
        found = {name: to_dict(part) for name in value.__struct_fields__ if (part := getattr(value, name)) is not None}
        if "prefill" in found:
            found["given"] = found.pop("prefill")
        return {config.tag_field: config.tag, **found} if config.tag_field else found
    if isinstance(value, list | tuple):
        return [to_dict(item) for item in value]
    if isinstance(value, dict):
        return {key: to_dict(item) for key, item in value.items()}
    return value
