"""The body of /v1/chat/completions, and the chat request that it becomes."""

from __future__ import annotations

import json
from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from batch.api import openapi_schemas
from batch.api.generation.chat_body import ChatGenerationBody
from batch.api.generation.conversation import (
    ChatRequest,
    ContentPart,
    FileSource,
    ImageSource,
    Turn,
    check_sizes,
    checked_id,
    checked_role,
    checked_text,
    history_call,
    left_out,
)
from batch.api.generation.documents import read_document
from batch.api.generation.request import Choices, LogprobCount
from batch.api.generation.structured_output import response_format_constraints
from batch.api.generation.tools.custom import custom_function
from batch.api.generation.tools.offer import FunctionTool, ToolOffer, read_functions, read_openai_choice
from batch.api.json_body import Body, JsonObject, parse_json, quoted, read_body
from batch.errors import BadRequest
from batch.payloads.chat import TextPart, ToolCall

DEFAULT_TOP_LOGPROBS = 20
"""What llama-server reports with logprobs alone."""


class ImageUrl(Body, frozen=True, kw_only=True):
    """The object of an image_url part."""

    url: str | None = None


class InlineFile(Body, frozen=True, kw_only=True):
    """The object of a file part."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class PartBody(Body, frozen=True, kw_only=True):
    """A part of a message's content."""

    type: Any = None
    text: Any = None
    refusal: Any = None
    image_url: ImageUrl | str | None = None
    file: InlineFile | None = None


class CallFunction(Body, frozen=True, kw_only=True):
    """The function of a call in the history."""

    name: str
    arguments: str | JsonObject | None = None


class CustomCall(Body, frozen=True, kw_only=True):
    """The object of a custom tool's call in the history."""

    name: str
    input: str | None = None


class CallBody(Body, frozen=True, kw_only=True):
    """A call in the history."""

    id: str | None = None
    function: CallFunction | None = None
    custom: CustomCall | None = None


class ChatMessageBody(Body, frozen=True, kw_only=True):
    """One message."""

    role: Any = None
    content: str | list[PartBody] | UnsetType | None = UNSET
    name: str | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[CallBody] | None = None


class FunctionBody(Body, frozen=True, kw_only=True):
    """The function of a tool."""

    name: Any = None
    description: Any = None
    parameters: Any = None
    strict: Any = None


class CustomBody(Body, frozen=True, kw_only=True):
    """The object of a custom tool."""

    name: Any = None
    description: Any = None
    format: Any = None


class ToolBody(Body, frozen=True, kw_only=True):
    """A tool."""

    type: str | None = None
    function: FunctionBody | None = None
    custom: CustomBody | None = None


class ChatBody(ChatGenerationBody, frozen=True, kw_only=True):
    """What a chat request may hold."""

    messages: Annotated[list[ChatMessageBody], Meta(extra_json_schema=openapi_schemas.CHAT_MESSAGES)]
    tools: Annotated[list[ToolBody], Meta(extra_json_schema=openapi_schemas.CHAT_TOOLS)] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    n: Choices | None = None
    response_format: JsonObject | None = None
    logprobs: bool | None = None
    top_logprobs: LogprobCount | None = None
    reasoning_effort: str | None = None
    functions: Any = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    store: bool | None = None
    metadata: JsonObject | None = None

    def chat_request(self) -> ChatRequest:
        """The request in the form that all chat APIs share. Raises BadRequest naming the field."""
        self._refuse_unsupported()
        notes: list[str] = []
        turns = [_turn(message, f"messages[{at}]", notes) for at, message in enumerate(self.messages)]
        check_sizes(turns, "messages")
        choices = self.n or 1
        generation = self.generation_params(
            choices=choices,
            logprobs=self._logprob_count(),
            constraints=response_format_constraints(self.response_format, "response_format"),
        )
        offer = self._offer()
        if offer.tools and offer.choice != "none" and (generation.grammar or generation.regex):
            raise BadRequest("Cannot use custom grammar constraints with tools.", param="grammar")
        return ChatRequest(
            turns=turns,
            generation=generation,
            offer=offer,
            thinking=self.read_thinking(self.reasoning_effort),
            choices=choices,
            stream=bool(self.stream),
            model=self.model_name,
            notes=notes,
        )

    def _refuse_unsupported(self) -> None:
        for field in ("functions", "function_call"):
            if getattr(self, field):
                raise BadRequest(f"Field '{field}': is not supported any more; use 'tools' and 'tool_choice'", param=field)
        if self.audio is not None or "audio" in (self.modalities or ()):
            field = "audio" if self.audio is not None else "modalities"
            raise BadRequest(f"Field '{field}': this model answers in text, not in sound", param=field)
        if self.web_search_options is not None:
            raise BadRequest(
                "Field 'web_search_options': this service runs on this machine and searches no web",
                param="web_search_options",
            )

    def _logprob_count(self) -> int | None:
        if self.logprobs:
            return DEFAULT_TOP_LOGPROBS if self.top_logprobs is None else self.top_logprobs
        if self.top_logprobs is not None:
            raise BadRequest("top_logprobs requires logprobs to be set to true", param="top_logprobs")
        return None

    def _offer(self) -> ToolOffer:
        tools = read_functions(_function(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or []))
        return read_openai_choice(tools, self.tool_choice, self.parallel_tool_calls)


def read_chat(data: bytes) -> tuple[ChatBody, ChatRequest]:
    """A request's bytes as its checked body and the chat that it asks for. Raises BadRequest naming the field."""
    body = read_body(ChatBody, parse_json(data))
    return body, body.chat_request()


def _function(tool: ToolBody, path: str) -> FunctionTool:
    if tool.type == "custom":
        custom = tool.custom or CustomBody()
        return custom_function(custom.name, custom.description, custom.format, f"{path}.custom")
    if tool.type not in (None, "function"):
        raise BadRequest(
            f"Field '{path}.type': only tools of type function or custom can be called here, not {quoted(tool.type)}",
            param=f"{path}.type",
        )
    function = tool.function or FunctionBody()
    return FunctionTool(function.name, function.description, function.parameters, function.strict, path=f"{path}.function")


def _turn(message: ChatMessageBody, path: str, notes: list[str]) -> Turn:
    role = checked_role(message.role, path, "role")
    if message.content is UNSET and role != "assistant":
        raise BadRequest(f"Field '{path}': All non-assistant messages must contain 'content'", param=f"{path}.content")
    if message.content is UNSET and message.tool_calls is None and message.reasoning_content is None:
        raise BadRequest(
            f"Field '{path}': Assistant message must contain either 'content' or 'tool_calls'!", param=f"{path}.content"
        )
    content = None if isinstance(message.content, UnsetType) else message.content
    turn = Turn(role, content=content if isinstance(content, str) else None, reasoning_content=message.reasoning_content)
    if message.name is not None:
        turn.name = checked_id(message.name, path, "name")
    if message.tool_call_id is not None:
        turn.tool_call_id = checked_id(message.tool_call_id, path, "tool_call_id")
    if isinstance(content, list):
        strict = role not in ("assistant", "tool")
        parts = [_part(part, f"{path}.content[{at}]", strict, notes) for at, part in enumerate(content)]
        turn.content = [part for part in parts if part is not None]
    if message.tool_calls:
        turn.tool_calls = [_call(call, f"{path}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls)]
    return turn


def _part(part: PartBody, path: str, strict: bool, notes: list[str]) -> ContentPart | None:
    """A part of content; None for history of an unknown type, which a note then tells."""
    match part.type:
        case "text":
            return TextPart(text=checked_text(part.text, path, "text"))
        case "refusal":
            return TextPart(text=checked_text(part.refusal, path, "refusal"))
        case "image_url":
            url = part.image_url.url if isinstance(part.image_url, ImageUrl) else part.image_url
            if url is None:
                raise BadRequest(f"Field '{path}.image_url.url': should be a data: URL", param=f"{path}.image_url.url")
            return ImageSource(url)
        case "file":
            return _file(part.file or InlineFile(), f"{path}.file")
        case "input_audio" | "input_video" | "video_url" if strict:
            raise BadRequest(
                f"Field '{path}': this model hears no sound and sees no video; sound goes to /v1/audio/transcriptions",
                param=path,
            )
    if strict:
        raise BadRequest(
            f"Field '{path}.type': unsupported content[].type; should be text, image_url or file", param=f"{path}.type"
        )
    if isinstance(part.text, str):
        return TextPart(text=part.text)
    notes.append(left_out(part.type))
    return None


def _file(file: InlineFile, path: str) -> ContentPart:
    if file.file_data is None:
        if file.file_id is not None:
            return FileSource(checked_id(file.file_id, path, "file_id"), f"{path}.file_id")
        message = f"Field '{path}.file_data': is required, as a data: URL, or 'file_id' of an uploaded file"
        raise BadRequest(message, param=f"{path}.file_data")
    return read_document(file.file_data, f"{path}.file_data", filename=file.filename or "")


def _call(call: CallBody, path: str) -> ToolCall:
    call_id = None if call.id is None else checked_id(call.id, path, "id")
    if call.custom is not None:
        return history_call(call_id, call.custom.name, json.dumps({"input": call.custom.input or ""}, ensure_ascii=False))
    if call.function is None:
        raise BadRequest(f"Field '{path}.function.name': should be the function's name", param=f"{path}.function.name")
    arguments = call.function.arguments
    if isinstance(arguments, dict):  # some clients send the object itself
        arguments = json.dumps(arguments, ensure_ascii=False)
    return history_call(call_id, checked_id(call.function.name, path, "function.name"), arguments or "{}")
