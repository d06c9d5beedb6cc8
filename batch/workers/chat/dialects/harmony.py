"""GPT-OSS's harmony: messages in channels, `<|channel|>analysis<|message|>…<|end|>`, calls by their recipient.

No template shows all of it: a call may name its recipient before or behind the channel.
"""

from __future__ import annotations

import re

from batch.workers.chat.dialects.derived.json_extent import JsonExtent
from batch.workers.chat.dialects.marker_search import Markers
from batch.workers.chat.dialects.stream_parser import Reading, StreamParser

START, CHANNEL, MESSAGE, CONSTRAIN = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
MARKERS = (START, CHANNEL, MESSAGE, CONSTRAIN, END, RETURN, CALL)
RECIPIENT = "to=functions."
"""Stands before a function's name."""
FINAL = f"{CHANNEL}final{MESSAGE}"
"""Begins an answer."""
THINKING = (f"{CHANNEL}analysis{MESSAGE}", END)
_RECIPIENT = re.compile(r"to=([\w.-]+)")
_CHANNEL = re.compile(re.escape(CHANNEL) + r"\s*(\w+)")
_MAX_HEADER_CHARS = 512


def is_harmony(source: str) -> bool:
    """Whether a template writes this."""
    return all(marker in source for marker in (f"{CHANNEL}analysis{MESSAGE}", f"{CHANNEL}final{MESSAGE}"))


class HarmonyParser(StreamParser):
    """The analysis is thinking, the final channel the answer, and so is a preamble in the commentary."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading)
        self._header = ""
        self._extent = JsonExtent()
        self._in_header = Markers((MESSAGE, END, RETURN, CALL, START))
        self._in_body = Markers((END, RETURN, CALL, START, CHANNEL))
        self._steps = {
            "start": self._start,
            "header": self._read_header,
            "thought": self._body,
            "content": self._body,
            "other": self._body,
            "call": self._call,
        }
        tail = reading.tail[max(reading.tail.rfind(END), 0) :]
        if MESSAGE in tail:
            self._header = tail.rpartition(MESSAGE)[0]
            self._open_body()
        elif START in tail:
            self._header = tail.rpartition(START)[2]
            self._state = "header"

    @property
    def thinking(self) -> bool:
        return self._state == "thought" or (self._state == "header" and "analysis" in self._header + self._text)

    @property
    def deliberating(self) -> bool:
        return self._state == "thought"

    @property
    def called(self) -> str | None:
        header = self._header + self._text
        if self._state != "header" or RECIPIENT not in header or not self._reading.functions:
            return None
        return header.rpartition(RECIPIENT)[2]

    def _end(self, cut: bool) -> None:
        text, self._text = self._text, ""
        match self._state:
            case "start" | "content":
                self._content(text)
            case "thought":
                self._thinks(text)
            case "header":
                self._mark(text)

    def _start(self) -> bool:
        """The first text: a header, or, where the model writes none, an answer."""
        body = self._text.lstrip()
        starts = (CHANNEL, START, "to=")
        if any(start.startswith(body) and start != body for start in starts):
            return False
        self._state = "header" if body.startswith(starts) else "content"
        return True

    def _read_header(self) -> bool:
        if not _may_be_header(self._header + self._text):
            # No header at all: the model answers at once.
            self._header, self._state = "", "content"
            return True
        before, marker, self._text = self._in_header.cut(self._text)
        self._header += before
        self._mark(before + marker)
        if marker == MESSAGE:
            self._open_body()
        elif marker == START or len(self._header) > _MAX_HEADER_CHARS:
            self._header = ""
        elif marker:
            self._header, self._state = "", "other"
        return bool(marker)

    def _open_body(self) -> None:
        """What the header says of the text that follows."""
        recipient, channel = _RECIPIENT.search(self._header), _CHANNEL.search(self._header)
        name = recipient.group(1).removeprefix("functions.") if recipient else ""
        if name in self._reading.functions:
            self._state = "call"
            self._extent = JsonExtent()
            if self._tells:
                self._reply.call(name)
        elif recipient or (channel and channel.group(1) == "analysis"):
            # What goes to a tool of the model's own is no answer either.
            self._state = "thought"
        else:
            self._state = "content"
        self._header = ""

    @property
    def _tells(self) -> bool:
        return self._reading.parallel or not self._reply.calls

    def _body(self) -> bool:
        before, marker, self._text = self._in_body.cut(self._text)
        match self._state:
            case "thought":
                self._thinks(before)
            case "content":
                self._content(before)
        if not marker:
            return False
        self._mark(marker)
        self._header = marker if marker == CHANNEL else ""
        self._state = "header" if marker in (START, CHANNEL) else "other"
        return True

    def _call(self) -> bool:
        if not self._extent.has_begun:
            self._text = self._text.lstrip()
        end = self._extent.feed(self._text)
        if self._reading.parallel or self._reply.calls == 1:
            self._reply.arguments(self._text[:end])
        self._text = self._text[end:]
        if self._extent.done:
            self._state = "other"
        return self._extent.done


def _may_be_header(text: str) -> bool:
    """Whether a message may begin so: a role, a channel or a recipient."""
    text = text.lstrip()
    rest = text.removeprefix("assistant").lstrip()
    return "assistant".startswith(text) or any(rest.startswith(start) or start.startswith(rest) for start in (CHANNEL, "to="))
