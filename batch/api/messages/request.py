"""The body of Anthropic's /v1/messages, and the chat it stands for."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from batch.api import openapi_schemas as shapes
from batch.api.chat_completions.request import ChatBody
from batch.api.json_body import Body, Int, Sampling, Tokens
from batch.errors import BadRequest

DEFAULT_MAX_TOKENS = 4096
"""Anthropic demands max_tokens; llama-server fills in this much."""


class Thinking(Body):
    type: str | None = None
    budget_tokens: Int | None = None


class MessagesBody(Sampling):
    """What a messages request may hold; `chat` is the same as a chat request."""

    messages: Annotated[list[dict[str, Any]], Field(min_length=1), WithJsonSchema(shapes.MESSAGES)]
    system: str | list[dict[str, Any]] | None = None
    stop_sequences: list[str] | None = None
    tools: Annotated[list[dict[str, Any]], WithJsonSchema(shapes.MESSAGES_TOOLS)] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    reasoning_budget_tokens: Tokens | None = None

    def chat(self) -> ChatBody:
        shared = set(ChatBody.model_fields) - {"messages", "tools", "tool_choice"}
        told = self.model_dump(exclude_none=True, include=shared)
        told["messages"] = _system(self.system) + chat_messages(self.messages)
        if told.keys().isdisjoint(("max_tokens", "n_predict", "max_completion_tokens")):
            told["max_tokens"] = DEFAULT_MAX_TOKENS
        if self.stop_sequences is not None:
            told["stop"] = self.stop_sequences
        told["tools"] = [
            _tool(tool, f"tools[{at}]") for at, tool in enumerate(self.tools or []) if tool.get("type", "custom") == "custom"
        ]
        self._choose(told)
        if self.thinking is not None:
            told["enable_thinking"] = self.thinking.type != "disabled"
            if self.thinking.type == "enabled":
                told["reasoning_budget_tokens"] = max(0, self.thinking.budget_tokens or 10000)
        wanted = self.output_format or (self.output_config or {}).get("format")
        if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
            told["response_format"] = {"type": "json_schema", "json_schema": {"schema": wanted.get("schema")}}
        return ChatBody.read(told)

    def _choose(self, told: dict[str, Any]) -> None:
        choice = self.tool_choice or {}
        match choice.get("type"):
            case "tool":
                told["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
            case None | "auto":
                told["tool_choice"] = "auto"
            case "any":
                told["tool_choice"] = "required"
            case "none":
                told["tool_choice"] = "none"
            case _:
                raise BadRequest("Field 'tool_choice.type': should be auto, any, tool or none", param="tool_choice.type")
        if choice.get("disable_parallel_tool_use") is True:
            told["parallel_tool_calls"] = False


_STAMP = re.compile(r"(x-anthropic-billing-header:.*?\bcch=)[^;]{5};", re.DOTALL)


def _steady(text: str) -> str:
    """Claude Code stamps its system text anew with each request, which would miss every cached prefix."""
    return _STAMP.sub(r"\1fffff;", text, count=1) if text.startswith("x-anthropic-billing-header:") else text


def _system(given: str | list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    if given is None:
        return []
    if isinstance(given, str):
        return [{"role": "system", "content": _steady(given)}]
    texts = [block.get("text") for block in given if block.get("type") == "text"]
    return [{"role": "system", "content": "".join(_steady(text) for text in texts if isinstance(text, str))}]


def _tool(tool: dict[str, Any], path: str) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.get("name"), "description": tool.get("description") or ""}
    schema = tool.get("input_schema")
    if not isinstance(function["name"], str) or not function["name"]:
        raise BadRequest(f"Field '{path}.name': should be the tool's name", param=f"{path}.name")
    if not isinstance(function["description"], str):
        raise BadRequest(f"Field '{path}.description': should be a string", param=f"{path}.description")
    if schema is not None and not isinstance(schema, dict):
        raise BadRequest(f"Field '{path}.input_schema': should be a JSON Schema object", param=f"{path}.input_schema")
    return {"type": "function", "function": {**function, "parameters": schema or {}}}


def chat_messages(given: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Chat messages of Anthropic's; a turn's tool results become messages of their own, before its text."""
    found: list[dict[str, Any]] = []
    for at, message in enumerate(given):
        path = f"messages[{at}]"
        if message.get("role") not in ("user", "assistant", "system"):
            raise BadRequest(f"Field '{path}.role': should be user or assistant", param=f"{path}.role")
        content = message.get("content")
        if isinstance(content, str):
            found.append({"role": message["role"], "content": content})
        elif isinstance(content, list):
            found += _turn(message["role"], content, path)
        else:
            raise BadRequest(f"Field '{path}.content': should be a string or an array", param=f"{path}.content")
    return found


def _turn(role: str, blocks: list[Any], path: str) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    thought = ""
    for at, block in enumerate(blocks):
        here = f"{path}.content[{at}]"
        match block.get("type") if isinstance(block, dict) else None:
            case "text" | "image":
                parts.append(_part(block, here))
            case "thinking":
                thought += _text(block, "thinking", here)
            case "redacted_thinking":
                pass
            case "tool_use":
                arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
                function = {"name": _text(block, "name", here), "arguments": arguments}
                calls.append({"id": _text(block, "id", here), "type": "function", "function": function})
            case "tool_result":
                results.append(
                    {
                        "role": "tool",
                        "tool_call_id": _text(block, "tool_use_id", here),
                        "content": _result(block.get("content"), f"{here}.content"),
                    }
                )
            case kind:
                raise BadRequest(f"Field '{here}.type': blocks of type {kind!r} are not known here", param=here)
    turn: dict[str, Any] = {"role": role, "content": parts or ("" if calls or thought else None)}
    if calls:
        turn["tool_calls"] = calls
    if thought:
        turn["reasoning_content"] = thought
    return results + ([turn] if parts or calls or thought or not results else [])


def _result(content: Any, path: str) -> str | list[dict[str, Any]]:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise BadRequest(f"Field '{path}': should be a string or an array", param=path)
    parts = [_part(block, f"{path}[{at}]") for at, block in enumerate(content)]
    if all(part["type"] == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return parts


def _text(block: dict[str, Any], key: str, path: str) -> str:
    value = block.get(key)
    if not isinstance(value, str):
        raise BadRequest(f"Field '{path}.{key}': should be a string", param=f"{path}.{key}")
    return value


def _part(block: Any, path: str) -> dict[str, Any]:
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        return {"type": "text", "text": _text(block, "text", path)}
    source = block.get("source") if kind == "image" else None
    if isinstance(source, dict) and source.get("type") == "base64":
        media = source.get("media_type") or "image/jpeg"
        url = f"data:{media};base64,{_text(source, 'data', f'{path}.source')}"
        return {"type": "image_url", "image_url": {"url": url}}
    if isinstance(source, dict) and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": _text(source, "url", f"{path}.source")}}
    raise BadRequest(f"Field '{path}': should be a text block or an image block with a base64 source", param=path)
