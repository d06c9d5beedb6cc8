"""Matching a layout's text against text that is still coming."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

_PARTS = re.compile(r"[\x00\x02]|\s+|[^\s\x00-\x02]+")
_HOLE = re.compile(r"[\w.-]{0,64}")


@dataclass(frozen=True, slots=True)
class LiteralMatch:
    """What a text turned out to be."""

    end: int
    """Where the match ends; -1: it may become one with more text; -2: it never will."""
    name: str = ""

    @property
    def is_open(self) -> bool:
        return self.end == -1

    @property
    def is_whole(self) -> bool:
        return self.end >= 0


OPEN, NEVER = LiteralMatch(-1), LiteralMatch(-2)


def match_literal(layout: str, text: str, at: int = 0) -> LiteralMatch:
    """A layout's text at a place: any space for its space, also none; a word for its holes."""
    for part in _PARTS.findall(layout):
        if part.isspace():
            at = _behind_space(text, at)
        elif part in "\x00\x02":
            hole = _HOLE.match(text, at)
            assert hole is not None
            at = hole.end()
            if at == len(text):
                return OPEN
        else:
            at = _behind_space(text, at) if not text.startswith(part, at) else at
            if text.startswith(part, at):
                at += len(part)
            else:
                return OPEN if part.startswith(text[at:]) else NEVER
    return LiteralMatch(at)


def match_call_head(before: str, names: Collection[str], after: str, text: str) -> LiteralMatch:
    """A call's head: what stands before the name, one of the names, and what stands behind it."""
    head = match_literal(before, text)
    if not head.is_whole:
        return head
    at = head.end if any(text.startswith(name, head.end) for name in names) else _behind_space(text, head.end)
    is_open = False
    for name in sorted(names, key=len, reverse=True):
        if text.startswith(name, at):
            behind = match_literal(after, text, at + len(name))
            if not after.strip():
                # Nothing but the next character shows that the name ends here.
                following = text[at + len(name) : at + len(name) + 1]
                behind = OPEN if not following else NEVER if re.match(r"[\w.-]", following) else behind
            if behind.is_whole:
                return LiteralMatch(behind.end, name)
            is_open = is_open or behind.is_open
        else:
            is_open = is_open or name.startswith(text[at:])
    return OPEN if is_open else NEVER


def _behind_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at
