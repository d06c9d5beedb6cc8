"""The body of Anthropic's /v1/messages, and the chat request that it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta

from batch.api import openapi_schemas
from batch.api.generation.chat_body import ChatGenerationBody
from batch.api.generation.conversation import ChatRequest, Thinking, Turn, check_sizes
from batch.api.generation.structured_output import OutputConstraint, response_format_constraints
from batch.api.generation.tools.offer import FunctionTool, ToolOffer, offer_tools, read_functions
from batch.api.json_body import Body, parse_json, quoted, read_body
from batch.api.messages.content_blocks import AnthropicMessageBody, message_turns
from batch.errors import BadRequest

DEFAULT_MAX_TOKENS = 4096
"""Anthropic demands max_tokens; llama-server fills in this much."""
DEFAULT_THINKING_TOKENS = 10_000

_STAMP = re.compile(r"(x-anthropic-billing-header:.*?\bcch=)[^;]{5};", re.DOTALL)


class ThinkingBody(Body, frozen=True, kw_only=True):
    """Anthropic's `thinking`."""

    type: str | None = None
    budget_tokens: int | None = None


class SystemBlockBody(Body, frozen=True, kw_only=True):
    """A block of the system prompt."""

    type: Any = None
    text: Any = None


class MessagesToolBody(Body, frozen=True, kw_only=True):
    """A tool."""

    type: Any = None
    name: Any = None
    description: Any = None
    input_schema: Any = None


class MessagesToolChoice(Body, frozen=True, kw_only=True):
    """Anthropic's tool_choice."""

    type: Any = None
    name: Any = None
    disable_parallel_tool_use: Any = None


class OutputFormat(Body, frozen=True, kw_only=True):
    """Anthropic's output_format."""

    type: Any = None
    schema: Any = None


class OutputConfig(Body, frozen=True, kw_only=True):
    """Anthropic's output_config."""

    format: OutputFormat | None = None


class MessagesBody(ChatGenerationBody, frozen=True, kw_only=True):
    """What a messages request may hold."""

    messages: Annotated[list[AnthropicMessageBody], Meta(min_length=1, extra_json_schema=openapi_schemas.MESSAGES)]
    system: str | list[SystemBlockBody] | None = None
    stop_sequences: list[str] | None = None
    tools: Annotated[list[MessagesToolBody], Meta(extra_json_schema=openapi_schemas.MESSAGES_TOOLS)] | None = None
    tool_choice: MessagesToolChoice | None = None
    thinking: ThinkingBody | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    mcp_servers: list[Any] | None = None
    context_management: Any = None

    def chat_request(self) -> ChatRequest:
        """The request in the form that all chat APIs share. Raises BadRequest naming the field."""
        if self.mcp_servers:
            raise BadRequest(
                "Field 'mcp_servers': are not asked from here; give their tools as 'tools' and send what they answer",
                param="mcp_servers",
            )
        notes = ["context_management is not supported: the conversation was read whole"] if self.context_management else []
        turns = _system_turns(self.system) + message_turns(self.messages, notes)
        check_sizes(turns, "messages")
        return ChatRequest(
            turns=turns,
            generation=self.generation_params(
                constraints=self._output_format(),
                max_tokens=DEFAULT_MAX_TOKENS if self.token_limit is None else None,
                stop=self.stop_sequences,
            ),
            offer=self._offer(),
            thinking=self._chat_thinking(),
            stream=bool(self.stream),
            model=self.model_name,
            notes=notes,
        )

    def _output_format(self) -> Iterator[OutputConstraint]:
        output_format = self.output_format or (self.output_config.format if self.output_config else None)
        if output_format is not None and output_format.type == "json_schema":
            wrapped = {"type": "json_schema", "json_schema": {"schema": output_format.schema}}
            yield from response_format_constraints(wrapped, "output_format")

    def _chat_thinking(self) -> Thinking:
        """Without `thinking` there is none: clients of this API read the answer's first block as its text."""
        thinking = self.read_thinking()
        if self.thinking is None:
            thinking.enabled = bool(thinking.enabled)
            return thinking
        thinking.enabled = self.thinking.type != "disabled"
        if self.thinking.type == "enabled":
            thinking.budget_tokens = max(0, self.thinking.budget_tokens or DEFAULT_THINKING_TOKENS)
        return thinking

    def _offer(self) -> ToolOffer:
        tools = read_functions(_function(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or []))
        choice = self.tool_choice or MessagesToolChoice()
        parallel = choice.disable_parallel_tool_use is not True
        match choice.type:
            case None | "auto":
                return offer_tools(tools, parallel=parallel)
            case "any":
                return offer_tools(tools, "required", parallel=parallel)
            case "none":
                return offer_tools(tools, "none", parallel=parallel)
            case "tool":
                return offer_tools(tools, required_name=str(choice.name), parallel=parallel)
        raise BadRequest("Field 'tool_choice.type': should be auto, any, tool or none", param="tool_choice.type")


def read_messages_request(data: bytes) -> tuple[MessagesBody, ChatRequest]:
    """A request's bytes as its checked body and the chat that it asks for. Raises BadRequest naming the field."""
    body = read_body(MessagesBody, parse_json(data))
    return body, body.chat_request()


def _function(tool: MessagesToolBody, path: str) -> FunctionTool:
    if tool.type not in (None, "custom"):
        raise BadRequest(
            f"Field '{path}.type': tools of type {quoted(str(tool.type))} are Anthropic's own; only those with an input_schema "
            "work here",
            param=f"{path}.type",
        )
    return FunctionTool(
        tool.name,
        tool.description or "",
        tool.input_schema or {},
        path=path,
        parameters_field="input_schema",
    )


def _system_turns(system: str | list[SystemBlockBody] | None) -> list[Turn]:
    if system is None:
        return []
    if isinstance(system, str):
        return [Turn("system", _without_stamp(system))]
    texts = [block.text for block in system if block.type == "text"]
    return [Turn("system", "".join(_without_stamp(text) for text in texts if isinstance(text, str)))]


def _without_stamp(text: str) -> str:
    """Claude Code stamps its system text anew with each request, which would miss every cached prefix."""
    return _STAMP.sub(r"\1fffff;", text, count=1) if text.startswith("x-anthropic-billing-header:") else text
