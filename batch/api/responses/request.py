"""The body of OpenAI's /v1/responses, and the chat request that it becomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from batch.api import openapi_schemas
from batch.api.generation.chat_body import ChatGenerationBody
from batch.api.generation.conversation import ChatRequest, Turn, check_sizes
from batch.api.generation.metadata import read_metadata
from batch.api.generation.request import LogprobCount, TokenLimit
from batch.api.generation.structured_output import OutputConstraint, response_format_constraints
from batch.api.generation.tools.custom import custom_function
from batch.api.generation.tools.offer import FunctionTool, ToolOffer, read_functions, read_openai_choice
from batch.api.json_body import Body, JsonObject, parse_json, quoted, read_body
from batch.api.responses.input_items import input_turns
from batch.conversations.rows import Item
from batch.errors import BadRequest

MAX_USER_CHARS = 512

_HOSTED_TOOLS_SENTENCE = "tools of type {} run on a provider's servers; only function and custom tools work here"


class ReasoningOptions(Body, frozen=True, kw_only=True):
    """OpenAI's `reasoning`."""

    effort: str | None = None
    summary: str | None = None


class TextOptions(Body, frozen=True, kw_only=True):
    """OpenAI's `text`."""

    format: JsonObject | None = None
    verbosity: str | None = None


class ConversationName(Body, frozen=True, kw_only=True):
    """A conversation by its id."""

    id: str


class BackgroundOptions(Body, frozen=True, kw_only=True):
    """How soon a background response is wanted."""

    completion_window: Literal["2h", "8h"] | None = None


class ResponsesBody(ChatGenerationBody, frozen=True, kw_only=True):
    """What a Responses request may hold."""

    input: Annotated[str | list[JsonObject], Meta(extra_json_schema=openapi_schemas.RESPONSES_INPUT)] = ""
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    tools: Annotated[list[JsonObject], Meta(extra_json_schema=openapi_schemas.RESPONSES_TOOLS)] | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: str | None = None
    previous_response_id: str | None = None
    conversation: str | ConversationName | None = None
    background: bool | None = None
    background_options: BackgroundOptions | None = None
    service_tier: str | None = None
    prompt: Any = None
    context_management: Any = None
    include: list[str] | None = None
    top_logprobs: LogprobCount | None = None
    metadata: JsonObject | None = None
    store: bool | None = None
    user: str | None = None

    def chat_request(self, items: list[Item] | None = None) -> ChatRequest:
        """The request in the form that all chat APIs share. Raises BadRequest naming the field.

        `items`: the whole context with the input; None: the input alone.
        """
        notes: list[str] = []
        turns = [Turn("system", self.instructions)] if self.instructions else []
        turns += input_turns(self.input if items is None else items, notes)
        check_sizes(turns, "input")
        return ChatRequest(
            turns=turns,
            generation=self.generation_params(
                logprobs=self._logprob_count(), constraints=self._text_format(), max_tokens=self.max_output_tokens
            ),
            offer=self._offer(),
            thinking=self.read_thinking(self.reasoning.effort if self.reasoning else None),
            stream=bool(self.stream),
            model=self.model_name,
            notes=notes,
        )

    @property
    def custom_names(self) -> frozenset[str]:
        """The names of the custom tools."""
        return frozenset(str(tool.get("name")) for tool in self.tools or [] if tool.get("type") == "custom")

    @property
    def conversation_id(self) -> str | None:
        """The conversation that the response goes on from."""
        return self.conversation.id if isinstance(self.conversation, ConversationName) else self.conversation

    @property
    def is_bulk(self) -> bool:
        """Whether a background response lets everything else go first."""
        options = self.background_options
        return self.service_tier == "flex" or (options is not None and options.completion_window is not None)

    @property
    def summarizes_reasoning(self) -> bool:
        """Whether reasoning is to come as a summary."""
        return bool(self.reasoning and self.reasoning.summary not in (None, "", "none"))

    def check(self) -> None:
        """Raise BadRequest for what is not supported, contradicts itself, or is too long to be repeated in an answer."""
        self._refuse_unsupported()
        self._check_echoed()

    def _refuse_unsupported(self) -> None:
        if self.previous_response_id is not None and self.conversation is not None:
            raise BadRequest("Field 'conversation': excludes previous_response_id; send one of them", param="conversation")
        if self.background and self.background_options and self.background_options.completion_window and self.stream:
            raise BadRequest("Field 'stream': cannot be true with background_options.completion_window", param="stream")
        for field in ("prompt", "context_management"):
            if getattr(self, field) is not None:
                raise BadRequest(f"Field '{field}': is not supported here", param=field)
        if self.truncation not in (None, "auto", "disabled"):
            raise BadRequest("Field 'truncation': should be auto or disabled", param="truncation")

    def _check_echoed(self) -> None:
        """Bound what the answer repeats."""
        read_metadata(self.metadata)
        if self.user is not None and len(self.user) > MAX_USER_CHARS:
            raise BadRequest(f"Field 'user': should hold at most {MAX_USER_CHARS} characters", param="user")

    def _logprob_count(self) -> int | None:
        if self.top_logprobs is None and "message.output_text.logprobs" not in (self.include or []):
            return None
        return self.top_logprobs or 0

    def _text_format(self) -> Iterator[OutputConstraint]:
        text_format = self.text.format if self.text else None
        if text_format and text_format.get("type") == "json_schema":  # the chat form has the schema one level deeper
            schema = {key: value for key, value in text_format.items() if key != "type"}
            text_format = {"type": "json_schema", "json_schema": schema}
        return response_format_constraints(text_format, "text.format")

    def _offer(self) -> ToolOffer:
        tools = read_functions(_function(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or []))
        return read_openai_choice(tools, self.tool_choice, self.parallel_tool_calls)


def read_responses_body(data: bytes) -> ResponsesBody:
    """A request's bytes as its checked body; its input is read once what it refers to is known. Raises BadRequest."""
    document = parse_json(data)
    body = read_body(ResponsesBody, document)
    continues = body.previous_response_id is not None or body.conversation is not None
    if document.get("input") is None and not continues:
        raise BadRequest("'input' is required", param="input")
    body.check()
    return body


def _function(tool: JsonObject, path: str) -> FunctionTool:
    if (kind := tool.get("type")) == "custom":
        return custom_function(tool.get("name"), tool.get("description"), tool.get("format"), path)
    if kind != "function":
        raise BadRequest(f"Field '{path}.type': {_HOSTED_TOOLS_SENTENCE.format(quoted(str(kind)))}", param=f"{path}.type")
    return FunctionTool(tool.get("name"), tool.get("description"), tool.get("parameters"), tool.get("strict"), path=path)
