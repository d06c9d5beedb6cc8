"""Reads one call of a model's, by pieces, as its layout has it."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import Any

from batch.workers.chat.dialects.derived.argument_value import ANY_TYPE, json_text, possible_types, read_value
from batch.workers.chat.dialects.derived.json_extent import JsonExtent
from batch.workers.chat.dialects.derived.layout import KEY_HOLE, CallLayout, JsonCall, TaggedArguments
from batch.workers.chat.dialects.derived.literal_match import NEVER, LiteralMatch, match_call_head, match_literal
from batch.workers.chat.dialects.marker_search import Markers
from batch.workers.chat.dialects.message_builder import Reply
from batch.workers.chat.dialects.stream_parser import Reading

_MAX_HEAD_CHARS = 4096
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_KEY = re.compile(r"""[^<>"'=\s/][^<>"'=\s]{0,255}""")


class CallReader(ABC):
    """One call, from behind its trigger to the end of its arguments."""

    def __init__(self, reading: Reading, reply: Reply) -> None:
        self._reading = reading
        self._reply = reply
        self._is_told = reading.parallel or not reply.calls
        self._name = ""
        self._state = "head"
        self.raw = ""
        """All text so far, until the call has begun."""

    @property
    def has_begun(self) -> bool:
        """Whether the function's name is known."""
        return bool(self._name)

    @property
    def is_done(self) -> bool:
        return self._state == "done"

    @property
    def has_failed(self) -> bool:
        """Whether the text is no call: `raw` holds it then."""
        return self._state == "failed"

    def feed(self, text: str) -> str:
        """What is left of the text behind the call; nothing while it goes on."""
        if self.has_begun:
            return self._go_on(text)
        self.raw += text
        return self._begin()

    def finish(self, *, is_cut: bool) -> None:  # noqa: B027 - most have nothing to do
        """No more text comes."""

    def _call(self, name: str) -> None:
        self._name = name
        if self._is_told:
            self._reply.call(name)

    def _arguments(self, fragment: str) -> None:
        if self._is_told:
            self._reply.arguments(fragment)

    def _fail(self) -> str:
        self._state = "failed"
        return ""

    @abstractmethod
    def _begin(self) -> str:
        """Read the head from `raw`."""

    @abstractmethod
    def _go_on(self, text: str) -> str:
        """More text behind the head."""


class JsonArgumentsReader(CallReader):
    """A name between markers, and arguments as a JSON object."""

    def __init__(self, reading: Reading, reply: Reply, before: str, layout: CallLayout) -> None:
        """`before`: what stands between the trigger and the name."""
        super().__init__(reading, reply)
        self._before, self._after = before, layout.name_end
        self._extent = JsonExtent()

    def _begin(self) -> str:
        head = match_call_head(self._before, self._reading.functions, self._after, self.raw)
        if head.is_open and len(self.raw) < _MAX_HEAD_CHARS:
            return ""
        rest = self.raw[head.end :].lstrip() if head.is_whole else ""
        if head.is_whole and not rest:
            return ""
        if not head.is_whole or not rest.startswith("{"):
            return self._fail()
        self._call(head.name)
        return self._go_on(rest)

    def _go_on(self, text: str) -> str:
        end = self._extent.feed(text)
        self._arguments(text[:end])
        if self._extent.done:
            self._state = "done"
        return text[end:]


class JsonCallReader(CallReader):
    """A call that is one JSON object. Its arguments are told as they come where the name stands before them."""

    def __init__(self, reading: Reading, reply: Reply, before: str, layout: JsonCall) -> None:
        super().__init__(reading, reply)
        self._layout = layout
        self._before = frozenset(before + " \t\r\n[,")
        name, arguments = re.escape(layout.name_key), re.escape(layout.arguments_key)
        others = rf'(?:"(?!{name}"|{arguments}")[^"\\]*"\s*:\s*(?:"[^"\\]*"|\d+)\s*,\s*)*'
        name_first = rf'{others}"{name}"\s*:\s*"((?:[^"\\]|\\.)*)"\s*,\s*{others}"{arguments}"\s*:\s*(?=\{{)'
        self._head = re.compile(r"\{\s*" + (name_first if layout.name_key else r'"((?:[^"\\]|\\.)*)"\s*:\s*(?=\{)'))
        self._object: JsonExtent | None = None
        self._extent = JsonExtent()
        self._start = self._read_chars = 0

    def _begin(self) -> str:
        if self._object is None:
            self._start = self.raw.find("{")
            if not self._before.issuperset(self.raw[: self._start] if self._start >= 0 else self.raw):
                return self._fail()
            if self._start < 0:
                return ""
            self._object, self._read_chars = JsonExtent(), self._start
        if len(self.raw) - self._start < _MAX_HEAD_CHARS and (head := self._head.match(self.raw, self._start)):
            name = _unquoted(head.group(1))
            if name not in self._reading.functions:
                return self._whole()
            self._call(name)
            return self._go_on(self.raw[head.end() :])
        return self._whole()

    def _whole(self) -> str:
        """The object once all of it is there."""
        assert self._object is not None
        self._read_chars += self._object.feed(self.raw[self._read_chars :])
        if not self._object.done:
            return ""
        rest = self.raw[self._read_chars :]
        try:
            call = json.loads(self.raw[self._start : self._read_chars])
        except (ValueError, RecursionError):
            return self._fail()
        layout = self._layout
        name = call.get(layout.name_key) if layout.name_key else next(iter(call), None)
        keys = (layout.arguments_key, "arguments", "parameters") if layout.name_key else (name,)
        arguments: Any = next((call[key] for key in keys if key in call), {})
        if not isinstance(name, str) or name not in self._reading.functions:
            return self._fail()
        self._call(name)
        self._arguments(arguments if isinstance(arguments, str) else json_text(arguments))
        self._state = "done"
        return rest

    def _go_on(self, text: str) -> str:
        if self._state == "head":
            end = self._extent.feed(text)
            self._arguments(text[:end])
            if not self._extent.done:
                return ""
            text, self._state, self._extent = text[end:], "tail", JsonExtent(1)
        end = self._extent.feed(text)
        if self._extent.done:
            self._state = "done"
        return text[end:]


class TaggedArgumentsReader(CallReader):
    """Arguments between tags; texts are told as they come."""

    def __init__(self, reading: Reading, reply: Reply, before: str, layout: CallLayout, tags: TaggedArguments) -> None:
        super().__init__(reading, reply)
        self._before, self._after, self._tags = before, layout.name_end, tags
        self._text = ""
        self._count = 0
        self._value: list[str] = []
        self._types = ANY_TYPE
        self._end = Markers(())
        self._pending = ""
        self._is_fresh = False
        """Whether nothing of the value has been read yet."""
        self._trail = self._end_text = ""
        self._middles: dict[str, set[str]] = {}
        for kind, middle in tags.middles.items():
            self._middles.setdefault(middle, set()).add(kind)

    def finish(self, *, is_cut: bool) -> None:
        if not self.has_begun or is_cut:
            return
        if self._state == "value":
            self._tell(self._pending + self._text)
            self._close_value()
        self._close()

    def _begin(self) -> str:
        head = match_call_head(self._before, self._reading.functions, self._after, self.raw)
        if head.is_open and len(self.raw) < _MAX_HEAD_CHARS:
            return ""
        if not head.is_whole:
            return self._fail()
        self._call(head.name)
        self._state = "between"
        self._arguments("{")
        return self._go_on(self.raw[head.end :])

    def _go_on(self, text: str) -> str:
        self._text += text
        while self._text and (self._next_argument() if self._state == "between" else self._more_of_value()):
            pass
        if not self.is_done:
            return ""
        rest, self._text = self._text, ""
        return rest

    def _next_argument(self) -> bool:
        begin = match_literal(self._tags.begin, self._text)
        if begin.is_open:
            return False
        if begin.is_whole:
            key, middle, layout = self._key(begin.end)
            if middle.is_open:
                return False
            if middle.is_whole:
                lead = layout[len(layout.rstrip()) :]
                ahead = self._text[middle.end : middle.end + len(lead)]
                if ahead != lead and lead.startswith(ahead):
                    return False
                self._open_value(key, layout)
                self._text = self._text[middle.end :].removeprefix(lead)
                return True
        self._close()
        return False

    def _key(self, at: int) -> tuple[str, LiteralMatch, str]:
        """The argument's name, and which text stands behind it."""
        match = _KEY.match(self._text, at)
        if match is None:
            return "", LiteralMatch(-1) if at == len(self._text) else NEVER, ""
        matches = [(match_literal(middle.rstrip(), self._text, match.end()), middle) for middle in self._middles]
        for result, middle in matches:
            if result.is_whole:
                return match.group(), result, middle
        return match.group(), next((result for result, _ in matches if result.is_open), NEVER), ""

    def _open_value(self, key: str, middle: str) -> None:
        parameters = self._reading.schemas.get(self._name) or {}
        properties = parameters.get("properties")
        schema = properties.get(key) if isinstance(properties, dict) else None
        types = possible_types(schema, parameters)
        text = self._middles[middle]
        if len(self._middles) > 1:
            types = frozenset({"string"}) if text == {"string"} else ANY_TYPE - {"string"}
        self._types = types
        self._arguments((", " if self._count else "") + json.dumps(key, ensure_ascii=False) + ": ")
        if types == {"string"}:
            self._arguments('"')
        self._count += 1
        end = self._tags.end.replace(KEY_HOLE, key)
        self._trail = end[: len(end) - len(end.lstrip())]
        self._end_text = end.strip()
        self._end = Markers((self._end_text,))
        self._pending = ""
        self._is_fresh = True
        self._value.clear()
        self._state = "value"

    def _more_of_value(self) -> bool:
        if self._is_fresh:
            if len(self._text) < len(_CDATA) and _CDATA.startswith(self._text):
                return False
            self._is_fresh = False
            if self._text.startswith(_CDATA):
                self._text = self._text[len(_CDATA) :]
                self._end = Markers((_CDATA_END + self._end_text,))
        before, marker, self._text = self._end.cut(self._text)
        before = self._pending + before
        if marker:
            self._tell(before.removesuffix(self._trail) if self._trail else before)
            self._close_value()
            self._state = "between"
            return True
        # What may be the space before the closing tag is held back.
        end = len(before) - len(self._trail) if self._trail and before.endswith(tuple(self._trail)) else len(before)
        self._pending = before[end:]
        self._tell(before[:end])
        return False

    def _tell(self, text: str) -> None:
        if self._types == {"string"}:
            self._arguments(json.dumps(text, ensure_ascii=False)[1:-1])
        else:
            self._value.append(text)

    def _close_value(self) -> None:
        self._arguments('"' if self._types == {"string"} else read_value("".join(self._value), self._types))

    def _close(self) -> None:
        self._arguments("}")
        self._state = "done"


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError:
        return text
