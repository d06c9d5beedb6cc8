"""OpenAI's text_completion, whole and as chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from batch.api.completions.probabilities import ProbabilityContent, to_probabilities
from batch.api.errors import to_openai_error
from batch.api.generation.jobs import FINGERPRINT, note_comment
from batch.api.generation.progress import PromptProgress
from batch.api.jobs.answer_ids import random_id
from batch.api.jobs.server_sent_events import DONE, sse_event
from batch.errors import BatchError
from batch.payloads.chat import (
    ChatResult,
    CompletionTokensDetails,
    FinishReason,
    Logprobs,
    PromptTokensDetails,
    Timings,
    Usage,
)
from batch.payloads.events import Delta, JobEvent, Progress


class TextChoice(msgspec.Struct, kw_only=True):
    """One choice, or what is new of it."""

    text: str
    index: int
    logprobs: ProbabilityContent | None = None
    finish_reason: FinishReason | None = None


class TextCompletion(msgspec.Struct, kw_only=True):
    """The whole answer, or one event of a stream."""

    choices: list[TextChoice]
    created: int
    model: str
    system_fingerprint: str = FINGERPRINT
    object: Literal["text_completion"] = "text_completion"
    usage: Usage | UnsetType = UNSET
    id: str
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET


def total_usage(usages: Sequence[Usage]) -> Usage:
    """One usage for several jobs."""
    return Usage(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        total_tokens=sum(usage.total_tokens for usage in usages),
        prompt_tokens_details=PromptTokensDetails(sum(usage.prompt_tokens_details.cached_tokens for usage in usages)),
        completion_tokens_details=CompletionTokensDetails(
            sum(usage.completion_tokens_details.reasoning_tokens for usage in usages)
        ),
    )


def to_openai(results: Sequence[ChatResult], model: str, created: int) -> TextCompletion:
    """The whole answer to /v1/completions, one result a prompt."""
    choices = [choice for result in results for choice in result.choices]
    return TextCompletion(
        choices=[
            TextChoice(text=choice.text or "", index=at, logprobs=_content(choice.logprobs), finish_reason=choice.finish_reason)
            for at, choice in enumerate(choices)
        ],
        created=created,
        model=model,
        usage=total_usage([result.usage for result in results]),
        id=random_id("chatcmpl-"),
        timings=results[-1].timings or UNSET,
    )


def _content(logprobs: Logprobs | None) -> ProbabilityContent | None:
    return ProbabilityContent(to_probabilities(logprobs)) if logprobs else None


class TextChunks:
    """The event serializer of /v1/completions."""

    def __init__(self, model: str, created: int, prompts: int, choices: int, *, progress: bool = False) -> None:
        """`prompts`: how many there are; `choices`: how many each of them has."""
        self._model, self._created, self._id = model, created, random_id("chatcmpl-")
        self._prompts, self._choices, self._with_progress = prompts, choices, progress
        self._started = False
        self._usages: list[Usage] = []

    def event(self, job: int, event: JobEvent) -> bytes:
        match event:
            case Progress(cache=int()) if self._with_progress and not self._started:
                chunk = self._chunk(job, 0, "")
                chunk.prompt_progress = PromptProgress.of(event)
                return sse_event(chunk)
            case Delta():
                return self._delta(job, event)
            case _:
                return b""

    def _delta(self, job: int, event: Delta) -> bytes:
        self._started = True
        text = event.delta.text or ""
        if not text and not event.logprobs:
            return b""
        chunk = self._chunk(job, event.index, text, event.logprobs)
        if event.timings and event.finish_reason is None:
            chunk.timings = event.timings
        return sse_event(chunk)

    def finish(self, job: int, result: ChatResult) -> bytes:
        """llama-server closes a text stream with a chunk that carries usage and timings whether asked or not."""
        self._usages.append(result.usage)
        piece = note_comment(result.note)
        for choice in result.choices:
            chunk = self._chunk(job, choice.index, "")
            chunk.choices[0].finish_reason = choice.finish_reason
            if len(self._usages) == self._prompts and choice is result.choices[-1]:
                chunk.usage = total_usage(self._usages)
                chunk.timings = result.timings or UNSET
            piece += sse_event(chunk)
        return piece

    def close(self) -> bytes:
        return DONE

    def error(self, error: BatchError) -> bytes:
        return sse_event(to_openai_error(error))

    def _chunk(self, job: int, index: int, text: str, logprobs: Logprobs | None = None) -> TextCompletion:
        choice = TextChoice(text=text, index=job * self._choices + index, logprobs=_content(logprobs))
        return TextCompletion(choices=[choice], created=self._created, model=self._model, id=self._id)
