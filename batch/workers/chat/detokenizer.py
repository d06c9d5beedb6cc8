"""Tokens' bytes to text: whole characters only, and nothing that may turn out to be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Push bytes, get the text that is safe to show."""

    __slots__ = ("_decoder", "_held", "_longest", "_stops", "stopped")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [s for s in stops if s]
        self._longest = max(map(len, self._stops), default=0)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped: str | None = None
        """The stop string that was found; it and what follows are not shown."""

    def push(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        return self._release(text) if self._stops else text

    def finish(self) -> str:
        """What was held back, once no more will come."""
        text = self._decoder.decode(b"", True)
        if not self._stops:
            return text
        text = self._release(text)
        if self.stopped is None:
            text, self._held = text + self._held, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped is not None:
            return ""
        text = self._held + text
        found = [(at, -len(s), s) for s in self._stops if (at := text.find(s)) >= 0]
        if found:
            at, _, self.stopped = min(found)
            self._held = ""
            return text[:at]
        keep = self._partial(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _partial(self, text: str) -> int:
        """How many last characters may be the beginning of a stop string."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[-n:]
            if any(s.startswith(tail) for s in self._stops):
                return n
        return 0
