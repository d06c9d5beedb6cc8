"""A layout's text as part of a grammar: markers that are tokens as these, the rest as characters."""

from __future__ import annotations

from batch.workers.chat.dialects.derived.layout import ID_HOLE, INDEX_HOLE
from batch.workers.chat.grammar.lark import Lark, literal

_LONGEST_MARKER_CHARS = 64
_HOLES = {ID_HOLE: "/[a-zA-Z0-9]{9}/", INDEX_HOLE: "/[0-9]{1,4}/"}
"""Nine letters and digits are what the strictest template (Mistral's) takes for an id."""


class Markup:
    """Writes such texts into one grammar."""

    def __init__(self, lark: Lark) -> None:
        self.lark = lark

    def text(self, text: str) -> str:
        """An expression for a text; its holes are filled."""
        pieces: list[str] = []
        plain = ""
        at = 0
        while at < len(text):
            token = self._token(text, at)
            if token or text[at] in _HOLES:
                if plain:
                    pieces.append(literal(plain))
                plain = ""
            if token:
                pieces.append(self.lark.marker(token))
                at += len(token)
                continue
            if text[at] in _HOLES:
                pieces.append(self.lark.terminal(_HOLES[text[at]]))
            else:
                plain += text[at]
            at += 1
        if plain:
            pieces.append(literal(plain))
        return " ".join(pieces) or '""'

    def until(self, end: str) -> str:
        """Any text up to and with the first `end`."""
        at = next((at for at in range(len(end)) if self._token(end, at)), len(end))
        if at == len(end):
            return self.lark.until(end)
        # A token ends the text; the space before it belongs to the text as far as the grammar is concerned.
        token = self._token(end, at)
        if end[:at].strip():
            return f"{self.lark.until(end[:at])} {self.text(end[at:])}"
        return f"{self.lark.until(token)} {self.text(end[at + len(token) :])}".removesuffix(' ""')

    def _token(self, text: str, at: int) -> str:
        """The longest marker with a token of its own that begins here."""
        if text[at].isalnum() or text[at].isspace():
            return ""
        for end in range(min(len(text), at + _LONGEST_MARKER_CHARS), at + 1, -1):
            if self.lark.is_token(text[at:end]):
                return text[at:end]
        return ""
