"""What every dialect's parser is: text in by pieces, OpenAI deltas out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from batch.workers.chat.dialects.code_fence import Fence
from batch.workers.chat.dialects.message_builder import Reply
from batch.workers.chat.dialects.template_values import TemplateObject, TemplateValue


@dataclass(frozen=True, slots=True)
class Reading:
    """What a parser has to know of the request."""

    raw: bool
    """Thinking stays inside content, markers and all."""
    functions: frozenset[str] = frozenset()
    """Names of the functions that may be called; empty: a call is plain text."""
    schemas: Mapping[str, TemplateValue] = field(default_factory=dict)
    """Their parameters, by name, where a value's type cannot be seen from the text."""
    parallel: bool = True
    tail: str = ""
    """The end of the prompt, where it may have opened the thinking itself."""
    fenced: bool = False


class StreamParser(ABC):
    """Turns the model's text into OpenAI deltas. Feeding it piece by piece gives what feeding it whole gives."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._reply = Reply()
        self._fence = Fence() if reading.fenced else None
        self._text = ""
        """What has come and is not read yet."""
        self._state = "start"
        self._steps: dict[str, Callable[[], bool]] = {}
        """One a state: takes something off the text, or returns False to wait for more."""

    @property
    @abstractmethod
    def thinking(self) -> bool:
        """Whether the text so far ends inside the thinking."""

    @property
    def deliberating(self) -> bool:
        """Whether it ends behind what opens the thinking: from here on tokens count against a budget."""
        return self.thinking

    @property
    @abstractmethod
    def called(self) -> str | None:
        """Right behind the marker that opens a call: what has been written after it so far, often nothing yet."""

    def feed(self, text: str) -> list[TemplateObject]:
        """The deltas that are sure after this much more text."""
        self._parse(text)
        return self._reply.take()

    def finish(self, stop_reason: str = "stop") -> list[TemplateObject]:
        """The last deltas: what was held back because it might have become a marker. Call once."""
        self._end(cut=stop_reason == "length")
        if self._fence:
            self._reply.content(self._fence.finish())
        return self._reply.take()

    def message(self) -> TemplateObject:
        """role, content, and reasoning_content and tool_calls where there are any."""
        return self._reply.message()

    def finish_reason(self, stop_reason: str) -> str:
        """ "tool_calls" where the model stopped by itself after a call."""
        return "tool_calls" if stop_reason == "stop" and self._reply.calls else stop_reason

    def _content(self, text: str) -> None:
        self._reply.content(self._fence.feed(text) if self._fence else text)

    def _mark(self, text: str) -> None:
        """Text that is no part of the message, unless everything stays as it was written."""
        if self._reading.raw:
            self._content(text)

    def _thinks(self, text: str) -> None:
        if self._reading.raw:
            self._content(text)
        else:
            self._reply.reasoning(text)

    def _skip_space(self, then: str) -> bool:
        """Take the space off the text; the state becomes `then` once something else has come."""
        body = self._text.lstrip()
        self._mark(self._text[: len(self._text) - len(body)])
        self._text = body
        if body:
            self._state = then
        return bool(body)

    def _parse(self, text: str) -> None:
        self._text += text
        while self._text and self._steps[self._state]():
            pass

    @abstractmethod
    def _end(self, cut: bool) -> None: ...
