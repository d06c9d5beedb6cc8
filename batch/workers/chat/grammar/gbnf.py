"""GBNF, llama.cpp's grammar notation, as rules for the engine.

GBNF speaks of characters, one by one, while the engine's terminals take as much as they can. So each character becomes a
terminal of its own: that is what makes the translation exact, and ambiguous grammars cheap.
"""

from __future__ import annotations

import re
from typing import NoReturn

from batch.errors import BadRequest
from batch.workers.chat.grammar.lark import Lark, literal, repeated
from batch.workers.chat.grammar.strings.char_class import CharClass

MAX_CHARS = 1 << 18
MAX_DEPTH = 64
MAX_SYMBOLS = 5_000
"""Texts, classes, references, groups and repetitions: where all may be empty, a step costs the square of that."""
MAX_REPEATS = 2_000
"""As in llama.cpp: more is refused as the least number, and no limit as the largest."""
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_ANY_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[a-zA-Z0-9-]+")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_ESCAPES = {"t": "\t", "r": "\r", "n": "\n", "\\": "\\", '"': '"', "[": "[", "]": "]"}


def root_rule(source: str, lark: Lark) -> str:
    """Adds a grammar's rules and returns the name of its `root`. Raises BadRequest, naming the lark's field."""
    return _Parser(source, lark).root()


class _Parser:
    def __init__(self, source: str, lark: Lark) -> None:
        self._source = source
        self._lark = lark
        self._at = 0
        self._depth = 0
        self._symbols = 0
        self._rules: dict[str, str] = {}
        self._defined: set[str] = set()

    def root(self) -> str:
        if len(self._source) > MAX_CHARS:
            raise BadRequest(f"{self._lark.field} is longer than {MAX_CHARS} characters.", param=self._lark.field)
        self._skip(_ANY_SPACE)
        while self._at < len(self._source):
            self._rule()
        missing = sorted({*self._rules, "root"} - self._defined)
        if missing:
            self._refuse(f"defines no rule {missing[0]!r}")
        return self._rules["root"]

    def _rule(self) -> None:
        name = self._name()
        self._skip(_SPACE)
        if not self._source.startswith("::=", self._at):
            self._refuse("has no ::= behind a rule's name")
        self._at += 3
        self._skip(_ANY_SPACE)
        body = self._alternatives(nested=False)
        if self._at < len(self._source) and self._peek() not in "\r\n":
            self._refuse("has something that is no part of a rule")
        self._lark.define(self._reference(name), body)
        self._defined.add(name)
        self._skip(_ANY_SPACE)

    def _reference(self, name: str) -> str:
        if name not in self._rules:
            self._rules[name] = self._lark.reserve()
        return self._rules[name]

    def _alternatives(self, *, nested: bool) -> str:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse(f"nests groups deeper than {MAX_DEPTH}")
        ways = [self._sequence(nested)]
        while self._peek() == "|":
            self._at += 1
            self._skip(_ANY_SPACE)
            ways.append(self._sequence(nested))
        self._depth -= 1
        return " | ".join(ways)

    def _sequence(self, nested: bool) -> str:
        items: list[str] = []
        space = _ANY_SPACE if nested else _SPACE
        while item := self._item():
            self._count()
            self._skip(space)
            while (span := self._repetition()) is not None:
                # One repetition of another: each needs a name of its own.
                item = repeated(self._lark.rule(item), *span)
                self._count()
                self._skip(space)
            items.append(item)
        return " ".join(items) or '""'

    def _count(self) -> None:
        self._symbols += 1
        if self._symbols > MAX_SYMBOLS:
            self._refuse(f"holds more than {MAX_SYMBOLS} symbols")

    def _item(self) -> str:
        match self._peek():
            case '"':
                return self._literal()
            case "[":
                return self._lark.terminal(f"/{self._class()}/")
            case "(":
                return self._group()
            case ".":
                self._at += 1
                return self._lark.terminal("/(?s:.)/")
            case "<" | "!":
                return self._token()
            case c if c and _NAME.match(c):
                return self._reference(self._name())
        return ""

    def _literal(self) -> str:
        self._at += 1
        text = ""
        while self._peek() != '"':
            text += self._char()
        self._at += 1
        chars = " ".join(literal(c) for c in text)
        if self._lark.is_token(text):
            return self._lark.rule(f"{chars} | {self._lark.marker(text)}")
        return self._lark.rule(chars) if len(text) > 1 else chars or '""'

    def _class(self) -> str:
        self._at += 1
        negated = self._peek() == "^"
        self._at += negated
        intervals: list[tuple[int, int]] = []
        while self._peek() != "]":
            low = high = ord(self._char())
            if self._peek() == "-" and self._source[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                high = ord(self._char())
            intervals.append((low, high))
        self._at += 1
        return CharClass(tuple(intervals), negated=negated).without(()) or "[a&&b]"

    def _group(self) -> str:
        self._at += 1
        self._skip(_ANY_SPACE)
        body = self._alternatives(nested=True)
        if self._peek() != ")":
            self._refuse("has a group that is not closed")
        self._at += 1
        return self._lark.rule(body)

    def _token(self) -> str:
        negated = self._peek() == "!"
        start = self._at + negated
        end = self._source.find(">", start)
        text = self._source[start : end + 1]
        if end < 0 or not text.startswith("<"):
            self._refuse("has a token that is not closed")
        self._at = end + 1
        by_id = re.fullmatch(r"<\[(\d{1,9})\]>", text)
        if by_id is None:
            if not self._lark.is_token(text):
                self._refuse(f"names {text[:80]!r}, which is no token of this model")
            text = self._lark.marker(text)
        return f"<[^{text[2:-2]}]>" if negated else text

    def _repetition(self) -> tuple[int, int | None] | None:
        span = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        if span is not None:
            self._at += 1
            return span
        if self._peek() != "{":
            return None
        match = re.compile(r"\{[ \t]*(\d{1,9})[ \t]*(,?)[ \t]*(\d{0,9})[ \t]*\}").match(self._source, self._at)
        if match is None:
            self._refuse("has a repetition that is not {m}, {m,} or {m,n}")
        self._at = match.end()
        least, comma, high = int(match[1]), match[2], match[3]
        most = int(high) if high else None if comma else least
        if least > MAX_REPEATS or (most is not None and most < least):
            self._refuse(f"asks for {least} repetitions; 0 to {MAX_REPEATS} are taken")
        return least, None if most is not None and most > MAX_REPEATS else most

    def _char(self) -> str:
        c = self._peek()
        if not c:
            self._refuse("ends inside quotes or brackets")
        self._at += 1
        if c != "\\":
            return c
        kind = self._peek()
        self._at += 1
        if kind in _ESCAPES:
            return _ESCAPES[kind]
        digits = self._source[self._at : self._at + _HEX_DIGITS.get(kind, 0)]
        self._at += len(digits)
        try:
            return chr(int(digits, 16))
        except (ValueError, OverflowError):
            self._refuse(f"has an unknown escape \\{kind}")

    def _name(self) -> str:
        match = _NAME.match(self._source, self._at)
        if match is None:
            self._refuse("has something that is no rule")
        self._at = match.end()
        return match.group()

    def _skip(self, space: re.Pattern[str]) -> None:
        match = space.match(self._source, self._at)
        assert match is not None
        self._at = match.end()

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _refuse(self, why: str) -> NoReturn:
        line = self._source.count("\n", 0, self._at) + 1
        raise BadRequest(f"{self._lark.field} {why} (line {line}).", param=self._lark.field)
