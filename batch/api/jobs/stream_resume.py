"""What a client has been sent of an answer, so that a job that starts again goes on where the client stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import msgspec

from batch.errors import WorkerDied
from batch.payloads.chat import ChatChoice, ChatResult, FunctionDelta, MessageDelta, PromptTokens, ToolCallDelta
from batch.payloads.events import Delta, JobEvent, Started
from batch.payloads.job_payload import Result

_TextField = Literal["content", "reasoning_content", "text", "name", "arguments"]
_MESSAGE_FIELDS: tuple[Literal["content", "reasoning_content", "text"], ...] = ("reasoning_content", "content", "text")


_Text = tuple[int, _TextField, int]
"""One text that grows in a stream: the choice, the field, and which of the choice's tool calls. A plain tuple, as one is made
for every token."""
_NO_CALL = -1
"""In the place of a tool call: the text is the message's own."""


class StreamResume:
    """Follows one job's deltas. After a worker died the job runs again from its beginning: what was sent already is
    held back as long as it is the same (greedy or seeded sampling), and the stream ends in an error where it is not.
    """

    def __init__(self) -> None:
        self._sent: defaultdict[_Text, list[str]] = defaultdict(list)
        """In pieces: adding to one long text would copy it at every token."""
        self._length: dict[_Text, int] = {}
        """Of each text: how much of it was sent before the job ran again."""
        self._position: dict[_Text, int] = {}
        """Of each text: how much of it came since."""
        self._runs_again = False

    def _restart(self) -> None:
        """A worker has taken the job, for the first time or once more."""
        self._runs_again = bool(self._sent)
        self._length = {key: len(self._text(key)) for key in self._sent}
        self._position = {}

    def unsent(self, event: JobEvent) -> JobEvent | None:
        """The event without what was sent before; None when nothing of it is left.

        Raises WorkerDied when the job goes another way than before.
        """
        if isinstance(event, Delta):
            if self._runs_again:
                return self._unsent_delta(event)
            self._record(event)
        elif isinstance(event, Started):
            self._restart()
        return event

    def _record(self, event: Delta) -> None:
        index, delta = event.index, event.delta
        if delta.content:
            self._sent[index, "content", _NO_CALL].append(delta.content)
        if delta.reasoning_content:
            self._sent[index, "reasoning_content", _NO_CALL].append(delta.reasoning_content)
        if delta.text:
            self._sent[index, "text", _NO_CALL].append(delta.text)
        for call in delta.tool_calls:
            if call.function.name:
                self._sent[index, "name", call.index].append(call.function.name)
            if call.function.arguments:
                self._sent[index, "arguments", call.index].append(call.function.arguments)

    def _unsent_delta(self, event: Delta) -> Delta | None:
        index, delta = event.index, event.delta
        rests = {
            field: self._rest((index, field, _NO_CALL), text) or None
            for field in _MESSAGE_FIELDS
            if (text := getattr(delta, field)) is not None
        }
        calls = [call for whole in delta.tool_calls if (call := self._unsent_call(index, whole))]
        if not calls and not any(rests.values()) and event.finish_reason is None:
            return None
        return msgspec.structs.replace(event, delta=MessageDelta(**rests, tool_calls=calls))

    def _unsent_call(self, index: int, call: ToolCallDelta) -> ToolCallDelta | None:
        function = call.function
        name = self._rest((index, "name", call.index), function.name) if function.name else ""
        arguments = self._rest((index, "arguments", call.index), function.arguments) if function.arguments else ""
        if not name and not arguments:
            return None
        spelled = FunctionDelta(name=name or None, arguments=arguments or ("" if name else None))
        if name:
            return msgspec.structs.replace(call, function=spelled)
        return ToolCallDelta(index=call.index, function=spelled)

    def _rest(self, key: _Text, text: str) -> str:
        position, length = self._position.get(key, 0), self._length.get(key, 0)
        self._position[key] = position + len(text)
        sent_before = self._text(key)[position : position + len(text)] if position < length else ""
        if not text.startswith(sent_before):
            raise WorkerDied(
                "The worker process died in the middle of this answer, and the second attempt went another way: "
                "send the request again."
            )
        rest = text[len(sent_before) :]
        self._sent[key].append(rest)
        self._length[key] = length + len(rest)
        return rest

    def _text(self, key: _Text) -> str:
        pieces = self._sent.get(key, [])
        if len(pieces) > 1:
            pieces[:] = ["".join(pieces)]
        return pieces[0] if pieces else ""

    def missing(self, result: Result) -> Iterator[Delta]:
        """Deltas for what the result holds beyond what was sent: nobody listened, or an event was lost."""
        if not isinstance(result, ChatResult):
            return
        prompt = PromptTokens(result.usage.prompt_tokens, result.usage.prompt_tokens_details.cached_tokens)
        for choice in result.choices:
            delta = MessageDelta(**self._missing_texts(choice), tool_calls=self._missing_calls(choice))
            if delta != MessageDelta():
                yield Delta(index=choice.index, delta=delta, prompt=prompt)

    def _missing_texts(self, choice: ChatChoice) -> dict[str, str]:
        missing: dict[str, str] = {}
        for field in _MESSAGE_FIELDS:
            holder = choice if field == "text" else choice.message
            whole = ((getattr(holder, field) if holder else None) or "")[choice.prefill.get(field, 0) :]
            text = self._text((choice.index, field, _NO_CALL))
            if len(whole) > len(text) and whole.startswith(text):
                missing[field] = whole[len(text) :]
        return missing

    def _missing_calls(self, choice: ChatChoice) -> list[ToolCallDelta]:
        calls: list[ToolCallDelta] = []
        for at, call in enumerate(choice.message.tool_calls if choice.message else []):
            function, text = call.function, self._text((choice.index, "arguments", at))
            if (choice.index, "name", at) not in self._sent:
                whole = FunctionDelta(name=function.name, arguments=function.arguments)
                calls.append(ToolCallDelta(index=at, id=call.id, type="function", function=whole))
            elif len(function.arguments) > len(text) and function.arguments.startswith(text):
                calls.append(ToolCallDelta(index=at, function=FunctionDelta(arguments=function.arguments[len(text) :])))
        return calls
