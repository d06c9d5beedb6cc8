"""How values are written, as pieces of grammar: JSON, or what Gemma 4 writes in a call's arguments."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from batch.workers.chat.dialects.gemma4_arguments import QUOTE
from batch.workers.chat.grammar.gbnf import Interval, Rules, chars, complement, literal, not_chars, without

_NATURAL = "[0] | [1-9] [0-9]{0,15}"
_FORMATS = {
    "date": "[0-9]{4} [-] ([0] [1-9] | [1] [0-2]) [-] ([0] [1-9] | [1-2] [0-9] | [3] [0-1])",
    "time": '([01] [0-9] | [2] [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{3})? '
    '("Z" | [-+] ([01] [0-9] | [2] [0-3]) ":" [0-5] [0-9])',
    "uuid": "[0-9a-fA-F]{8} [-] " + "[0-9a-fA-F]{4} [-] " * 3 + "[0-9a-fA-F]{12}",
}


class Syntax(ABC):
    """Pieces of GBNF over one set of rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    space: str
    """What may stand beside brackets, commas and colons."""

    @property
    @abstractmethod
    def quote(self) -> str:
        """What a string begins and ends with."""

    @abstractmethod
    def char(self, intervals: Sequence[Interval]) -> str:
        """One character of the class inside a string."""

    @abstractmethod
    def text(self) -> str:
        """Rule of any string."""

    @abstractmethod
    def constant(self, value: Any) -> str:
        """Exactly this value."""

    @abstractmethod
    def key(self, name: str) -> str:
        """A property's name."""

    @abstractmethod
    def other_key(self, names: Sequence[str]) -> str:
        """Any name but these."""

    def string(self, body: str) -> str:
        """A string with this body."""
        return f"{literal(self.quote)} {body} {literal(self.quote)}"

    def format(self, name: str) -> str | None:
        """A string of one of JSON Schema's formats, where a grammar can say it."""
        if name == "date-time":
            return self.string(f'{_FORMATS["date"]} "T" {_FORMATS["time"]}')
        return self.string(_FORMATS[name]) if name in _FORMATS else None

    def pair(self, key: str, value: str) -> str:
        return f'{key} {self.space}":" {self.space}{value}'

    def other_pair(self, key: str, value: str) -> str:
        """With a key that the schema does not name: llama.cpp allows no space behind it."""
        return f'{key} ":" {self.space}{value}'

    def object(self, members: str) -> str:
        """`members` may be empty text."""
        return f'"{{" {self.space}{members} {self.space}"}}"'

    def array(self, items: str) -> str:
        return f'"[" {self.space}{items} {self.space}"]"'

    @property
    def comma(self) -> str:
        return f'"," {self.space}'.rstrip()

    @cached_property
    def natural(self) -> str:
        return self.rules.add(_NATURAL)

    @cached_property
    def integer(self) -> str:
        return self.rules.add(f'"-"? {self.natural}')

    def number(self, signed: bool = True) -> str:
        sign = '"-"? ' if signed else ""
        return self.rules.add(f'{sign}{self.natural} ("." [0-9]{{1,16}})? ([eE] [-+]? {self.natural})?')

    @cached_property
    def value(self) -> str:
        """Rule of any value."""
        name = self.rules.reserve()
        self.__dict__["value"] = name  # any_object and any_array refer to it
        parts = [self.any_object, self.any_array, self.text(), self.number(), '"true"', '"false"', '"null"']
        self.rules.define(name, " | ".join(parts))
        return name

    @cached_property
    def any_object(self) -> str:
        member = self.rules.add(self.other_pair(self.other_key(()), self.value))
        return self.rules.add(self.object(f"({member} ({self.comma} {member})*)?"))

    @cached_property
    def any_array(self) -> str:
        return self.rules.add(self.array(f"({self.value} ({self.comma} {self.value})*)?"))


class JsonSyntax(Syntax):
    """JSON with the little space that llama.cpp's grammars allow, so that both write alike."""

    quote = '"'

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.space = rules.add('| " " | "\\n"{1,2} [ \\t]{0,20}') + " "

    def char(self, intervals: Sequence[Interval]) -> str:
        plain = without(intervals, [(0, 31), (34, 34), (92, 92), (127, 127), (0xD800, 0xDFFF)])
        ways = [chars(plain)] if plain else []
        inside = complement(intervals)
        for code, escape in ((34, '\\"'), (92, "\\\\"), (10, "\\n"), (9, "\\t"), (13, "\\r")):
            if not any(a <= code <= b for a, b in inside):
                ways.append(literal(escape))
        if not ways:
            ways = [literal(f"\\u{code:04x}") for a, b in intervals for code in range(a, min(b, a + 32) + 1)]
        return self.rules.add(" | ".join(ways))

    def text(self) -> str:
        return self.rules.add(self.string(f"{self._any}*"))

    @cached_property
    def _any(self) -> str:
        return self.rules.add('[^"\\\\\\x7F\\x00-\\x1F] | [\\\\] (["\\\\bfnrt] | "u" [0-9a-fA-F]{4})')

    def constant(self, value: Any) -> str:
        return literal(json.dumps(value, ensure_ascii=False))

    def key(self, name: str) -> str:
        return literal(json.dumps(name, ensure_ascii=False))

    def other_key(self, names: Sequence[str]) -> str:
        if not names:
            return self.text()
        plain = [n for n in names if json.dumps(n, ensure_ascii=False) == f'"{n}"']
        return self.rules.add(self.string(_other(plain, self._any, '"\\\\\\x7F\\x00-\\x1F', True)))


class CallSyntax(Syntax):
    """Gemma 4's: no quotes around keys, a token of its own around strings, no space, no escapes."""

    quote = QUOTE
    space = ""

    def char(self, intervals: Sequence[Interval]) -> str:
        inside = list(complement(complement(intervals)))
        # A lone "<" cannot grow into the closing quote only where nothing else may follow it.
        plain = inside if inside == [(60, 60)] else without(inside, [(60, 60)])
        return self.rules.add(chars(plain))

    def text(self) -> str:
        return self.rules.add(f"{literal(QUOTE)} {self.rules.until(QUOTE)}")

    def constant(self, value: Any) -> str:
        return literal(written(value))

    def key(self, name: str) -> str:
        return literal(_key(name))

    def other_key(self, names: Sequence[str]) -> str:
        char = self.rules.add("[^" + _NO_KEY + "]")
        return self.rules.add(_other([n for n in names if _key(n) == n], char, _NO_KEY, False))


_NO_KEY = '\\x00-\\x20:,{}<>|"\\[\\]'


def written(value: Any) -> str:
    """A value as Gemma 4 writes it in a call."""
    if isinstance(value, str):
        return QUOTE + value.replace(QUOTE, "") + QUOTE
    if isinstance(value, dict):
        return "{" + ",".join(f"{_key(str(k))}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(v) for v in value) + "]"
    return json.dumps(value)


def _key(name: str) -> str:
    bare = name and name == name.strip() and not set(name) & set(':{}<|>",[]')
    return name if bare else written(name)


def _other(names: Sequence[str], char: str, ending: str, may_be_empty: bool) -> str:
    """Text of `char`s that is none of the names; `ending`: what no class of it may hold, as in a class."""
    tree: dict[str, Any] = {}
    for name in names:
        node = tree
        for c in name:
            node = node.setdefault(c, {})
        node[""] = {}

    def below(node: dict[str, Any], empty: bool) -> str:
        here = [c for c in node if c]
        excluded = not_chars(here)[2:-1] if here else ""
        ways = [f"[^{ending}{excluded}] {char}*"]
        for c in here:
            ways.append(f"{literal(c)} {below(node[c], '' not in node[c])}")
        return "(" + " | ".join(ways) + ")" + ("?" if empty else "")

    return below(tree, may_be_empty and "" not in tree)
