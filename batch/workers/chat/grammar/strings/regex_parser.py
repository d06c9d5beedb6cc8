"""ECMA-262 regular expressions, as JSON Schema uses them, read into a tree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from batch.errors import BadRequest
from batch.workers.chat.grammar.strings.char_class import DIGITS, MAX_UNICODE, NO_LINE_END, SPACES, WORD, CharClass

MAX_CHARS = 8_192
MAX_DEPTH = 48
MAX_REPEATS = 1 << 20
_NAMED = {"d": DIGITS, "w": WORD, "s": SPACES}
_CONTROL = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11}


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a set."""

    chars: CharClass


@dataclass(frozen=True, slots=True)
class Sequence:
    """One after the other; without parts: nothing."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of them; without options: no text at all."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same again and again; `most` None: without a limit."""

    node: Node
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Anchor:
    """The start of the text, or its end."""

    start: bool


@dataclass(frozen=True, slots=True)
class LookAhead:
    """What has to follow here, or must not."""

    node: Node
    negated: bool


Node = Char | Sequence | Choice | Repeat | Anchor | LookAhead
EMPTY = Sequence(())


def parse(source: str, field: str) -> Node:
    """The tree of an expression. Raises BadRequest, with `field` in front, where no grammar can follow it."""
    return _RegexParser(source, field).tree()


class _RegexParser:
    def __init__(self, source: str, field: str) -> None:
        self._source = source
        self._field = field
        self._at = 0
        self._depth = 0

    def tree(self) -> Node:
        if len(self._source) > MAX_CHARS:
            raise BadRequest(f"{self._field} is longer than {MAX_CHARS} characters.")
        node = self._choice()
        if self._at < len(self._source):
            self._refuse("a group that is not opened")
        return node

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._refuse("so deep a nesting")
        options = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            options.append(self._sequence())
        self._depth -= 1
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _sequence(self) -> Node:
        parts: list[Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._quantified(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _quantified(self, node: Node) -> Node:
        span = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(self._peek())
        if span is not None:
            self._at += 1
        elif (span := self._braces()) is None:
            return node
        if self._peek() in ("?", "+"):
            self._at += 1  # lazy and possessive match the same texts
        least, most = span
        if most is not None and most < least:
            self._refuse("a repetition that is empty")
        if max(least, most or 0) > MAX_REPEATS:
            self._refuse(f"more than {MAX_REPEATS} repetitions")
        return Repeat(node, least, most)

    def _braces(self) -> tuple[int, int | None] | None:
        """A `{2,5}` here; None where the brace is a character like any other."""
        if self._peek() != "{":
            return None
        end = self._source.find("}", self._at, self._at + 24)
        low, comma, high = self._source[self._at + 1 : end].partition(",")
        if end < 0 or not (low.isdecimal() or (not low and high)) or (high and not high.isdecimal()):
            return None
        self._at = end + 1
        return int(low or 0), int(high) if high else None if comma else int(low)

    def _atom(self) -> Node:
        c = self._take()
        match c:
            case "(":
                return self._group()
            case "[":
                return Char(self._class())
            case ".":
                return Char(NO_LINE_END)
            case "^" | "$":
                return Anchor(c == "^")
            case "\\":
                if self._peek() in ("A", "Z", "z"):  # Python's anchors
                    return Anchor(self._take() == "A")
                return Char(self._escape())
            case "*" | "+" | "?":
                self._refuse(f"{c} with nothing to repeat")
        return Char(_single(ord(c)))

    def _group(self) -> Node:
        look: bool | None = None
        if self._peek() == "?":
            self._at += 1
            kind = self._take()
            if kind == "P" and self._peek() == "<":
                kind = self._take()
            if kind == "<" and self._peek() not in ("=", "!", ""):
                end = self._source.find(">", self._at)
                self._at = end + 1 if end >= 0 else len(self._source)
            elif kind in ("=", "!"):
                look = kind == "!"
            elif kind != ":":
                self._refuse(f"(?{kind}{self._peek() if kind == '<' else ''}")
        node = self._choice()
        if self._take() != ")":
            self._refuse("a group that is not closed")
        return node if look is None else LookAhead(node, look)

    def _class(self) -> CharClass:
        negated = self._peek() == "^"
        self._at += negated
        chars = CharClass()
        while self._peek() != "]":
            low = self._member()
            if self._peek() == "-" and self._source[self._at + 1 : self._at + 2] not in ("]", ""):
                back = self._at
                self._at += 1
                high = self._member()
                a, b = _code(low), _code(high)
                if a is None or b is None:
                    self._at = back  # beside a set of its own the dash is a dash
                elif b < a:
                    self._refuse("a class range that is empty")
                else:
                    low = CharClass(((a, b),))
            if low.negated and low.properties:
                self._refuse("a class of that kind")
            chars = chars.joined(low)
        self._at += 1
        return CharClass(chars.intervals, chars.properties, negated)

    def _member(self) -> CharClass:
        c = self._take()
        if not c:
            self._refuse("a class that is not closed")
        if c == "\\" and self._peek() == "b":
            self._at += 1
            return _single(8)
        return self._escape() if c == "\\" else _single(ord(c))

    def _escape(self) -> CharClass:
        c = self._take()
        if c and c.lower() in _NAMED:
            return CharClass(_NAMED[c.lower()], negated=c.isupper())
        if c in _CONTROL:
            return _single(_CONTROL[c])
        if c in ("p", "P"):
            end = self._source.find("}", self._at)
            name = self._source[self._at + 1 : end]
            if self._peek() != "{" or end < 0 or not all(x.isalnum() or x in "_=" for x in name) or not name.isascii():
                self._refuse("\\" + c)
            self._at = end + 1
            return CharClass((), ((name, c == "P"),))
        if c in ("x", "u"):
            return _single(self._code_point(c))
        if c == "c" and self._peek().isalpha():
            return _single(ord(self._take()) % 32)
        if c == "0" and not self._peek().isdecimal():
            return _single(0)
        if not c or c.isalnum():
            self._refuse("\\" + c)
        return _single(ord(c))

    def _code_point(self, kind: str) -> int:
        if kind == "u" and self._peek() == "{":
            end = self._source.find("}", self._at)
            digits = self._source[self._at + 1 : end] if end > 0 else ""
            self._at = end + 1
        else:
            length = 2 if kind == "x" else 4
            digits = self._source[self._at : self._at + length]
            self._at += length
            if len(digits) < length:
                self._refuse("\\" + kind)
        try:
            code = int(digits, 16)
        except ValueError:
            self._refuse("\\" + kind)
        if 0xD800 <= code < 0xDC00 and self._source[self._at : self._at + 2] == "\\u":
            self._at += 2
            low = self._code_point("u")
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
        if not 0 <= code <= MAX_UNICODE or 0xD800 <= code < 0xE000:
            self._refuse("\\" + kind)
        return code

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _take(self) -> str:
        c = self._peek()
        self._at += 1
        return c

    def _refuse(self, what: str) -> NoReturn:
        raise BadRequest(f"{self._field} holds {what}, which a grammar cannot follow.")


def _single(code: int) -> CharClass:
    return CharClass(((code, code),))


def _code(chars: CharClass) -> int | None:
    """The one character of a set."""
    if len(chars.intervals) == 1 and not chars.properties and not chars.negated:
        low, high = chars.intervals[0]
        return low if low == high else None
    return None
