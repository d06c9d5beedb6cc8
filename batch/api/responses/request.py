"""The body of OpenAI's /v1/responses, and the chat request that it becomes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from msgspec import Meta

from batch.api import openapi_schemas
from batch.api.generation.chat_body import ChatGenerationBody
from batch.api.generation.conversation import ChatRequest, Turn, check_sizes
from batch.api.generation.request import LogprobCount, TokenLimit
from batch.api.generation.structured_output import OutputConstraint, response_format_constraints
from batch.api.generation.tools import FunctionTool, ToolOffer, read_functions, read_openai_choice
from batch.api.json_body import Body, parse_json, quoted, read_body
from batch.api.responses.input_items import ItemBody, input_turns
from batch.errors import BadRequest

MAX_METADATA_PAIRS = 16
MAX_METADATA_KEY_CHARS = 64
MAX_METADATA_VALUE_CHARS = 512
MAX_USER_CHARS = 512

_HOSTED_TOOLS_SENTENCE = "tools of type {} run on a provider's servers; only function tools work here"


class ReasoningOptions(Body, frozen=True, kw_only=True):
    """OpenAI's `reasoning`."""

    effort: str | None = None
    summary: str | None = None


class TextOptions(Body, frozen=True, kw_only=True):
    """OpenAI's `text`."""

    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesBody(ChatGenerationBody, frozen=True, kw_only=True):
    """What a Responses request may hold."""

    input: Annotated[str | list[ItemBody], Meta(extra_json_schema=openapi_schemas.RESPONSES_INPUT)]
    instructions: str | None = None
    max_output_tokens: TokenLimit | None = None
    tools: Annotated[list[dict[str, Any]], Meta(extra_json_schema=openapi_schemas.RESPONSES_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    truncation: str | None = None
    previous_response_id: Any = None
    conversation: Any = None
    background: bool | None = None
    prompt: Any = None
    context_management: Any = None
    include: list[str] | None = None
    top_logprobs: LogprobCount | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    user: str | None = None

    def chat_request(self) -> ChatRequest:
        """The request in the form that all chat APIs share. Raises BadRequest naming the field."""
        self._refuse_unsupported()
        self._check_echoed()
        notes: list[str] = []
        turns = [Turn("system", self.instructions)] if self.instructions else []
        turns += input_turns(self.input, notes)
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
    def summarizes_reasoning(self) -> bool:
        """Whether reasoning is to come as a summary."""
        return bool(self.reasoning and self.reasoning.summary not in (None, "", "none"))

    def _refuse_unsupported(self) -> None:
        for field in ("previous_response_id", "conversation"):
            if getattr(self, field):
                raise BadRequest(
                    f"Field '{field}': responses are not stored here; send the whole conversation as 'input'", param=field
                )
        if self.background:
            raise BadRequest(
                "Field 'background': a response is answered while its client waits; leave it out", param="background"
            )
        for field in ("prompt", "context_management"):
            if getattr(self, field) is not None:
                raise BadRequest(f"Field '{field}': is not supported here", param=field)
        if self.truncation not in (None, "auto", "disabled"):
            raise BadRequest("Field 'truncation': should be auto or disabled", param="truncation")

    def _check_echoed(self) -> None:
        """Bound what the answer repeats."""
        metadata = self.metadata or {}
        if len(metadata) > MAX_METADATA_PAIRS:
            raise BadRequest(f"Field 'metadata': should hold at most {MAX_METADATA_PAIRS} pairs", param="metadata")
        for key, value in metadata.items():
            if len(key) > MAX_METADATA_KEY_CHARS or len(str(value)) > MAX_METADATA_VALUE_CHARS:
                raise BadRequest(
                    f"Field 'metadata': should hold keys of at most {MAX_METADATA_KEY_CHARS} characters and values of at "
                    f"most {MAX_METADATA_VALUE_CHARS}",
                    param="metadata",
                )
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


def read_response_request(data: bytes) -> tuple[ResponsesBody, ChatRequest]:
    """A request's bytes as its checked body and the chat that it asks for. Raises BadRequest naming the field."""
    body = read_body(ResponsesBody, parse_json(data))
    return body, body.chat_request()


def _function(tool: dict[str, Any], path: str) -> FunctionTool:
    if (kind := tool.get("type")) != "function":
        raise BadRequest(f"Field '{path}.type': {_HOSTED_TOOLS_SENTENCE.format(quoted(str(kind)))}", param=f"{path}.type")
    return FunctionTool(tool.get("name"), tool.get("description"), tool.get("parameters"), tool.get("strict"), path=path)
