"""OpenAI's custom tools: called with a text instead of arguments. The model calls a function with one text, `input`."""

from __future__ import annotations

import json
import re
from typing import Any

from batch.api.generation.tools.offer import FunctionTool
from batch.api.json_body import JsonObject, quoted
from batch.errors import BadRequest
from batch.payloads.chat import Tool

MAX_GRAMMAR_CHARS = 1 << 16
_VALUE = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_ESCAPE = re.compile(r"\\(?:u[0-9a-fA-F]{4}|[^u])")


def custom_function(name: Any, description: Any, input_format: Any, path: str) -> FunctionTool:
    """The function that stands for a custom tool. Raises BadRequest naming the field of its format."""
    field = f"{path}.format"
    value: JsonObject = {"type": "string"}
    lark = None
    if input_format is not None and not isinstance(input_format, dict):
        raise BadRequest(f"Field '{field}': should be an object", param=field)
    match (input_format or {}).get("type", "text"):
        case "text":
            pass
        case "grammar":
            syntax, definition = _grammar(input_format or {}, field)
            description = f"{description or ''}\n\nIts input follows this {syntax} grammar:\n{definition}".strip()
            if syntax == "regex":
                value["pattern"] = f"^(?:{definition})$"
            else:
                lark = definition
        case kind:
            raise BadRequest(f"Field '{field}.type': should be text or grammar, not {quoted(str(kind))}", param=f"{field}.type")
    parameters = {"type": "object", "properties": {"input": value}, "required": ["input"], "additionalProperties": False}
    return FunctionTool(name, description, parameters, strict=True, path=path, is_custom=True, lark=lark)


def _grammar(input_format: JsonObject, field: str) -> tuple[str, str]:
    """(syntax, definition); the chat form has them one level deeper."""
    if isinstance(deeper := input_format.get("grammar"), dict):
        input_format, field = deeper, f"{field}.grammar"
    syntax, definition = input_format.get("syntax"), input_format.get("definition")
    if syntax not in ("lark", "regex"):
        raise BadRequest(f"Field '{field}.syntax': should be lark or regex", param=f"{field}.syntax")
    if not isinstance(definition, str) or not definition or len(definition) > MAX_GRAMMAR_CHARS:
        message = f"Field '{field}.definition': should be a grammar of at most {MAX_GRAMMAR_CHARS:,} characters"
        raise BadRequest(message, param=f"{field}.definition")
    return str(syntax), definition


def custom_names(tools: list[Tool]) -> frozenset[str]:
    """The names of the custom tools."""
    return frozenset(tool.function.name for tool in tools if tool.function.is_custom)


def custom_input(arguments: str) -> str:
    """The text that a custom tool is called with; of a cut call, as much as was written."""
    return CustomInput().feed(arguments)


class CustomInput:
    """Reads the text out of arguments that arrive in pieces."""

    def __init__(self) -> None:
        self._pending = ""
        self._state = "before"

    def feed(self, fragment: str) -> str:
        """What is new of the text."""
        self._pending += fragment
        if self._state == "before":
            match = _VALUE.match(self._pending)
            if match is None:
                return ""
            self._pending, self._state = self._pending[match.end() :], "inside"
        if self._state != "inside":
            return ""
        end = self._end()
        text, self._pending = self._pending[:end], self._pending[end:]
        if self._pending.startswith('"'):
            self._state = "behind"
        return _unescaped(text)

    def _end(self) -> int:
        """How far the text goes, up to its end or to an escape that is not whole yet."""
        at = 0
        while at < len(self._pending) and self._pending[at] != '"':
            if self._pending[at] != "\\":
                at += 1
                continue
            match = _ESCAPE.match(self._pending, at)
            if match is None:
                return at
            if match.group()[2:4].lower() in ("d8", "d9", "da", "db"):  # the first half of a character
                second = _ESCAPE.match(self._pending, match.end())
                if second is None:
                    return at if len(self._pending) - match.end() < len(match.group()) else match.end()
                match = second
            at = match.end()
        return at


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False)).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    except ValueError:
        return text
