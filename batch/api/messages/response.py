"""Anthropic's Message and its content blocks."""

from __future__ import annotations

import json
from typing import Literal

import msgspec

from batch.api.jobs.answer_ids import random_id
from batch.api.json_body import JsonObject
from batch.payloads.chat import ChatChoice, ChatResult, ToolCall

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class ThinkingBlock(msgspec.Struct, kw_only=True):
    """What the model thought."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: str = ""


class TextBlock(msgspec.Struct, kw_only=True):
    """What the model says."""

    type: Literal["text"] = "text"
    text: str


class ToolUseBlock(msgspec.Struct, kw_only=True):
    """A tool that the model calls."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: JsonObject


Block = ThinkingBlock | TextBlock | ToolUseBlock


class MessageUsage(msgspec.Struct, kw_only=True):
    """Tokens in and out; cached ones are counted apart from the others."""

    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int
    input_tokens: int
    output_tokens: int = 0


class MessageObject(msgspec.Struct, kw_only=True):
    """The whole answer, or its beginning."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    content: list[Block] = []
    model: str
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    usage: MessageUsage


def stop_reason(choice: ChatChoice) -> StopReason:
    """Why the answer ended, in Anthropic's words."""
    match choice.finish_reason:
        case "length":
            return "max_tokens"
        case "tool_calls":
            return "tool_use"
        case _:
            return "stop_sequence" if choice.stopping_word else "end_turn"


def to_usage(result: ChatResult) -> MessageUsage:
    """A result's tokens as Anthropic counts them."""
    usage = result.usage
    cached = usage.prompt_tokens_details.cached_tokens
    return MessageUsage(
        cache_read_input_tokens=cached,
        input_tokens=usage.prompt_tokens - cached,
        output_tokens=usage.completion_tokens,
    )


def tool_use_id(call_id: str | None) -> str:
    """The id of a call, drawn where the model's call has none."""
    return call_id or random_id("toolu_")


def to_message(result: ChatResult, model: str) -> MessageObject:
    """The whole answer of a messages request; what the request began itself is not repeated."""
    choice = result.choices[0]
    message = choice.message
    thinking = ((message.reasoning_content if message else None) or "")[choice.prefill.get("reasoning_content", 0) :]
    text = ((message.content if message else None) or "")[choice.prefill.get("content", 0) :]
    blocks: list[Block] = []
    if thinking:
        blocks.append(ThinkingBlock(thinking=thinking))
    if text:
        blocks.append(TextBlock(text=text))
    blocks += [_tool_use(call) for call in (message.tool_calls if message else [])]
    return MessageObject(
        id=random_id("msg_"),
        content=blocks,
        model=model,
        stop_reason=stop_reason(choice),
        stop_sequence=choice.stopping_word or None,
        usage=to_usage(result),
    )


def _tool_use(call: ToolCall) -> ToolUseBlock:
    return ToolUseBlock(id=tool_use_id(call.id), name=call.function.name, input=_input(call.function.arguments))


def _input(arguments: str) -> JsonObject:
    try:
        value = json.loads(arguments or "{}")
    except ValueError:  # cut by max_tokens
        return {}
    return value if isinstance(value, dict) else {}
