"""A completion in llama-server's own shape, whole and as lines of a stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from batch.api.completions.probabilities import Probabilities, to_probabilities
from batch.api.errors import to_openai_error
from batch.api.generation.defaults import Settings
from batch.api.generation.jobs import note_comment
from batch.api.generation.progress import PromptProgress
from batch.api.jobs.server_sent_events import sse_event
from batch.api.json_body import JsonObject
from batch.errors import BatchError
from batch.payloads.chat import ChatChoice, ChatResult, StopType, Timings
from batch.payloads.events import Delta, JobEvent, Progress, PromptCounted


class NativeCompletion(msgspec.Struct, kw_only=True):
    """The answer to one choice of a prompt."""

    index: int
    content: str
    tokens: list[int]
    id_slot: int = 0
    stop: bool = True
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    generation_settings: Settings
    prompt: str
    has_new_line: bool
    truncated: bool = False
    stop_type: StopType
    stopping_word: str
    tokens_cached: int
    timings: Timings | dict[str, float]
    completion_probabilities: Probabilities | UnsetType = UNSET


class NativeLine(msgspec.Struct, kw_only=True):
    """One line of a stream before its last."""

    index: int
    content: str
    tokens: list[int]
    stop: bool = False
    id_slot: int = 0
    tokens_predicted: int
    tokens_evaluated: int
    timings: Timings | UnsetType = UNSET
    completion_probabilities: Probabilities | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


def to_native(
    choice: ChatChoice,
    result: ChatResult,
    model: str,
    settings: Settings,
    *,
    index: int,
    tokens: bool = False,
    streamed: bool = False,
) -> NativeCompletion:
    """One choice in llama-server's own shape.

    `tokens`: with the tokens' ids. `streamed`: this closes a stream, whose text is sent already.
    """
    text, usage = choice.text or "", result.usage
    answer = NativeCompletion(
        index=index,
        content="" if streamed else text,
        tokens=choice.tokens if tokens else [],
        model=model,
        tokens_predicted=result.timings.predicted_n if result.timings else usage.completion_tokens,
        tokens_evaluated=usage.prompt_tokens,
        generation_settings=settings,
        prompt=result.prompt or "",
        has_new_line="\n" in text,
        stop_type=_stop_type(choice),
        stopping_word=choice.stopping_word,
        tokens_cached=max(0, usage.prompt_tokens + usage.completion_tokens - 1),
        timings=result.timings or {},
    )
    if not streamed and choice.logprobs and choice.logprobs.content:
        answer.completion_probabilities = to_probabilities(choice.logprobs)
    return answer


def _stop_type(choice: ChatChoice) -> StopType:
    if choice.stop_type != "eos":
        return choice.stop_type
    if choice.finish_reason == "length":
        return "limit"
    return "word" if choice.stopping_word else "eos"


def selected_fields(answer: NativeCompletion, fields: Sequence[str]) -> NativeCompletion | JsonObject:
    """Only these fields, where a client names some; "generation_settings/top_k" reaches into an object."""
    if not fields:
        return answer
    whole = msgspec.to_builtins(answer)
    selected: JsonObject = {}
    for path in fields:
        value: Any = whole
        for key in path.split("/"):
            value = value.get(key, UNSET) if isinstance(value, dict) else UNSET
        if value is not UNSET:
            selected[path] = value
    return selected


class NativeLines:
    """The event serializer of /completion; a stream has no closing [DONE]."""

    def __init__(
        self,
        model: str,
        settings: Callable[[], Settings],
        prompts: int,
        *,
        progress: bool,
        fields: Sequence[str] = (),
    ) -> None:
        """`settings` gives the generation settings once the model is loaded."""
        self._model, self._settings, self._prompts, self._with_progress = model, settings, prompts, progress
        self._fields = fields
        self._evaluated = 0
        self._predicted = 0

    def event(self, job: int, event: JobEvent) -> bytes:
        match event:
            case PromptCounted():
                self._evaluated = event.tokens
                return b""
            case Progress(cache=int()) if self._with_progress and not self._predicted:
                line = self._line(job, 0, "")
                line.prompt_progress = PromptProgress.of(event)
                return sse_event(line)
            case Delta():
                return self._delta(job, event)
            case _:
                return b""

    def _delta(self, job: int, event: Delta) -> bytes:
        text = event.delta.text or ""
        if not text and not event.logprobs:
            return b""
        self._predicted += len(event.tokens)  # an echo has none
        line = self._line(job, event.index, text)
        line.tokens = event.tokens
        if event.timings and event.finish_reason is None:
            line.timings = event.timings
        if event.logprobs:
            line.completion_probabilities = to_probabilities(event.logprobs)
        return sse_event(line)

    def finish(self, job: int, result: ChatResult) -> bytes:
        piece = note_comment(result.note)
        self._predicted = 0
        for choice in result.choices:
            index = job if self._prompts > 1 else choice.index
            answer = to_native(choice, result, self._model, self._settings(), index=index, streamed=True)
            piece += sse_event(selected_fields(answer, self._fields))
        return piece

    def close(self) -> bytes:
        return b""

    def error(self, error: BatchError) -> bytes:
        return sse_event(to_openai_error(error))

    def _line(self, job: int, index: int, text: str) -> NativeLine:
        return NativeLine(
            index=job if self._prompts > 1 else index,
            content=text,
            tokens=[],
            tokens_predicted=self._predicted,
            tokens_evaluated=self._evaluated,
        )
