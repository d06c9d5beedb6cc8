"""The body of OpenAI's /v1/responses, and the chat it stands for."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from batch.api import openapi_schemas as shapes
from batch.api.chat_completions.request import ChatBody
from batch.api.json_body import Body, Int, Sampling, Tokens
from batch.errors import BadRequest

logger = logging.getLogger("batch.api")


class Reasoning(Body):
    effort: str | None = None
    summary: str | None = None


class TextOptions(Body):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class ResponsesBody(Sampling):
    """What a Responses request may hold; `chat` is the same as a chat request."""

    input: Annotated[str | list[dict[str, Any]], WithJsonSchema(shapes.RESPONSES_INPUT)]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    tools: Annotated[list[dict[str, Any]], WithJsonSchema(shapes.RESPONSES_TOOLS)] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    background: bool | None = None
    include: list[str] | None = None
    top_logprobs: Annotated[Int, Field(ge=0, le=1024)] | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    user: str | None = None
    enable_thinking: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_budget_tokens: Tokens | None = None

    def chat(self) -> ChatBody:
        for field in ("previous_response_id", "conversation"):
            if getattr(self, field):
                raise BadRequest(
                    f"Field '{field}': responses are not stored here; send the whole conversation as 'input'",
                    param=field,
                )
        if self.background:
            raise BadRequest(
                "Field 'background': a response is answered while its caller waits; leave it out", param="background"
            )
        told = self.model_dump(exclude_none=True, include=set(ChatBody.model_fields) - {"tools", "tool_choice"})
        messages = [{"role": "system", "content": self.instructions}] if self.instructions else []
        told["messages"] = messages + input_messages(self.input)
        if self.max_output_tokens is not None:
            told["max_tokens"] = self.max_output_tokens
        told["tools"] = [_tool(tool, at) for at, tool in enumerate(self.tools or []) if tool.get("type") == "function"]
        told["tool_choice"] = self.tool_choice
        if self.reasoning and self.reasoning.effort:
            told["reasoning_effort"] = self.reasoning.effort
        if self.text and self.text.format:
            told["response_format"] = _format(self.text.format)
        wanted = "message.output_text.logprobs" in (self.include or [])
        told["logprobs"] = wanted or self.top_logprobs is not None
        if wanted and self.top_logprobs is None:
            told["top_logprobs"] = 0
        return ChatBody.read(told)


def _format(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("type") == "json_schema":
        return {"type": "json_schema", "json_schema": {k: v for k, v in given.items() if k != "type"}}
    return given


def _tool(tool: dict[str, Any], at: int) -> dict[str, Any]:
    if not isinstance(tool.get("name"), str):
        raise BadRequest(f"Field 'tools[{at}].name': should be the function's name", param=f"tools[{at}].name")
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def input_messages(given: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages of a Responses input; what belongs to one assistant turn is put together again."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: list[dict[str, Any]] = []
    for at, item in enumerate(given):
        path = f"input[{at}]"
        match item.get("type") or "message":
            case "message" if item.get("role") == "assistant":
                turn = _assistant(found)
                turn["content"] = [*(turn.get("content") or []), *_parts(item.get("content"), f"{path}.content")]
            case "message":
                content = item.get("content")
                parts = content if isinstance(content, str) else _parts(content, f"{path}.content")
                found.append({"role": item.get("role"), "content": parts})
            case "function_call":
                function = {"name": _text(item, "name", path), "arguments": _text(item, "arguments", path)}
                call = {"id": _text(item, "call_id", path), "type": "function", "function": function}
                _assistant(found).setdefault("tool_calls", []).append(call)
            case "function_call_output":
                output = item.get("output")
                content = output if isinstance(output, str) else _parts(output, f"{path}.output")
                found.append({"role": "tool", "tool_call_id": _text(item, "call_id", path), "content": content})
            case "reasoning":
                _assistant(found, fresh=True)["reasoning_content"] = _thought(item)
            case "item_reference":
                raise BadRequest(
                    f"Field '{path}': responses are not stored here, so items cannot be referred to; send them whole",
                    param=path,
                )
            case kind:
                raise BadRequest(f"Field '{path}.type': items of type {kind!r} are not known here", param=path)
    return found


def _assistant(found: list[dict[str, Any]], fresh: bool = False) -> dict[str, Any]:
    """The assistant turn that is being put together."""
    if not found or found[-1]["role"] != "assistant" or (fresh and len(found[-1]) > 2):
        found.append({"role": "assistant", "content": None})
    return found[-1]


def _thought(item: dict[str, Any]) -> str:
    content = item.get("content") if isinstance(item.get("content"), list) else item.get("summary")
    parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part.get("text"), str))


def _text(item: dict[str, Any], key: str, path: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"Field '{path}.{key}': should be a string", param=f"{path}.{key}")
    return value


def _parts(content: Any, path: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        raise BadRequest(f"Field '{path}': should be a string or an array", param=path)
    found: list[dict[str, Any]] = []
    for at, part in enumerate(content):
        here = f"{path}[{at}]"
        kind = part.get("type") if isinstance(part, dict) else None
        if kind in ("input_text", "output_text", "text"):
            found.append({"type": "text", "text": _text(part, "text", here)})
        elif kind == "refusal":
            found.append({"type": "text", "text": _text(part, "refusal", here)})
        elif kind == "input_image":
            if not isinstance(part.get("image_url"), str):
                raise BadRequest(
                    f"Field '{here}.image_url': 'image_url' is required, as a data: URL; files are not stored here",
                    param=f"{here}.image_url",
                )
            found.append({"type": "image_url", "image_url": {"url": part["image_url"]}})
        else:
            raise BadRequest(f"Field '{here}.type': should be input_text or input_image", param=f"{here}.type")
    return found
