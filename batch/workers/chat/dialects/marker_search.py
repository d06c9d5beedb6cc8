"""Finding markers in text that arrives in pieces."""

from __future__ import annotations

import re
from collections.abc import Sequence


class Markers:
    """A few fixed strings to look for."""

    def __init__(self, markers: Sequence[str]) -> None:
        self._any = re.compile("|".join(map(re.escape, sorted(markers, key=len, reverse=True)))) if markers else None
        self._longest = max(map(len, markers), default=0)
        self._firsts = frozenset(m[0] for m in markers)
        self._starts = frozenset(m[:n] for m in markers for n in range(1, len(m)))

    def cut(self, text: str) -> tuple[str, str, str]:
        """(before, marker, rest) at the first marker; without one, `rest` is the end that may yet become one."""
        if self._firsts.isdisjoint(text):  # nearly every token's text
            return text, "", ""
        match = self._any.search(text) if self._any else None
        if match:
            return text[: match.start()], match.group(), text[match.end() :]
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[at:] in self._starts:
                return text[:at], "", text[at:]
        return text, "", ""
