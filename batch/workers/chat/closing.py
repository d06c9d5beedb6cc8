"""The short way out of a bound answer that repeats itself: what is open is closed, so that it stays valid."""

from __future__ import annotations

from batch.workers.chat.grammar.matcher import Grammar
from batch.workers.llama.model import Model

MOST = 256
"""Tokens that closing may take; a schema with longer demands ends cut."""
# A quote comes first: inside a string everything else would only be more of the string.
_CLOSERS = ('<|"|>', '"', "]", "}", "```", "`", "<tool_call|>", "</tool_call>")


class Closing:
    """Chooses among the tokens that end something, as far as the grammar allows one."""

    def __init__(self, model: Model) -> None:
        ends = sorted(model.end_tokens, key=lambda token: token != model.eos)
        last = ((text, model.tokenize(text)[-1:]) for text in _CLOSERS)
        closers = [ids[0] for text, ids in last if ids and model.piece(ids[0], special=True) == text.encode()]
        self._tokens = [*ends, *closers]

    def token(self, grammar: Grammar) -> int | None:
        """What ends most of what is open; None where something has to be written first."""
        return next((token for token in self._tokens if grammar.allows(token)), None)
