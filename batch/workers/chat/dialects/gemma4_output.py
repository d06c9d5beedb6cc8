"""Gemma 4: `<|channel>thought … <channel|>answer`, and `<|tool_call>call:NAME{…}<tool_call|>`."""

from __future__ import annotations

from batch.workers.chat.dialects.gemma4_arguments import CALL_END, CallArguments
from batch.workers.chat.dialects.marker_search import Markers
from batch.workers.chat.dialects.stream_parser import Reading, StreamParser

OPEN = "<|channel>"
CLOSE = "<channel|>"
CALL = "<|tool_call>"
_RESPONSE = "<|tool_response>"
_TURN = "<|turn>model\n"
THOUGHT = "thought"
_HEAD = "call:"


class Gemma4Parser(StreamParser):
    """Empty channels vanish, an unclosed one is thinking to its end, a stray marker never reaches the content."""

    def __init__(self, reading: Reading) -> None:
        super().__init__(reading)
        self._arguments = CallArguments()
        self._steps = {
            "start": self._start,
            "content": self._answer,
            "channel": self._channel,
            "space": self._space,
            "thought": self._thought,
            "call": self._call,
            "arguments": self._call_is_complete,
            "called": self._called,
            "between": self._between,
            "over": self._over,
        }
        calls = (CALL,) if reading.functions else ()
        self._in_content = Markers((OPEN, CLOSE, *calls))
        self._after_call = Markers((OPEN, CLOSE, CALL, _RESPONSE))
        self._in_thought = Markers((CLOSE,))
        self._heads = [f"{_HEAD}{name}{{" for name in reading.functions]
        opened = reading.tail.rfind(OPEN)
        if opened > reading.tail.rfind(CLOSE):
            inside = reading.tail[opened + len(OPEN) :]
            self._state = "space" if not inside.removeprefix(THOUGHT).strip() else "thought"

    @property
    def thinking(self) -> bool:
        return self._state in ("channel", "space", "thought")

    @property
    def deliberating(self) -> bool:
        return self._state in ("space", "thought")

    @property
    def called(self) -> str | None:
        return self._text if self._state == "call" else None

    def _end(self, cut: bool) -> None:
        text, self._text = self._text, ""
        match self._state:
            case "start" | "content":
                self._content(text)
            case "thought":
                self._thinks(text)
            case "channel" | "space":
                self._mark(text)
            case "call" if not cut:
                self._content(CALL + text)

    def _start(self) -> bool:
        if _TURN.startswith(self._text) and self._text != _TURN:
            return False
        self._text = self._text.removeprefix(_TURN)
        self._state = "content"
        return True

    def _answer(self) -> bool:
        before, marker, self._text = self._in_content.cut(self._text)
        self._content(before)
        if not marker:
            return False
        if marker == CALL:
            self._state = "call"
        else:
            self._mark(marker)
            if marker == OPEN:
                self._state = "channel"
        return True

    def _channel(self) -> bool:
        if self._text.startswith(THOUGHT):
            self._mark(THOUGHT)
            self._text = self._text[len(THOUGHT) :]
            self._state = "space"
        elif THOUGHT.startswith(self._text):
            return False
        else:
            self._state = "content"
        return True

    def _space(self) -> bool:
        return self._skip_space("thought")

    def _thought(self) -> bool:
        before, marker, self._text = self._in_thought.cut(self._text)
        self._thinks(before)
        if not marker:
            return False
        self._mark(marker)
        self._state = "content"
        return True

    def _call(self) -> bool:
        head = next((h for h in self._heads if self._text.startswith(h)), None)
        if head:
            self._reply.call(head[len(_HEAD) : -1])
            self._text = self._text[len(head) - 1 :]
            self._arguments = CallArguments()
            self._state = "arguments"
        elif any(h.startswith(self._text) for h in self._heads):
            return False
        else:
            self._content(CALL)
            self._state = "content"
        return True

    def _call_is_complete(self) -> bool:
        arguments, self._text = self._arguments.feed(self._text)
        self._reply.arguments(arguments)
        if not self._arguments.done:
            return False
        self._state = "called"
        return True

    def _called(self) -> bool:
        self._text = self._text.lstrip()
        if len(self._text) < len(CALL_END) and CALL_END.startswith(self._text):
            return False
        self._text = self._text.removeprefix(CALL_END)
        self._state = "between" if self._reading.parallel else "over"
        return True

    def _between(self) -> bool:
        """After a call: another one, or nothing; space is no answer, but text is."""
        self._text = self._text.lstrip()
        if not self._text:
            return False
        before, marker, _ = self._after_call.cut(self._text)
        if before:
            self._state = "content"
        elif not marker:
            return False
        elif marker == _RESPONSE:
            self._state = "over"
        else:
            self._state = "content"
        return True

    def _over(self) -> bool:
        self._text = ""
        return False
