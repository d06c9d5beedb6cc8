"""Models that think between `<think>` and `</think>`, or not at all, and may call functions in JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from batch.workers.chat.dialects.marker_search import Markers
from batch.workers.chat.dialects.stream_parser import Reading, StreamParser

CALL = "<tool_call>"
CALL_END = "</tool_call>"
PAIRS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))


class ThinkParser(StreamParser):
    """Thinking stands at the beginning only; space around its markers belongs to nothing."""

    def __init__(self, reading: Reading, pair: tuple[str, str] | None) -> None:
        super().__init__(reading)
        self._space = ""
        self._open, self._close = pair or ("", "")
        self._in_thought = Markers((self._close,) if pair else ())
        self._in_content = Markers((CALL,) if reading.functions else ())
        self._in_call = Markers((CALL_END,))
        self._call: list[str] = []
        self._steps = {
            "start": self._start,
            "indent": self._indent,
            "thought": self._thought,
            "gap": self._gap,
            "content": self._answer,
            "call": self._calling,
            "between": self._between,
        }
        self._state = "start" if pair else "content"
        if pair and reading.tail.rfind(self._open) > reading.tail.rfind(self._close):
            self._state = "indent" if not reading.tail.rpartition(self._open)[2].strip() else "thought"
        elif pair and self._close in reading.tail:
            self._state = "gap"

    @property
    def thinking(self) -> bool:
        return self._state in ("indent", "thought")

    @property
    def called(self) -> str | None:
        return "".join(self._call) + self._text if self._state == "call" else None

    def _end(self, cut: bool) -> None:
        text, self._text = self._text, ""
        match self._state:
            case "start" | "content":
                self._content(text)
            case "thought":
                self._thinks(self._space + text if text or self._reading.raw else "")
            case "call" if not cut:
                self._content(CALL + "".join(self._call) + text)

    def _start(self) -> bool:
        body = self._text.lstrip()
        if body.startswith(self._open):
            self._mark(self._text[: len(self._text) - len(body)] + self._open)
            self._text = body[len(self._open) :]
            self._state = "indent"
        elif self._open.startswith(body):
            return False
        else:
            self._state = "content"
        return True

    def _indent(self) -> bool:
        return self._skip_space("thought")

    def _gap(self) -> bool:
        return self._skip_space("content")

    def _thought(self) -> bool:
        before, marker, self._text = self._in_thought.cut(self._text)
        # Space before the closing marker is held until it is known not to stand there.
        before = self._space + before
        text = before.rstrip()
        self._space = before[len(text) :]
        self._thinks(text)
        if not marker:
            return False
        self._mark(self._space + marker)
        self._space = ""
        self._state = "gap"
        return True

    def _answer(self) -> bool:
        before, marker, self._text = self._in_content.cut(self._text)
        self._content(before)
        if marker:
            self._state = "call"
        return bool(marker)

    def _calling(self) -> bool:
        before, marker, self._text = self._in_call.cut(self._text)
        self._call.append(before)
        if not marker:
            return False
        body = "".join(self._call)
        self._call.clear()
        call = _read_call(body)
        if call is None or call[0] not in self._reading.functions:
            self._content(CALL + body + CALL_END)
            self._state = "content"
            return True
        if self._reading.parallel or not self._reply.calls:
            self._reply.call(call[0])
            self._reply.arguments(call[1])
        self._state = "between"
        return True

    def _between(self) -> bool:
        return self._skip_space("content") if self._text.strip() else False


def calls_functions(source: str) -> bool:
    """Whether a template shows calls as JSON between `<tool_call>` and `</tool_call>`."""
    return CALL in source and bool(re.search(r"""["']arguments["']""", source)) and "<function=" not in source


def _read_call(body: str) -> tuple[str, str] | None:
    """(name, arguments as JSON text) of `{"name": …, "arguments": …}`."""
    try:
        call: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", call.get("parameters", {}))
    return call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
