"""The events of a streamed Message: one content block is open at a time."""

from __future__ import annotations

from typing import Literal

from batch.api.errors import to_anthropic_error
from batch.api.generation.jobs import note_comment
from batch.api.jobs.answer_ids import random_id
from batch.api.jobs.server_sent_events import named_sse_event
from batch.api.messages.response import (
    Block,
    MessageObject,
    MessageUsage,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    stop_reason,
    to_usage,
    tool_use_id,
)
from batch.errors import BatchError
from batch.payloads.chat import ChatResult, PromptTokens, ToolCallDelta
from batch.payloads.events import Delta, JobEvent

OpenBlock = Literal["thinking", "text"] | int
"""The thinking, the text, or one of the calls by its index."""


class MessageEvents:
    """The event serializer of /v1/messages."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = False
        self._open: OpenBlock | None = None
        self._index = -1
        """Of the block that is open, or was last."""

    def event(self, job: int, event: JobEvent) -> bytes:
        return self._delta(event) if isinstance(event, Delta) and event.index == 0 else b""

    def finish(self, job: int, result: ChatResult) -> bytes:
        choice, usage = result.choices[0], to_usage(result)
        prompt = PromptTokens(usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens)
        piece = self._start(prompt) + self._close_block() + note_comment(result.note)
        ending = {"stop_reason": stop_reason(choice), "stop_sequence": choice.stopping_word or None}
        piece += self._event("message_delta", delta=ending, usage=usage)
        return piece + self._event("message_stop")

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        return named_sse_event("error", to_anthropic_error(error))

    def _event(self, event_type: str, **fields: object) -> bytes:
        return named_sse_event(event_type, {"type": event_type, **fields})

    def _start(self, prompt: PromptTokens) -> bytes:
        if self._started:
            return b""
        self._started = True
        usage = MessageUsage(cache_read_input_tokens=prompt.cached, input_tokens=prompt.tokens - prompt.cached)
        message = MessageObject(id=random_id("msg_"), model=self._model, usage=usage)
        return self._event("message_start", message=message)

    def _delta(self, event: Delta) -> bytes:
        delta, piece = event.delta, self._start(event.prompt or PromptTokens(0, 0))
        if delta.reasoning_content:
            piece += self._open_block("thinking", ThinkingBlock(thinking=""))
            piece += self._block_delta({"type": "thinking_delta", "thinking": delta.reasoning_content})
        if delta.content:
            piece += self._open_block("text", TextBlock(text=""))
            piece += self._block_delta({"type": "text_delta", "text": delta.content})
        for call in delta.tool_calls:
            if self._open != call.index:
                piece += self._open_block(call.index, _started_tool_use(call))
            if call.function.arguments:
                piece += self._block_delta({"type": "input_json_delta", "partial_json": call.function.arguments})
        return piece

    def _open_block(self, key: OpenBlock, block: Block) -> bytes:
        if self._open == key:
            return b""
        piece = self._close_block()
        self._open, self._index = key, self._index + 1
        return piece + self._event("content_block_start", index=self._index, content_block=block)

    def _block_delta(self, delta: dict[str, str]) -> bytes:
        return self._event("content_block_delta", index=self._index, delta=delta)

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        piece = self._block_delta({"type": "signature_delta", "signature": ""}) if self._open == "thinking" else b""
        self._open = None
        return piece + self._event("content_block_stop", index=self._index)


def _started_tool_use(call: ToolCallDelta) -> ToolUseBlock:
    return ToolUseBlock(id=tool_use_id(call.id), name=call.function.name or "", input={})
