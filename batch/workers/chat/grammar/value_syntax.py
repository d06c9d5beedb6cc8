"""How values are written: as JSON, or as Gemma 4 writes the arguments of a call."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import Any

from batch.workers.chat.dialects.gemma4_arguments import QUOTE
from batch.workers.chat.grammar.lark import Lark, literal
from batch.workers.chat.grammar.schema.shapes import Strings
from batch.workers.chat.grammar.strings.char_class import CharClass
from batch.workers.chat.grammar.strings.string_terminals import terminal

_UNPRINTED = ((0, 31), (127, 127))
_JSON_ESCAPED = (*_UNPRINTED, (34, 34), (92, 92))
_SHORT_ESCAPES = {8: "b", 9: "t", 10: "n", 12: "f", 13: "r", 34: '"', 92: "\\\\"}
_LONG_ESCAPES = [code for code in (*range(32), 127) if code not in _SHORT_ESCAPES]
_SCALAR_ESCAPE = (
    r"\\u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|[dD][89aAbB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_SPACE = r"(?: |\n{1,2}[ \t]{0,20})?"
"""The space that llama.cpp's grammars allow: with more, a model can go on writing space for ever."""


class ValueSyntax(ABC):
    """Pieces of grammar. The expressions can stand in rules; what `terminal` returns is one lexeme."""

    open_object: str
    close_object: str
    open_array: str
    close_array: str
    comma: str

    def __init__(self, lark: Lark) -> None:
        self.lark = lark

    @abstractmethod
    def char(self, chars: CharClass) -> str:
        """The regular expression of one character inside a string; "" where there is none."""

    @abstractmethod
    def text(self, text: str) -> str:
        """A text as it stands inside a string."""

    @abstractmethod
    def string(self, strings: Strings) -> str:
        """Such a string."""

    @abstractmethod
    def scalars(self, values: tuple[Any, ...]) -> str:
        """One of these strings, numbers, booleans or null."""

    @abstractmethod
    def key(self, name: str) -> str:
        """A member's name, with what separates it from the value."""

    @abstractmethod
    def other_key(self, names: Strings) -> str:
        """Such a name, with what separates it from the value."""

    def array(self, items: str) -> str:
        """`items`: an expression for all of them with the commas between them; "": none."""
        return " ".join(filter(None, (self.open_array, items, self.close_array)))

    def object(self, members: str) -> str:
        """`members`: an expression for all of them with the commas between them; "": none."""
        return " ".join(filter(None, (self.open_object, members, self.close_object)))


class JsonSyntax(ValueSyntax):
    """JSON with at most one space, or a line feed and an indent, where space may stand."""

    def __init__(self, lark: Lark) -> None:
        super().__init__(lark)
        self.open_object = lark.terminal(rf"/\{{{_SPACE}/")
        self.close_object = lark.terminal(rf"/{_SPACE}\}}/")
        self.open_array = lark.terminal(rf"/\[{_SPACE}/")
        self.close_array = lark.terminal(rf"/{_SPACE}\]/")
        self.comma = lark.terminal(f"/,{_SPACE}/")
        self._colon = lark.terminal(f"/{_SPACE}:{_SPACE}/")

    def char(self, chars: CharClass) -> str:
        # Each character is written in one way only, so that "not this text" means every way to write it.
        ways = [chars.without(_JSON_ESCAPED)]
        ways += [rf"\\{escape}" for code, escape in _SHORT_ESCAPES.items() if chars.has(code)]
        long = [code for code in _LONG_ESCAPES if chars.has(code)]
        if long == _LONG_ESCAPES:
            ways.append(r"\\u00(?:0[0-7bef]|1[0-9a-f]|7f)")
        else:
            ways += [rf"\\u{code:04x}" for code in long]
        ways = [way for way in ways if way]
        return ways[0] if len(ways) == 1 else f"(?:{'|'.join(ways)})" if ways else ""

    def text(self, text: str) -> str:
        return json.dumps(text, ensure_ascii=False)[1:-1].replace("\x7f", "\\u007f")

    def string(self, strings: Strings) -> str:
        if not strings.rules and not strings.excluded:
            any_char = rf'(?:[^"\\\x00-\x1F\x7F]|\\["\\bfnrt]|{_SCALAR_ESCAPE})'
            most = "" if strings.most is None else strings.most
            return self.lark.terminal(rf'/"{any_char}{{{strings.least},{most}}}"/')
        return self.lark.terminal(f'"\\"" {terminal(strings, self.lark, self.char, self.text)} "\\""')

    def scalars(self, values: tuple[Any, ...]) -> str:
        return self.lark.terminal(" | ".join(dict.fromkeys(literal(self._scalar(v)) for v in values)))

    def key(self, name: str) -> str:
        return f"{literal(self._scalar(name))} {self._colon}"

    def other_key(self, names: Strings) -> str:
        body = terminal(names, self.lark, self.char, self.text)
        return self.lark.terminal(f'"\\"" {body} "\\""') + f" {self._colon}"

    def _scalar(self, value: Any) -> str:
        return f'"{self.text(value)}"' if isinstance(value, str) else json.dumps(value)


class Gemma4Syntax(ValueSyntax):
    """No quotes around names, a token of its own around strings, no space, no escapes."""

    open_object, close_object, open_array, close_array, comma = '"{"', '"}"', '"["', '"]"', '","'

    def __init__(self, lark: Lark) -> None:
        super().__init__(lark)
        self._quote = lark.marker(QUOTE)
        # Where the quote is no token, text must not begin to look like one.
        self._kept_out = () if lark.is_token(QUOTE) else ((60, 60),)

    def char(self, chars: CharClass) -> str:
        return chars.without(self._kept_out)

    def text(self, text: str) -> str:
        return text.replace("<", "") if self._kept_out else text.replace(QUOTE, "")

    def string(self, strings: Strings) -> str:
        body = terminal(strings, self.lark, self.char, self.text)
        return f"{self._quote} {body} {self._quote}"

    def scalars(self, values: tuple[Any, ...]) -> str:
        texts = [literal(self.text(v)) for v in values if isinstance(v, str)]
        others = [literal(json.dumps(v)) for v in values if not isinstance(v, str)]
        ways = [self.lark.terminal(" | ".join(dict.fromkeys(others)))] if others else []
        if texts:
            ways.append(f"{self._quote} {self.lark.terminal(' | '.join(dict.fromkeys(texts)))} {self._quote}")
        return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"

    def key(self, name: str) -> str:
        if name and name == name.strip() and not set(name) & set(':{}<|>",[]'):
            return literal(f"{name}:")
        return f'{self._quote} {literal(self.text(name))} {self._quote} ":"'

    def other_key(self, names: Strings) -> str:
        body = terminal(names, self.lark, self.char, self.text)
        return self.lark.terminal(f'/[^\\x00-\\x20:,{{}}<>|"\\[\\]]+/ & {body}') + ' ":"'
