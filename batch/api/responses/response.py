"""OpenAI's Response object and its items."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from batch.api.generation.tools.custom import custom_input
from batch.api.jobs.answer_ids import random_id
from batch.api.json_body import JsonObject
from batch.api.responses.request import ResponsesBody
from batch.errors import BatchError, Cancelled
from batch.payloads.chat import ChatResult, TokenLogprob

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(msgspec.Struct, kw_only=True):
    """The part of a message that holds its text."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[object] = []
    logprobs: list[TokenLogprob] = []


class ReasoningText(msgspec.Struct, kw_only=True):
    """The part of a reasoning item that holds its text."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class SummaryText(msgspec.Struct, kw_only=True):
    """The part of a reasoning item that holds its summary: all of the text, as a model here summarises nothing."""

    type: Literal["summary_text"] = "summary_text"
    text: str


class ReasoningItem(msgspec.Struct, kw_only=True, tag="reasoning", tag_field="type"):
    """What the model thought."""

    id: str
    summary: list[SummaryText] = []
    content: list[ReasoningText] = []
    encrypted_content: str = ""
    status: ItemStatus = "completed"


class MessageItem(msgspec.Struct, kw_only=True, tag="message", tag_field="type"):
    """What the model says."""

    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus = "completed"
    content: list[OutputText] = []


class FunctionCallItem(msgspec.Struct, kw_only=True, tag="function_call", tag_field="type"):
    """A function call; its output is matched by call_id."""

    id: str
    status: ItemStatus = "completed"
    arguments: str
    call_id: str
    name: str


class CustomCallItem(msgspec.Struct, kw_only=True, tag="custom_tool_call", tag_field="type"):
    """A custom tool's call; its output is matched by call_id."""

    id: str
    status: ItemStatus = "completed"
    call_id: str
    input: str
    name: str


OutputItem = ReasoningItem | MessageItem | FunctionCallItem | CustomCallItem


class InputTokensDetails(msgspec.Struct):
    """Of the input's tokens: those that stood in the prompt cache, and those written to it for money elsewhere."""

    cached_tokens: int = 0
    cache_write_tokens: int = 0


class OutputTokensDetails(msgspec.Struct):
    """Of the output's tokens: those spent on thinking."""

    reasoning_tokens: int = 0


class ResponseUsage(msgspec.Struct, kw_only=True):
    """Tokens in and out."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseObject(msgspec.Struct, kw_only=True):
    """The whole answer, or what is known of it so far."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"] = "in_progress"
    background: bool = False
    completed_at: int | None = None
    error: dict[str, str] | None = None
    incomplete_details: dict[str, str] | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: JsonObject
    model: str
    output: list[OutputItem] = []
    parallel_tool_calls: bool
    previous_response_id: str | None = None
    conversation: dict[str, str] | None = None
    reasoning: dict[str, str | None]
    service_tier: str = "default"
    store: bool = False
    temperature: float | None
    text: JsonObject
    tool_choice: str | JsonObject
    tools: list[JsonObject]
    top_logprobs: int
    top_p: float | None
    truncation: str
    usage: ResponseUsage | None = None
    user: str | None


def started_response(body: ResponsesBody, model: str, created: int) -> ResponseObject:
    """A response before its first token: everything that is known by then."""
    reasoning, text = body.reasoning, body.text
    return ResponseObject(
        id=random_id("resp_"),
        created_at=created,
        instructions=body.instructions,
        max_output_tokens=body.max_output_tokens,
        metadata=body.metadata or {},
        model=model,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        reasoning={
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        temperature=body.temperature,
        background=bool(body.background),
        previous_response_id=body.previous_response_id,
        conversation=None if body.conversation_id is None else {"id": body.conversation_id},
        service_tier="flex" if body.service_tier == "flex" else "default",
        store=body.store is not False,
        text={"format": (text.format if text else None) or {"type": "text"}},
        tool_choice="auto" if body.tool_choice is None else body.tool_choice,
        tools=body.tools or [],
        top_logprobs=body.top_logprobs or 0,
        top_p=body.top_p,
        truncation=body.truncation or "disabled",
        user=body.user,
    )


def finished_response(started: ResponseObject, result: ChatResult, output: list[OutputItem]) -> ResponseObject:
    """The response once its job has ended."""
    usage, cut = result.usage, result.choices[0].finish_reason == "length"
    return msgspec.structs.replace(
        started,
        status="incomplete" if cut else "completed",
        incomplete_details={"reason": "max_output_tokens"} if cut else None,
        completed_at=None if cut else int(time.time()),
        output=output,
        usage=ResponseUsage(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(usage.prompt_tokens_details.cached_tokens),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(usage.completion_tokens_details.reasoning_tokens),
            total_tokens=usage.total_tokens,
        ),
    )


def failed_response(started: ResponseObject, error: BatchError, output: list[OutputItem]) -> ResponseObject:
    """The response once its job has failed or was cancelled, with what it had said by then."""
    is_cancelled = isinstance(error, Cancelled)
    return msgspec.structs.replace(
        started,
        status="cancelled" if is_cancelled else "failed",
        output=output,
        error=None if is_cancelled else {"code": "server_error", "message": error.message},
    )


def reasoning_item(text: str, item_id: str, *, summarized: bool, status: ItemStatus = "completed") -> ReasoningItem:
    """A reasoning item that holds its text as content, or as a summary for clients that ask for one."""
    if summarized:
        return ReasoningItem(id=item_id, summary=[SummaryText(text=text)], status=status)
    return ReasoningItem(id=item_id, content=[ReasoningText(text=text)], status=status)


def call_item(
    call_id: str | None, name: str, arguments: str = "", status: ItemStatus = "completed", *, is_custom: bool = False
) -> FunctionCallItem | CustomCallItem:
    """A call; the id that the model's call has goes on as call_id. `is_custom`: the arguments are a custom tool's."""
    bare = (call_id or random_id("")).removeprefix("call_")
    if is_custom:
        text = custom_input(arguments)
        return CustomCallItem(id=f"ctc_{bare}", status=status, call_id=f"call_{bare}", input=text, name=name)
    return FunctionCallItem(id=f"fc_{bare}", status=status, arguments=arguments, call_id=f"call_{bare}", name=name)


def to_response(body: ResponsesBody, result: ChatResult, started: ResponseObject) -> ResponseObject:
    """The whole answer of a Responses request; `started`: the object as it stood before the first token."""
    choice = result.choices[0]
    message = choice.message
    output: list[OutputItem] = []
    if message and message.reasoning_content:
        item_id = random_id("rs_")
        output.append(reasoning_item(message.reasoning_content, item_id, summarized=body.summarizes_reasoning))
    if message and message.content:
        part = OutputText(text=message.content, logprobs=choice.logprobs.content if choice.logprobs else [])
        output.append(MessageItem(id=random_id("msg_"), content=[part]))
    for call in message.tool_calls if message else []:
        name = call.function.name
        output.append(call_item(call.id, name, call.function.arguments, is_custom=name in body.custom_names))
    if choice.finish_reason == "length" and output:
        output[-1].status = "incomplete"
    return finished_response(started, result, output)
