"""Takes the Markdown fence off an answer that is to be JSON alone."""

from __future__ import annotations

_OPEN = "```json"
_CLOSE = "```"


class Fence:
    """Passes text on without a leading ```` ```json ```` and a trailing ```` ``` ````, and without space around it."""

    def __init__(self) -> None:
        self._pending = ""
        self._state = "before"

    def feed(self, text: str) -> str:
        """What of the text so far is sure to lie inside the fence and is new."""
        self._pending += text
        if self._state == "before":
            self._pending = self._pending.lstrip()
            if len(self._pending) < len(_OPEN) and _OPEN.startswith(self._pending):
                return ""
            self._pending = self._pending.removeprefix(_OPEN)
            self._state = "begun"
        if self._state == "begun":
            self._pending = self._pending.lstrip()
            self._state = "inside" if self._pending else "begun"
        end = len(_without_close(self._pending))
        ready, self._pending = self._pending[:end], self._pending[end:]
        return ready

    def finish(self) -> str:
        """The rest, when no more text comes."""
        text, self._pending = self._pending.strip(), ""
        return "" if text in ("```", "``", "`", "") else text


def _without_close(text: str) -> str:
    """The text without its last backticks, three at most, and the space around them. An expression would look for their end
    from every space of a long run of it anew."""
    text = text.rstrip()
    for _ in _CLOSE:
        text = text.removesuffix("`")
    return text.rstrip()
