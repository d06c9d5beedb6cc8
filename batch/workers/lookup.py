"""Guesses at the tokens that come next: what followed the same few tokens the last time they stood here.

Known as prompt lookup decoding. A guess is only ever checked, never believed: it goes through the model together with
the token before it, and each of its tokens stands only if the one that is drawn there is the same. So the answer is
what it would have been, in fewer passes. Tables, records and code repeat themselves; prose seldom does.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 12
"""Most tokens of a guess: beyond it a pass costs what the guess can save."""
_CONTEXT = (4, 2)
"""How many tokens have to be the same, the more telling number first."""


class Lookup:
    """The tokens of one answer so far, by what stood before each."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        self._tokens: list[int] = []
        self._behind: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in _CONTEXT)
        """By the last few tokens: what came behind them, or -1 once it was not the same twice."""
        self._reach = 4
        for token in prompt:
            self.add(token)

    def add(self, token: int) -> None:
        """A token that was drawn."""
        tokens = self._tokens
        for length, behind in zip(_CONTEXT, self._behind, strict=True):
            if len(tokens) >= length:
                before = tuple(tokens[-length:])
                behind[before] = token if behind.get(before, token) == token else -1
        tokens.append(token)

    def guess(self, most: int) -> list[int]:
        """What may come next, at most `most` tokens; empty where nothing speaks for anything."""
        last = self._tokens[-_CONTEXT[0] :]
        found: list[int] = []
        while len(found) < min(most, self._reach):
            for length, behind in zip(_CONTEXT, self._behind, strict=True):
                token = behind.get(tuple(last[-length:]), -1)
                if token >= 0:
                    break
            else:
                break
            found.append(token)
            last = [*last[1:], token]
        return found

    def judge(self, right: int, guessed: int) -> None:
        """How many tokens of a guess stood: the next one reaches farther, or less far."""
        self._reach = min(_LONGEST, self._reach * 2) if right == guessed else max(1, right)
