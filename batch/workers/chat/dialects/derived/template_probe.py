"""Reads a model's way of writing off its chat template: known thoughts and calls are rendered, and the text between them
is what the model writes there.

The idea is llama.cpp's (docs/autoparser.md): compare renderings instead of knowing models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any

from batch.workers.chat.dialects.derived.layout import (
    ID_HOLE,
    INDEX_HOLE,
    KEY_HOLE,
    AnswerLayout,
    CallLayout,
    JsonCall,
    TaggedArguments,
    ValueType,
    first_marker,
)
from batch.workers.chat.dialects.template_values import TemplateObject

Render = Callable[[Sequence[TemplateObject], Sequence[TemplateObject], bool], "str | None"]
"""(messages, tools, add_generation_prompt) to text; None where the template refuses them."""

_NAMES = ("probe_first", "probe_second")
_IDS = ("probeid01", "probeid02")
_TEXT, _NUMBER = "red apple", 17
_ARGUMENTS = {"alpha": _TEXT, "omega": _NUMBER}
_QUESTION, _THOUGHT, _ANSWER = "What now?", "probe thought", "probe answer"
_VALUES: tuple[tuple[ValueType, Any], ...] = (
    ("string", _TEXT),
    ("number", _NUMBER),
    ("boolean", True),
    ("array", ["one two"]),
    ("object", {"inner": "one two"}),
)
_PARAMETERS = {
    "type": "object",
    "properties": {"alpha": {"type": "string", "description": "a"}, "omega": {"type": "integer", "description": "o"}},
    "required": ["alpha"],
}
TOOLS: list[TemplateObject] = [
    {"type": "function", "function": {"name": name, "description": f"about {name}", "parameters": _PARAMETERS}}
    for name in _NAMES
]
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
_OPEN_MARKER = re.compile(r"<[^<>]*$|\[[A-Z_/]*$")
_GLUED = re.compile(r"((?:<[^<>\s]+>\w*|\[[A-Z_]+\])+)\s*$")
_LAST_MARKER = re.compile(r"(<[^<>\s]+>|\[[A-Z_]+\])\s*$")
_THOUGHT_END = re.compile(r"(?:</[^<>]*think[^<>]*>|<\|END_THINKING\|>|\[/THINK\])\s*")
# A text that two renderings share begins with no half of a marker.
_HALF_MARKER = re.compile(r'^[^<\[\s{"]*[>"]+')


@dataclass(frozen=True, slots=True)
class _Call:
    """One rendered call: where its name begins and where its arguments end."""

    name_at: int
    name_end: int
    arguments_at: int
    arguments_end: int


class TemplateProbe:
    """Looks at one template."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._question: TemplateObject = {"role": "user", "content": _QUESTION}
        self._prompt = render([self._question], TOOLS, True) or render([self._question], (), True) or ""
        self._history = render([self._question], TOOLS, False) or ""
        self.shows_tools = _NAMES[0] in self._prompt
        """Whether the template tells the model of the functions it may call."""

    def _assistant(self, **fields: Any) -> str | None:
        """The conversation with such a turn of the assistant; its ids as holes."""
        turn = {"role": "assistant", "content": "", **fields}
        return self._render([self._question, turn], TOOLS, False)

    # -- calls

    def calls(self) -> CallLayout | None:
        """How calls are written; None where that cannot be read off."""
        one = self._assistant(tool_calls=[_call(0, _ARGUMENTS)])
        if one is None or one.count(_NAMES[0]) <= self._history.count(_NAMES[0]):
            return None
        two = self._assistant(tool_calls=[_call(0, _ARGUMENTS), _call(1, _ARGUMENTS)])
        return self._read_calls(one, two if two is not None and self._second(two) else None)

    def _second(self, text: str) -> bool:
        return text.count(_NAMES[1]) > self._history.count(_NAMES[1])

    def _read_calls(self, one: str, two: str | None) -> CallLayout | None:
        text = two or one
        start = self._turn_start(text)
        text = text.replace(_IDS[0], ID_HOLE).replace(_IDS[1], ID_HOLE)
        first = _find_call(text, start, _NAMES[0])
        last = _find_call(text, first.arguments_end, _NAMES[1]) if two and first else first
        if first is None or last is None:
            return self._read_tagged(one, two)
        name_end = text[first.name_end : first.arguments_at]
        if first is not last:
            merged = _merge(name_end, text[last.name_end : last.arguments_at])
            if merged is None:
                return None
            name_end = merged
        between = text[first.arguments_end : last.name_at] if two else None
        layout = self._around(text, first.name_at, between, text[last.arguments_end :], name_end)
        json_call = _json_call(layout, text, first)
        if json_call is None and not layout.head:
            return None
        return replace(layout, json_call=json_call)

    def _turn_start(self, text: str) -> int:
        """Where the assistant's own text begins."""
        return shared_length(self._prompt, text)

    def _behind_prompt(self, text: str) -> str:
        """The text without what the generation prompt ends with, where a template writes it elsewhere."""
        length = next((n for n in range(len(text), 0, -1) if text[:n].strip() and self._prompt.endswith(text[:n])), 0)
        return text[length:]

    def _around(self, text: str, name_at: int, between: str | None, rest: str, name_end: str) -> CallLayout:
        """The layout around the calls. `between`: from one call's arguments to the next one's name."""
        start = min(self._turn_start(text), name_at)
        head, full = text[start:name_at], text[shared_length(self._history, text) : name_at]
        head = self._behind_prompt(_behind_thought(head))
        if between is None:
            call_begin, section_begin, call_end, separator = "", head, "", ""
        else:
            call_begin = _whole_markers(_common_suffix(full, between))
            section_begin = head[: max(len(head) - len(call_begin), 0)]
            between = between[: len(between) - len(call_begin)]
            shared = _common_prefix(between, rest)
            call_end, separator = between[:shared], between[shared:]
            call_begin = _merge_digits(full[len(full) - len(call_begin) :], call_begin)
        rest = rest[len(call_end) :]
        answer = self._assistant(content=_ANSWER) or ""
        turn_end = _whole_markers(_common_suffix(rest, answer.rpartition(_ANSWER)[2]))
        return CallLayout(
            section_begin=section_begin,
            call_begin=call_begin,
            name_end=name_end,
            call_end=call_end,
            separator=separator,
            section_end=rest[: len(rest) - len(turn_end)],
            turn_end=turn_end,
            is_single=between is None,
        )

    def _read_tagged(self, one: str, two: str | None) -> CallLayout | None:
        """Calls whose arguments stand between tags."""
        text = two or one
        start = self._turn_start(text)
        name_at = text.find(_NAMES[0], start)
        name_end = name_at + len(_NAMES[0])
        alpha, value = text.find("alpha", name_end), text.find(_TEXT, name_end)
        omega = text.find("omega", value)
        number = text.find(str(_NUMBER), omega)
        if not name_end <= alpha < value < omega < number or text.count(_NAMES[0], start) != 1:
            return None
        before = text[name_end:alpha]
        gap = text[value + len(_TEXT) : omega].replace("alpha", KEY_HOLE)
        second = text.find(_NAMES[1], number) if two else -1
        behind = number + len(str(_NUMBER))
        rest = text[behind:].replace("omega", KEY_HOLE)
        begin = _whole_markers(_common_suffix(before, gap))
        gap = gap[: len(gap) - len(begin)]
        end = gap[: _common_prefix(gap, rest)]
        if not end.strip():
            return None
        middles = self._middles(begin, end)
        if middles is None:
            return None
        between = None
        if two:
            between = text[behind:second].replace("omega", KEY_HOLE)[len(end) :]
            last = text.rfind(str(_NUMBER))
            rest = text[last + len(str(_NUMBER)) :].replace("omega", KEY_HOLE)
        tags = TaggedArguments(begin, middles, end, gap[len(end) :])
        name_end_text = before[: len(before) - len(begin)]
        if two and _NAMES[1] in text:
            other = text[second + len(_NAMES[1]) : text.find("alpha", second)]
            merged = _merge(name_end_text, other[: len(other) - len(begin)])
            if merged is None:
                return None
            name_end_text = merged
        layout = self._around(text, name_at, between, rest[len(end) :], name_end_text)
        return replace(layout, tags=tags)

    def _middles(self, begin: str, end: str) -> dict[ValueType, str] | None:
        """What stands between an argument's name and its value, by the value's type."""
        middles: dict[ValueType, str] = {}
        for kind, value in _VALUES:
            text = self._assistant(tool_calls=[_call(0, {"alpha": value})]) or ""
            name_at = text.rfind(_NAMES[0])
            at = text.find(f"{begin}alpha", name_at)
            text_of_value = value if isinstance(value, str) else json.dumps(value)
            place = text.lower().find(text_of_value.lower(), at) if isinstance(value, bool) else text.find(text_of_value, at)
            if name_at < 0 or at < 0 or place < 0:
                continue
            if text[place + len(text_of_value) :].startswith(end.replace(KEY_HOLE, "alpha")):
                middles[kind] = text[at + len(begin) + len("alpha") : place]
        if "string" not in middles or "number" not in middles:
            return None
        return middles

    # -- thoughts and answers

    def answers(self, layout: CallLayout | None) -> AnswerLayout:
        """What stands around thoughts and answers."""
        thinking, content_begin, content_end = None, "", ""
        for name in REASONING_FIELDS:
            thinking, content_begin = self._thinking(name, layout)
            if thinking:
                break
        answer = self._assistant(content=_ANSWER)
        if answer is not None and _ANSWER in answer:
            start, at = self._turn_start(answer), answer.rfind(_ANSWER)
            before = _behind_thought(answer[start:at]) if start <= at else ""
            if not content_begin and not (thinking and thinking[0] in before):
                content_begin = self._behind_prompt(before).strip()
            if content_begin or (thinking and first_marker(thinking[1]) != thinking[1]):
                content_end = first_marker(answer[at + len(_ANSWER) :].lstrip())
        return AnswerLayout(thinking, content_begin, content_end)

    def _thinking(self, name: str, layout: CallLayout | None) -> tuple[tuple[str, str] | None, str]:
        """The thought's markers, and what begins the answer behind it."""
        text = self._assistant(content=_ANSWER, **{name: _THOUGHT})
        if text is None or not text.find(_THOUGHT) < text.rfind(_ANSWER) or _THOUGHT not in text:
            return None, ""
        at = text.find(_THOUGHT)
        gap = text[at + len(_THOUGHT) : text.find(_ANSWER, at)]
        closing = gap
        with_call = self._assistant(tool_calls=[_call(0, _ARGUMENTS)], **{name: _THOUGHT}) if layout else None
        if with_call and _THOUGHT in with_call:
            behind = with_call[with_call.find(_THOUGHT) + len(_THOUGHT) :]
            closing = gap[: _marker_edge(gap, _common_prefix(gap, behind))]
        opening = text[min(shared_length(self._prompt, text), at) : at].strip()
        if not opening:
            before = text[shared_length(self._history, text) : at]
            last, glued = _LAST_MARKER.search(before), _GLUED.search(before)
            if last and re.search("think|thought|reason", last.group(1), re.IGNORECASE):
                opening = last.group(1)
            else:
                # The generation prompt may begin the thought with words of its own.
                opening = self._prompt[shared_length(self._prompt, text) :].strip() or (glued.group(1) if glued else "")
        closing = closing.strip()
        if not opening or not closing:
            return None, ""
        return (opening, closing), gap.strip()[len(closing) :].strip()


def _call(index: int, arguments: TemplateObject) -> TemplateObject:
    return {"id": _IDS[index], "type": "function", "function": {"name": _NAMES[index], "arguments": arguments}}


def _find_call(text: str, start: int, name: str) -> _Call | None:
    """The call of that name whose arguments are JSON."""
    name_at = text.find(name, start)
    if name_at < 0:
        return None
    name_end = name_at + len(name)
    at = text.find("{", name_end)
    while at >= 0:
        try:
            value, end = json.JSONDecoder().raw_decode(text, at)
        except ValueError:
            value, end = None, at
        if value == _ARGUMENTS:
            return _Call(name_at, name_end, at, end)
        at = text.find("{", at + 1)
    return None


def _json_call(layout: CallLayout, text: str, call: _Call) -> JsonCall | None:
    """How the call reads as one JSON object; None where it is none."""
    at = text.rfind("{", 0, call.name_at)
    while at >= 0 and call.name_at - at < 200:
        try:
            value, end = json.JSONDecoder().raw_decode(text.replace(ID_HOLE, "0").replace(INDEX_HOLE, "0"), at)
        except ValueError:
            value, end = None, 0
        if isinstance(value, dict) and end > call.arguments_end:
            name_key = next((k for k, v in value.items() if v == _NAMES[0]), "")
            arguments_key = next((k for k, v in value.items() if v == _ARGUMENTS), "")
            is_bare = not layout.head[: max(len(layout.head) - (call.name_at - at), 0)].strip(" \n[")
            return JsonCall(name_key, arguments_key, is_bare) if name_key or len(value) == 1 else None
        at = text.rfind("{", 0, at)
    return None


def _whole_markers(text: str) -> str:
    """A text that two renderings share, without the half marker that it may begin with."""
    return text if len(text) > 1 and set(text) == {">"} else _HALF_MARKER.sub("", text)


def _same(a: str, b: str) -> bool:
    return a == b or (a.isdecimal() and b.isdecimal())


def _common_prefix(a: str, b: str) -> int:
    return next((at for at, (x, y) in enumerate(zip(a, b, strict=False)) if not _same(x, y)), min(len(a), len(b)))


def _common_suffix(a: str, b: str) -> str:
    length = _common_prefix(a[::-1], b[::-1])
    return b[len(b) - length :]


def shared_length(a: str, text: str) -> int:
    """How far the texts agree, not to the middle of a marker."""
    at = next((i for i, (x, y) in enumerate(zip_longest(a, text)) if x != y), len(text))
    return _marker_edge(text, at)


def _marker_edge(text: str, at: int) -> int:
    """The place, or where the marker begins that it would cut."""
    if at >= len(text):
        return at
    match = _OPEN_MARKER.search(text[max(at - 60, 0) : at])
    return at - len(match.group()) if match else at


def _behind_thought(head: str) -> str:
    """The text behind what a template writes as an empty thought."""
    return _THOUGHT_END.split(head)[-1]


def _merge_digits(a: str, b: str) -> str:
    return "".join(x if x == y else INDEX_HOLE for x, y in zip(a, b, strict=True))


def _merge(a: str, b: str) -> str | None:
    """Two texts that differ in numbers only, with a hole there."""
    if len(a) != len(b) or _common_prefix(a, b) != len(a):
        return None
    return _merge_digits(a, b)
