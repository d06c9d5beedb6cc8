"""OpenAI's chat.completion and its chunks, with llama-server's keys in llama-server's places."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from batch.api.errors import to_openai_error
from batch.api.generation.jobs import FINGERPRINT, note_comment
from batch.api.generation.progress import PromptProgress
from batch.api.generation.tools.custom import CustomInput, custom_input
from batch.api.jobs.answer_ids import random_id
from batch.api.jobs.server_sent_events import DONE, sse_event
from batch.errors import BatchError
from batch.payloads.chat import (
    ChatChoice,
    ChatResult,
    FinishReason,
    FunctionCall,
    Logprobs,
    MessageDelta,
    Timings,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from batch.payloads.events import Delta, JobEvent, Progress
from batch.payloads.json_text import encode


class CompletionToolCall(msgspec.Struct, kw_only=True):
    """A tool call of a whole answer."""

    id: str | None
    type: Literal["function"] = "function"
    function: FunctionCall


class CustomToolText(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a custom tool is called with, or what is new of it."""

    name: str | None = None
    input: str | None = None


class CompletionCustomCall(msgspec.Struct, kw_only=True):
    """A custom tool's call of a whole answer."""

    id: str | None
    type: Literal["custom"] = "custom"
    custom: CustomToolText


class CustomCallDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What is new of a custom tool's call."""

    index: int
    id: str | None = None
    type: Literal["custom"] | None = None
    custom: CustomToolText


class CustomDelta(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A MessageDelta with calls of custom tools."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta | CustomCallDelta] = []


class CompletionMessage(msgspec.Struct, kw_only=True):
    """What a choice says; content is always a string."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CompletionToolCall | CompletionCustomCall] | UnsetType = UNSET


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One choice of a whole answer."""

    finish_reason: FinishReason
    index: int
    message: CompletionMessage
    logprobs: Logprobs | UnsetType = UNSET


class ChatCompletion(msgspec.Struct, kw_only=True):
    """The whole answer."""

    choices: list[CompletionChoice]
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    object: Literal["chat.completion"] = "chat.completion"
    usage: Usage
    id: str
    timings: Timings | UnsetType = UNSET


_NOTHING_NEW = MessageDelta()


class RoleDelta(msgspec.Struct):
    """The first delta of a choice."""

    role: Literal["assistant"] = "assistant"
    content: None = None


class ChunkChoice(msgspec.Struct, kw_only=True, gc=False):
    """What is new of one choice."""

    finish_reason: FinishReason | None = None
    index: int
    delta: MessageDelta | RoleDelta | CustomDelta
    logprobs: Logprobs | UnsetType = UNSET


class ChatCompletionChunk(msgspec.Struct, kw_only=True):
    """One event of a stream."""

    choices: list[ChunkChoice]
    created: int
    id: str
    model: str
    system_fingerprint: str = FINGERPRINT
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    usage: Usage | UnsetType = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


def to_openai(
    result: ChatResult, model: str, created: int, custom_names: frozenset[str] = frozenset(), id: str = ""
) -> ChatCompletion:
    """The whole answer of a chat job. `custom_names`: the custom tools among its functions; `id` where it has one already."""
    return ChatCompletion(
        choices=[_choice(choice, custom_names) for choice in result.choices],
        created=created,
        model=model,
        usage=result.usage,
        id=id or random_id("chatcmpl-"),
        timings=result.timings or UNSET,
    )


def _choice(choice: ChatChoice, custom_names: frozenset[str]) -> CompletionChoice:
    message = choice.message
    return CompletionChoice(
        finish_reason=choice.finish_reason,
        index=choice.index,
        message=CompletionMessage(
            content=(message.content if message else None) or "",
            reasoning_content=(message.reasoning_content if message else None) or UNSET,
            tool_calls=[_tool_call(call, custom_names) for call in message.tool_calls] or UNSET if message else UNSET,
        ),
        logprobs=choice.logprobs or UNSET,
    )


def _tool_call(call: ToolCall, custom_names: frozenset[str]) -> CompletionToolCall | CompletionCustomCall:
    if call.function.name in custom_names:
        text = custom_input(call.function.arguments)
        return CompletionCustomCall(id=call.id, custom=CustomToolText(name=call.function.name, input=text))
    return CompletionToolCall(id=call.id, function=call.function)


class ChatChunks:
    """The event serializer of /v1/chat/completions."""

    def __init__(
        self,
        model: str,
        created: int,
        *,
        usage: bool = False,
        progress: bool = False,
        custom_names: frozenset[str] = frozenset(),
        keep: bool = False,
    ) -> None:
        """`custom_names`: the custom tools among the functions. `keep`: whether the whole answer is wanted too, once it is
        there."""
        self._custom_names = custom_names
        self._custom_inputs: dict[tuple[int, int], CustomInput] = {}
        """Readers of the calls of custom tools, by choice and call."""
        self._model, self._created, self._id = model, created, random_id("chatcmpl-")
        self._with_usage, self._with_progress = usage, progress
        self._before_choices, self._after_choices = sse_event(self._frame([])).split(b"[]", 1)
        """What stands around the choices of every event: written once, as a stream has an event a token."""
        self._keeps = keep
        self.completion: ChatCompletion | None = None
        """The whole answer, once it is there."""
        self._started: set[int] = set()
        self._finished: set[int] = set()
        self._closing: tuple[int, FinishReason] | None = None
        """The last choice's closing chunk: timings belong on the stream's last chunk, and come with the result."""

    def event(self, job: int, event: JobEvent) -> bytes:
        match event:
            case Delta():
                return self._delta(event)
            case Progress(cache=int()) if self._with_progress and not self._started:
                chunk = self._chunk(0, RoleDelta())
                chunk.prompt_progress = PromptProgress.of(event)
                return sse_event(chunk)
            case _:
                return b""

    def _delta(self, event: Delta) -> bytes:
        piece = b"" if self._closing is None else self._release()
        if event.index not in self._started:
            piece += self._start(event.index)
        if event.delta != _NOTHING_NEW or event.logprobs:
            delta = self._custom_delta(event) if self._custom_names and event.delta.tool_calls else event.delta
            choice = ChunkChoice(index=event.index, delta=delta, logprobs=event.logprobs or UNSET)
            if event.timings and event.finish_reason is None:
                chunk = self._frame([choice])
                chunk.timings = event.timings
                piece += sse_event(chunk)
            else:
                piece += b"%b[%b]%b" % (self._before_choices, encode(choice), self._after_choices)
        if event.finish_reason:
            self._finish(event.index, event.finish_reason)
        return piece

    def _custom_delta(self, event: Delta) -> CustomDelta:
        """The delta with its calls of custom tools as such."""
        calls: list[ToolCallDelta | CustomCallDelta] = []
        for call in event.delta.tool_calls:
            key = event.index, call.index
            if call.function.name in self._custom_names:
                self._custom_inputs[key] = CustomInput()
                name = CustomToolText(name=call.function.name, input="")
                calls.append(CustomCallDelta(index=call.index, id=call.id, type="custom", custom=name))
            elif (reader := self._custom_inputs.get(key)) is None:
                calls.append(call)
            elif text := reader.feed(call.function.arguments or ""):
                calls.append(CustomCallDelta(index=call.index, custom=CustomToolText(input=text)))
        return CustomDelta(content=event.delta.content, reasoning_content=event.delta.reasoning_content, tool_calls=calls)

    def finish(self, job: int, result: ChatResult) -> bytes:
        if self._keeps:
            self.completion = to_openai(result, self._model, self._created, self._custom_names, self._id)
        piece = b""
        last: ChatCompletionChunk | None
        for choice in result.choices:
            if choice.index not in self._finished:
                piece += self._release() + self._start(choice.index)
                self._finish(choice.index, choice.finish_reason)
        if self._with_usage:
            piece += self._release()
            last = usage_chunk = self._frame([])
            usage_chunk.usage = result.usage
        else:
            last = self._closing_chunk()
        self._closing = None
        if last and result.timings:
            last.timings = result.timings
        return piece + note_comment(result.note) + (sse_event(last) if last else b"")

    def close(self) -> bytes:
        return DONE

    def error(self, error: BatchError) -> bytes:
        return sse_event(to_openai_error(error))

    def _frame(self, choices: list[ChunkChoice]) -> ChatCompletionChunk:
        return ChatCompletionChunk(choices=choices, created=self._created, id=self._id, model=self._model)

    def _chunk(self, index: int, delta: MessageDelta | RoleDelta) -> ChatCompletionChunk:
        return self._frame([ChunkChoice(index=index, delta=delta)])

    def _start(self, index: int) -> bytes:
        if index in self._started:
            return b""
        self._started.add(index)
        return sse_event(self._chunk(index, RoleDelta()))

    def _finish(self, index: int, reason: FinishReason) -> None:
        self._finished.add(index)
        self._closing = index, reason

    def _closing_chunk(self) -> ChatCompletionChunk | None:
        if self._closing is None:
            return None
        index, reason = self._closing
        return self._frame([ChunkChoice(finish_reason=reason, index=index, delta=_NOTHING_NEW)])

    def _release(self) -> bytes:
        chunk, self._closing = self._closing_chunk(), None
        return sse_event(chunk) if chunk else b""
