"""A chat's messages and tools as chat templates read them: mappings in OpenAI's form, absent fields left out."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from batch.payloads.chat import Message, Tool
from batch.workers.chat.dialects.template_values import TemplateObject


def template_messages(messages: Sequence[Message]) -> list[TemplateObject]:
    """Messages with a content, at least None, and with the type of each call, which the payload leaves out."""
    values: list[TemplateObject] = msgspec.to_builtins(messages)
    for message in values:
        message.setdefault("content", None)
        for call in message.get("tool_calls", ()):
            call["type"] = "function"
    return values


def template_tools(tools: Sequence[Tool]) -> list[TemplateObject]:
    """Tools with their type, which the payload leaves out."""
    values: list[TemplateObject] = msgspec.to_builtins(tools)
    for tool in values:
        tool["type"] = "function"
        for field in ("is_custom", "lark"):
            tool["function"].pop(field, None)
    return values
