"""Calls as Python writes them, `[weather(city="Ulm", days=3)]`, as Liquid's models do."""

from __future__ import annotations

import ast
import json
from typing import Any

from batch.workers.chat.dialects.derived.argument_value import json_text
from batch.workers.chat.dialects.derived.call_reader import CallReader
from batch.workers.chat.dialects.message_builder import Reply
from batch.workers.chat.dialects.stream_parser import Reading

_MAX_CHARS = 262_144
_WORDS = {"true": True, "false": False, "null": None}


class PythonCallsReader(CallReader):
    """All calls of one section: they are read once its end has come."""

    def __init__(self, reading: Reading, reply: Reply, end: str) -> None:
        """`end`: what closes the section."""
        super().__init__(reading, reply)
        self._end = end

    def finish(self, *, is_cut: bool) -> None:
        """A section that its end marker is missing from is read as far as it goes."""
        if not is_cut:
            text = self.raw.strip()
            self._read(text + "]" if text.startswith("[") and not text.endswith("]") else text)

    def _begin(self) -> str:
        text, end, rest = self.raw.partition(self._end)
        if len(self.raw) > _MAX_CHARS:
            return self._fail()
        if not end:
            return ""
        self._read(text)
        if not self.has_begun:
            return self._fail()
        self._state = "done"
        return rest

    def _go_on(self, text: str) -> str:
        return text

    def _read(self, text: str) -> None:
        calls = _calls(text)
        if not calls or any(name not in self._reading.functions for name, _ in calls):
            return
        for name, arguments in calls:
            self._is_told = self._reading.parallel or not self._reply.calls
            self._call(name)
            self._arguments(json_text(arguments))


def _calls(text: str) -> list[tuple[str, Any]]:
    """(name, arguments) of each call; none where the text is anything else."""
    # A template may write texts with their line feeds as they are; a model puts some between values, as JSON has them.
    for source in (text.strip(), text.strip().replace("\n", "\\n")):
        try:
            tree = ast.parse(source, mode="eval").body
            nodes = tree.elts if isinstance(tree, ast.List) else [tree]
            return [(ast.unparse(node.func), _arguments(node)) for node in nodes if isinstance(node, ast.Call)]
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            continue
    return []


def _arguments(call: ast.Call) -> dict[str, object]:
    return {keyword.arg: _value(keyword.value) for keyword in call.keywords if keyword.arg}


def _value(node: ast.expr) -> object:
    """A literal; JSON's words for true, false and null count too."""
    match node:
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {str(_value(key)): _value(value) for key, value in zip(keys, values, strict=True) if key}
    value = ast.literal_eval(node)
    json.dumps(value)
    return value
