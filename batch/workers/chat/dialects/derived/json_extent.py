"""Where a JSON value that arrives in pieces ends."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class JsonExtent:
    """Follows one object or array."""

    def __init__(self, depth: int = 0) -> None:
        """`depth`: how many objects and arrays are open already."""
        self.done = False
        """Whether the value's last bracket has come."""
        self._depth = depth
        self._is_inside = False
        self._is_escaped = False

    @property
    def has_begun(self) -> bool:
        """Whether the value's first bracket has come."""
        return self._depth > 0

    def feed(self, text: str) -> int:
        """How many of these characters belong to the value."""
        at = 0
        while at < len(text) and not self.done:
            if self._is_escaped:
                self._is_escaped, at = False, at + 1
                continue
            match = (_INSIDE if self._is_inside else _OUTSIDE).search(text, at)
            if match is None:
                return len(text)
            at = match.end()
            self._read(match.group())
        return at

    def _read(self, char: str) -> None:
        match char:
            case "\\":
                self._is_escaped = True
            case '"':
                self._is_inside = not self._is_inside
            case "{" | "[":
                self._depth += 1
            case _:
                self._depth -= 1
                self.done = self._depth <= 0
