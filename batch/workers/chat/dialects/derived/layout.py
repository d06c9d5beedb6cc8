"""How a model writes thoughts, answers and calls, as the texts that stand between the parts."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

ID_HOLE = "\x00"
"""Stands in a layout's text where a template writes a call's id."""
INDEX_HOLE = "\x02"
"""The same for a call's number within its message."""
KEY_HOLE = "\x01"
"""The same for the name of the argument at hand."""
_FIRST_MARKER = re.compile(r"<[^<>\s]*>|\[[^\[\]\s]*\]|[^\s\x00-\x02]+")

ValueType = Literal["string", "number", "boolean", "array", "object", "null"]


@dataclass(frozen=True, slots=True)
class JsonCall:
    """A call that is one JSON object."""

    name_key: str
    """The member that holds the function's name; "": the name is the only member's own name."""
    arguments_key: str
    is_bare: bool = False
    """Nothing but the object itself tells a call from an answer."""


@dataclass(frozen=True, slots=True)
class TaggedArguments:
    """Arguments that stand one by one between tags."""

    begin: str
    """Before the argument's name."""
    middles: Mapping[ValueType, str]
    """Between name and value, by the value's type."""
    end: str
    """Behind the value."""
    separator: str
    """Between two arguments."""
    is_python: bool = False
    """They are a Python call's: `name=value`, texts in quotes."""


@dataclass(frozen=True, slots=True)
class CallLayout:
    """The texts around a function's name and its arguments."""

    section_begin: str
    """Before the first call."""
    call_begin: str
    """Before every call's name."""
    name_end: str
    """Between name and arguments."""
    call_end: str
    separator: str
    """Between two calls."""
    section_end: str
    turn_end: str
    """What the template writes behind the last call's end and behind an answer alike."""
    json_call: JsonCall | None = None
    tags: TaggedArguments | None = None
    """None: the arguments are one JSON object."""
    is_single: bool = False
    """The template knows one call a message."""

    @property
    def head(self) -> str:
        """All that stands before the first call's name, from the first character that is no space."""
        return (self.section_begin + self.call_begin).lstrip()

    @property
    def trigger(self) -> str:
        """The beginning of `head` that tells a call from an answer."""
        if self.json_call is not None and self.json_call.is_bare:
            return '{"' + self.json_call.name_key + '"'
        marker = first_marker(self.head)
        return marker.partition("{")[0] if self.json_call is not None else marker

    def is_opened_by(self, tail: str) -> bool:
        """Whether a prompt with this end has written all that stands before the first call's name."""
        return self.json_call is None and bool(self.call_begin) and tail.endswith(self.call_begin)


@dataclass(frozen=True, slots=True)
class AnswerLayout:
    """What stands around thoughts and answers."""

    thinking: tuple[str, str] | None = None
    """What opens and what closes a thought, without the space around it."""
    content_begin: str = ""
    content_end: str = ""


def behind_thought(layout: CallLayout, answer: AnswerLayout) -> CallLayout:
    """The layout without the end of an empty thought, which stands before a call that was rendered without one."""
    closing = answer.thinking[1] if answer.thinking else ""
    section = layout.section_begin.lstrip()
    if not closing or not section.startswith(closing):
        return layout
    return replace(layout, section_begin=section[len(closing) :])


def without_ends(layout: CallLayout, ends: Collection[str]) -> CallLayout:
    """The layout up to the tokens that end an answer: what stands behind them is never written."""

    def cut(text: str) -> str:
        return text[: min((text.find(end) for end in ends if end and end in text), default=len(text))]

    return replace(layout, call_end=cut(layout.call_end), section_end=cut(layout.section_end), turn_end=cut(layout.turn_end))


def first_marker(text: str) -> str:
    """The first marker of a text, or its first word."""
    match = _FIRST_MARKER.match(text)
    return match.group() if match else ""


def chunks(text: str) -> list[str]:
    """The parts of a text between its spaces; none for a text with holes."""
    return [] if re.search(r"[\x00-\x02]", text) else text.split()
