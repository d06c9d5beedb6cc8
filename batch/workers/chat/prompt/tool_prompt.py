"""Tools for templates that need more of them than requests hold, or that know none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from batch.workers.chat.dialects.derived.layout import ID_HOLE, INDEX_HOLE, CallLayout
from batch.workers.chat.dialects.template_values import TemplateObject, TemplateValue

_MAX_DEPTH = 16


def complete_tools(tools: Sequence[TemplateValue]) -> list[TemplateValue]:
    """The tools with every optional field: some templates read descriptions and parameters without looking for them."""
    complete: list[TemplateValue] = []
    for tool in tools:
        function = {"description": "", **(tool.get("function") or {})}
        parameters = {"type": "object", "properties": {}, "required": [], **(function.get("parameters") or {})}
        properties = parameters["properties"]
        if isinstance(properties, dict):
            parameters["properties"] = {name: _complete(schema) for name, schema in properties.items()}
        complete.append({**tool, "function": {**function, "parameters": parameters}})
    return complete


def _complete(schema: Any, depth: int = 0) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return schema
    complete = {"type": "string", "description": "", **schema}
    if complete["type"] == "array":
        complete["items"] = _complete(complete.get("items") or {}, depth + 1)
    elif complete["type"] == "object":
        others = complete.get("additionalProperties")
        complete["additionalProperties"] = _complete(others if isinstance(others, dict) else {}, depth + 1)
    return complete


def with_tools_told(messages: list[TemplateObject], tools: Sequence[TemplateValue], layout: CallLayout) -> list[TemplateObject]:
    """The messages with the functions, and how to call one, in the system's; for templates that leave tools out."""
    example = layout.head + "NAME" + layout.name_end + '{"argument": "value"}' + layout.call_end + layout.section_end
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = (
        f"You can call these functions:\n{functions}\n\nTo call one, write exactly this, with its name and arguments:\n"
        + example.replace(ID_HOLE, "call00001").replace(INDEX_HOLE, "0")
    )
    if messages and messages[0]["role"] in ("system", "developer"):
        first = messages[0]
        content = first.get("content")
        if isinstance(content, list):
            return [{**first, "content": [*content, {"type": "text", "text": text}]}, *messages[1:]]
        return [{**first, "content": f"{content}\n\n{text}" if content else text}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
