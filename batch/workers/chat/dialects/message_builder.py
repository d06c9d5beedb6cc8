"""The assistant's message as it grows, and what of it the client has not been sent yet."""

from __future__ import annotations

import secrets
import string

from batch.workers.chat.dialects.template_values import TemplateObject

_ID_LETTERS = string.ascii_letters + string.digits


class Reply:
    """Collects content, reasoning and tool calls; `take` hands out what is new as OpenAI deltas."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[TemplateObject] = []
        self._arguments: list[list[str]] = []
        self._new: list[TemplateObject] = []

    @property
    def calls(self) -> int:
        """Number of tool calls so far."""
        return len(self._calls)

    def content(self, text: str) -> None:
        self._text("content", self._content, text)

    def reasoning(self, text: str) -> None:
        self._text("reasoning_content", self._reasoning, text)

    def call(self, name: str) -> None:
        """Begin a tool call; its arguments follow."""
        call = {"id": _call_id(), "type": "function"}
        self._new.append({"tool_calls": [{"index": self.calls, **call, "function": {"name": name, "arguments": ""}}]})
        self._calls.append({**call, "function": {"name": name}})
        self._arguments.append([])

    def arguments(self, fragment: str) -> None:
        """More of the last call's arguments, as JSON text."""
        if not fragment:
            return
        self._arguments[-1].append(fragment)
        index = self.calls - 1
        last = self._new[-1].get("tool_calls") if self._new else None
        if last and "id" not in last[0] and last[0]["index"] == index:
            last[0]["function"]["arguments"] += fragment
        else:
            self._new.append({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})

    def take(self) -> list[TemplateObject]:
        """The deltas since the last take, in order."""
        new, self._new = self._new, []
        return new

    def message(self) -> TemplateObject:
        """The message so far: role, content, and reasoning_content and tool_calls where there are any."""
        message: TemplateObject = {"role": "assistant", "content": "".join(self._content)}
        reasoning = "".join(self._reasoning)
        if reasoning:
            message["reasoning_content"] = reasoning
        if self._calls:
            message["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": "".join(parts)}}
                for call, parts in zip(self._calls, self._arguments, strict=True)
            ]
        return message

    def _text(self, key: str, pieces: list[str], text: str) -> None:
        if not text:
            return
        pieces.append(text)
        if self._new and key in self._new[-1]:
            self._new[-1][key] += text
        else:
            self._new.append({key: text})


def _call_id() -> str:
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(32))
