"""Stop strings: the content ends where one of them would begin."""

from __future__ import annotations

import re
from collections.abc import Sequence


class StopStrings:
    """Passes a text through piece by piece, up to the first stop string; nothing that may become one gets out early."""

    __slots__ = ("_first_letters", "_held_back", "_longest", "_pattern", "_stops", "matched")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        # The longest first: of two that begin at the same place the longer one counts.
        self._stops = sorted(filter(None, stops), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._stops))) if self._stops else None
        self._longest = len(self._stops[0]) if self._stops else 0
        self._first_letters = frozenset(stop[0] for stop in self._stops)
        self._held_back = ""
        self.matched: str | None = None
        """The stop string that ended the text; it and what follows are not passed on."""

    def push(self, text: str) -> str:
        """The text that is certain to be shown after this much more."""
        if self._pattern is None:
            return text
        if self.matched is not None:
            return ""
        text = self._held_back + text
        match = self._pattern.search(text)
        if match is not None:
            self.matched = match.group()
            self._held_back = ""
            return text[: match.start()]
        n_shown = len(text) - self._partial_length(text)
        self._held_back = text[n_shown:]
        return text[:n_shown]

    def finish(self) -> str:
        """What was held back, once no more will come."""
        text, self._held_back = self._held_back, ""
        return text

    def _partial_length(self, text: str) -> int:
        """How many last characters may be the beginning of a stop string."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            if text[-n] in self._first_letters and any(stop.startswith(text[-n:]) for stop in self._stops):
                return n
        return 0
