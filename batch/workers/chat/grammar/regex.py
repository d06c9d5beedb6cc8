"""Regular expressions of JSON Schema, as far as a grammar can follow them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

from batch.errors import BadRequest
from batch.workers.chat.grammar.gbnf import Interval, Rules, complement

_DIGIT: Final[list[Interval]] = [(48, 57)]
_WORD: Final[list[Interval]] = [(48, 57), (65, 90), (95, 95), (97, 122)]
_SPACE: Final[list[Interval]] = [(9, 13), (32, 32)]
_NEWLINE: Final[list[Interval]] = [(10, 10), (13, 13)]
_NAMED: Final = {"d": _DIGIT, "w": _WORD, "s": _SPACE}
_CONTROL: Final = {"n": 10, "t": 9, "r": 13, "f": 12, "v": 11, "0": 0}
_DEEPEST = 32


class Pattern:
    """One expression; `body` is its GBNF. Look-around, back references and word boundaries raise BadRequest."""

    def __init__(self, source: str, rules: Rules, char: Callable[[list[Interval]], str]) -> None:
        """`char` writes one character out of a class, escaped as the string around it needs."""
        self._source = source
        self._at = 0
        self._depth = 0
        self._rules = rules
        self._char = char
        anything = char(complement([]))
        starts, ends = self._anchors()
        inner, _ = self._alternatives()
        if self._at < len(self._source):
            self._unsupported(self._source[self._at])
        before, after = "" if starts else f"({anything})* ", "" if ends else f" ({anything})*"
        self.body = f"{before}({inner}){after}"

    def _anchors(self) -> tuple[bool, bool]:
        """Take off `^` and `$`. They bind looser than `|` only in patterns that do not mean it; those are refused."""
        starts = self._source.startswith("^")
        body = self._source[1:] if starts else self._source
        slashes = len(body[:-1]) - len(body[:-1].rstrip("\\"))
        ends = body.endswith("$") and slashes % 2 == 0
        self._source = body[:-1] if ends else body
        if (starts or ends) and self._top_level_bar():
            self._unsupported("an anchor beside |")
        return starts, ends

    def _top_level_bar(self) -> bool:
        depth, at, in_class = 0, 0, False
        while at < len(self._source):
            c = self._source[at]
            if c == "\\":
                at += 1
            elif in_class:
                in_class = c != "]"
            elif c == "[":
                in_class = True
            elif c in "()":
                depth += 1 if c == "(" else -1
            elif c == "|" and depth == 0:
                return True
            at += 1
        return False

    # Each gives (GBNF, whether it may match nothing): repeating what may be nothing has no end.

    def _alternatives(self) -> tuple[str, bool]:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._unsupported("so deep a nesting")
        ways = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            ways.append(self._sequence())
        self._depth -= 1
        return " | ".join(way for way, _ in ways), any(empty for _, empty in ways)

    def _sequence(self) -> tuple[str, bool]:
        parts: list[tuple[str, bool]] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._quantified(*self._atom()))
        return " ".join(part for part, _ in parts) or '""', all(empty for _, empty in parts)

    def _quantified(self, atom: str, empty: bool) -> tuple[str, bool]:
        mark = self._peek()
        least, most = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(mark, (-1, None))
        if mark == "{":
            end = self._source.find("}", self._at)
            low, comma, high = self._source[self._at + 1 : end].partition(",")
            if end < 0 or not low.isdecimal() or (high and not high.isdecimal()):
                self._unsupported("{")
            least, most = int(low), int(high) if high else None if comma else int(low)
            if most is not None and most < least:
                self._unsupported("a range that is empty")
            self._at = end
        if least < 0:
            return atom, empty
        if empty and most != 1:
            self._unsupported("a repetition of what may be nothing")
        self._at += 1
        if self._peek() in ("?", "+"):
            self._at += 1  # lazy and possessive match the same texts
        return f"({self._rules.repeat(atom, least, most)})", empty or least == 0

    def _atom(self) -> tuple[str, bool]:
        c = self._take()
        match c:
            case "(":
                return self._group()
            case "[":
                return self._char(self._class()), False
            case ".":
                return self._char(complement(_NEWLINE)), False
            case "\\":
                return self._char(self._escape()), False
            case "^" | "$" | "*" | "+" | "?":
                self._unsupported(c)
        return self._char([(ord(c), ord(c))]), False

    def _group(self) -> tuple[str, bool]:
        if self._peek() == "?":
            self._at += 1
            kind = self._take()
            if kind == "<" and self._peek() not in ("=", "!", ""):
                end = self._source.find(">", self._at)
                self._at = end + 1 if end >= 0 else len(self._source)
            elif kind != ":":
                self._unsupported(f"(?{kind}")
        inner, empty = self._alternatives()
        if self._take() != ")":
            self._unsupported("a group that is not closed")
        return f"({inner})", empty

    def _class(self) -> list[Interval]:
        negated = self._peek() == "^"
        self._at += negated
        found: list[Interval] = []
        while self._peek() != "]":
            low = self._member()
            if self._peek() == "-" and self._source[self._at + 1 : self._at + 2] not in ("]", "") and len(low) == 1:
                self._at += 1
                high = self._member()
                if len(high) != 1 or high[0][1] < low[0][0]:
                    self._unsupported("a class range that is empty")
                low = [(low[0][0], high[0][1])]
            found += low
        self._at += 1
        made = complement(found) if negated else complement(complement(found))
        if not made:
            self._unsupported("an empty class")
        return made

    def _member(self) -> list[Interval]:
        c = self._take()
        if not c:
            self._unsupported("a class that is not closed")
        return self._escape() if c == "\\" else [(ord(c), ord(c))]

    def _escape(self) -> list[Interval]:
        c = self._take()
        if c.lower() in _NAMED and c:
            named = _NAMED[c.lower()]
            return complement(named) if c.isupper() else list(named)
        if c in _CONTROL and c:
            return [(_CONTROL[c], _CONTROL[c])]
        if c in ("x", "u"):
            digits = self._source[self._at : self._at + (2 if c == "x" else 4)]
            try:
                code = int(digits, 16)
            except ValueError:
                self._unsupported("\\" + c)
            self._at += len(digits)
            return [(code, code)]
        if not c or c.isalnum():
            self._unsupported("\\" + c)
        return [(ord(c), ord(c))]

    def _peek(self) -> str:
        return self._source[self._at : self._at + 1]

    def _take(self) -> str:
        c = self._peek()
        self._at += 1
        return c

    def _unsupported(self, what: str) -> NoReturn:
        raise BadRequest(f"{self._rules.field}: a pattern holds {what}, which a grammar cannot follow.")
