"""Writing llguidance's grammar notation (a dialect of Lark): rules, terminals and the markers of a vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

from batch.errors import BadRequest

MAX_RULES = 10_000
"""Rules and terminals of one grammar: the engine follows references by recursion, on a stack that holds this many."""
MAX_CHARS = 1 << 20

TokenId = Callable[[str], int | None]
"""The token that is written as this text and that plain text cannot spell; None where the vocabulary has none."""


def _no_token(text: str) -> int | None:
    return None


class Lark:
    """One grammar under construction: equal bodies are written once, and its size is bounded."""

    def __init__(self, field: str, token_id: TokenId = _no_token) -> None:
        """`field` names the request's field in errors."""
        self.field = field
        self._token_id = token_id
        self._bodies: dict[str, str] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._chars = 0

    def rule(self, body: str) -> str:
        """The name of a rule with this body."""
        return self._named("r{}", body)

    def lazy(self, body: str) -> str:
        """The name of a rule that takes as little text as its terminal's body allows."""
        return self._named("r{}[lazy]", body)

    def terminal(self, body: str) -> str:
        """The name of a terminal with this body: one lexeme, which takes as much text as it can."""
        return self._named("T{}", body)

    def reserve(self, form: str = "r{}") -> str:
        """The name of a rule that `define` gives a body later."""
        name = form.format(len(self._bodies))
        self._bodies[name] = ""
        if len(self._bodies) > MAX_RULES:
            self.refuse_size()
        return name

    def define(self, name: str, body: str) -> None:
        """Give a reserved rule its body."""
        self._bodies[name] = body
        self._chars += len(body)
        if self._chars > MAX_CHARS:
            self.refuse_size()

    def refuse_size(self) -> None:
        """Raises BadRequest."""
        raise BadRequest(f"{self.field} is too large to be turned into a grammar.")

    def text(self, start: str) -> str:
        """The whole grammar; `start` is the body of its first rule."""
        # Without no_forcing the engine would allow only its own way of splitting a forced text into tokens.
        head = f'%llguidance {{"no_forcing": true}}\nstart: {start}\n'
        return head + "".join(f"{name}: {body}\n" for name, body in self._bodies.items())

    def marker(self, text: str) -> str:
        """An expression for a marker: its token where it is one, else its characters."""
        token = self._token_id(text)
        return literal(text) if token is None else f"<[{token}]>"

    def is_token(self, text: str) -> bool:
        """Whether a marker is one token, which no text can spell."""
        return self._token_id(text) is not None

    def until(self, end: str) -> str:
        """A rule for any text up to and with the first `end`."""
        if self.is_token(end):
            return self.rule(f"{self.terminal('/(?s:.)+/')}? {self.marker(end)}")
        return self.lazy(f"/(?s:.)*{regex_escape(end)}/")

    def _named(self, form: str, body: str) -> str:
        name = self._names.get((form, body))
        if name is None:
            full = self.reserve(form)
            self.define(full, body)
            name = self._names[form, body] = full.partition("[")[0]
        return name


def literal(text: str) -> str:
    """A quoted literal."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def one_of(options: Iterable[str]) -> str:
    """A group of alternatives, each written once."""
    alternatives = list(dict.fromkeys(options))
    return alternatives[0] if len(alternatives) == 1 else f"({' | '.join(alternatives)})"


def repeated(item: str, least: int, most: int | None) -> str:
    """`item`, a name or a group, at least and at most so often; `most` None: without a limit."""
    if (least, most) == (1, 1):
        return item
    if most == 0:
        return '""'
    if (least, most) == (0, 1):
        return f"{item}?"
    if most is None and least < 2:
        return item + ("+" if least else "*")
    return f"{item}{{{least},{'' if most is None else most}}}"


def regex_escape(text: str) -> str:
    """A text as it stands inside `/.../`, within a character class or outside of one."""
    return "".join(_escape(c) for c in text)


def _escape(char: str) -> str:
    if char.isascii() and (char.isalnum() or char in " _\"'<>=:;,@!%`"):
        return char
    return "\\" + char if char.isascii() and char.isprintable() else f"\\x{{{ord(char):X}}}"
