"""Anthropic's Message, its stream events and its errors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from batch.api.errors import to_anthropic_error
from batch.api.generation.jobs import note_comment
from batch.api.jobs.event_stream import named
from batch.api.jobs.submit import random_id
from batch.errors import BatchError


def stop_reason(choice: Mapping[str, Any]) -> str:
    if choice["finish_reason"] == "length":
        return "max_tokens"
    if choice["finish_reason"] == "tool_calls":
        return "tool_use"
    return "stop_sequence" if choice.get("stopping_word") else "end_turn"


def usage(result: Mapping[str, Any]) -> dict[str, Any]:
    """Anthropic counts cached tokens apart from the others."""
    given = result["usage"]
    cached = (given.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "input_tokens": given["prompt_tokens"] - cached,
        "output_tokens": given["completion_tokens"],
    }


def _input(arguments: str) -> dict[str, Any]:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:  # cut by max_tokens
        return {}
    return value if isinstance(value, dict) else {}


def message(result: Mapping[str, Any], model: str) -> dict[str, Any]:
    """The whole answer of a messages request."""
    choice = result["choices"][0]
    given, blocks = choice["message"], []
    if given.get("reasoning_content"):
        blocks.append({"type": "thinking", "thinking": given["reasoning_content"], "signature": ""})
    if given.get("content"):
        blocks.append({"type": "text", "text": given["content"]})
    for call in given.get("tool_calls") or []:
        function = call["function"]
        blocks.append(
            {
                "type": "tool_use",
                "id": call.get("id") or random_id("toolu_"),
                "name": function["name"],
                "input": _input(function["arguments"]),
            }
        )
    return {
        "id": random_id("msg_"),
        "type": "message",
        "role": "assistant",
        "content": blocks,
        "model": model,
        "stop_reason": stop_reason(choice),
        "stop_sequence": choice.get("stopping_word") or None,
        "usage": usage(result),
    }


class MessageEvents:
    """The Wire of /v1/messages: one content block is open at a time."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._begun = False
        self._open: str | int | None = None
        self._block = -1

    def _say(self, event: str, **fields: Any) -> bytes:
        return named(event, {"type": event, **fields})

    def _begin(self, tokens: int, cached: int) -> bytes:
        if self._begun:
            return b""
        self._begun = True
        counted = {
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "input_tokens": tokens - cached,
            "output_tokens": 0,
        }
        return self._say(
            "message_start",
            message={
                "id": random_id("msg_"),
                "type": "message",
                "role": "assistant",
                "content": [],
                "model": self._model,
                "stop_reason": None,
                "stop_sequence": None,
                "usage": counted,
            },
        )

    def event(self, job: int, event: Mapping[str, Any]) -> bytes:
        if event["type"] != "delta" or event.get("index", 0):
            return b""
        delta, prompt = event.get("delta") or {}, event.get("prompt") or {}
        words = self._begin(prompt.get("tokens", 0), prompt.get("cached", 0))
        if thought := delta.get("reasoning_content"):
            words += self._enter("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            words += self._delta({"type": "thinking_delta", "thinking": thought})
        if text := delta.get("content"):
            words += self._enter("text", {"type": "text", "text": ""})
            words += self._delta({"type": "text_delta", "text": text})
        for call in delta.get("tool_calls") or []:
            function = call.get("function") or {}
            words += self._enter(
                call.get("index", 0),
                {
                    "type": "tool_use",
                    "id": call.get("id") or random_id("toolu_"),
                    "name": function.get("name") or "",
                    "input": {},
                },
            )
            if arguments := function.get("arguments"):
                words += self._delta({"type": "input_json_delta", "partial_json": arguments})
        return words

    def _enter(self, what: str | int, block: dict[str, Any]) -> bytes:
        if self._open == what:
            return b""
        words = self._leave()
        self._open, self._block = what, self._block + 1
        return words + self._say("content_block_start", index=self._block, content_block=block)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._say("content_block_delta", index=self._block, delta=delta)

    def _leave(self) -> bytes:
        if self._open is None:
            return b""
        words = self._delta({"type": "signature_delta", "signature": ""}) if self._open == "thinking" else b""
        self._open = None
        return words + self._say("content_block_stop", index=self._block)

    def done(self, job: int, result: Mapping[str, Any]) -> bytes:
        choice, counted = result["choices"][0], usage(result)
        read = counted["cache_read_input_tokens"]
        words = self._begin(counted["input_tokens"] + read, read) + self._leave() + note_comment(result)
        ending = {"stop_reason": stop_reason(choice), "stop_sequence": choice.get("stopping_word") or None}
        words += self._say("message_delta", delta=ending, usage=counted)
        return words + self._say("message_stop")

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        return named("error", to_anthropic_error(error))
