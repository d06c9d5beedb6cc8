"""The text of one choice: tokens become text, the parser splits it, stop strings end its content, deltas go out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from batch.payloads.chat import (
    AssistantMessage,
    ChatChoice,
    FinishReason,
    Logprobs,
    MessageDelta,
    PromptTokens,
    StopType,
    Timings,
    TokenLogprob,
)
from batch.payloads.events import Delta
from batch.workers.chat.dialects.stream_parser import StreamParser
from batch.workers.chat.output.detokenizer import Detokenizer
from batch.workers.chat.output.stop_strings import StopStrings
from batch.workers.chat.sampling.logprobs import ContentLogprobs
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work


class ChoiceText:
    """Collects one choice while it is generated, and emits what is new of it where somebody listens."""

    def __init__(self, work: Work, task: TaskParams, index: int, parser: StreamParser | None) -> None:
        """`parser`: None for a completion, whose text is content as it is."""
        self._work = work
        self._task = task
        self._index = index
        self._parser = parser
        prefilled = _message(parser) if parser else AssistantMessage()
        lengths = {"reasoning_content": len(prefilled.reasoning_content or ""), "content": len(prefilled.content or "")}
        self._prefill = {name: length for name, length in lengths.items() if length}
        self._detokenizer = Detokenizer()
        self._stops = StopStrings(task.stops)
        self._content: list[str] = []
        self._content_bytes = 0
        self._content_logprobs = ContentLogprobs() if task.logprobs >= 0 else None
        self._logprobs: list[TokenLogprob] = []
        self._emitted_tokens = 0
        self._prompt: PromptTokens | None = None
        self.thinking_n = 0
        """Tokens spent on thinking, its markers included."""
        self.is_at_line_feed = False
        """Whether the last token brought a line feed."""
        self.was_deliberating = False
        """Whether the last token was drawn inside the thinking, behind what opens it."""
        self.was_thinking = False
        """Whether the last token belongs to the thinking or its markers."""

    @property
    def stop_string(self) -> str | None:
        """The stop string that the content has run into."""
        return self._stops.matched

    def start(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The first token is about to come: the prompt's size goes out with a job's first delta."""
        if not self._index:
            self._prompt = PromptTokens(prompt_tokens, cached_tokens)
        if self._task.echo and self._work.is_watched:
            self._emit(MessageDelta(text=self._task.echo), [], None)

    def add_logprob(self, logprob: TokenLogprob, piece: bytes) -> None:
        """A token was drawn whose bytes `push` will get next."""
        if self._content_logprobs is not None:
            self._content_logprobs.add(logprob, piece)

    def push(self, piece: bytes, tokens: list[int], timings: Callable[[], Timings]) -> None:
        """The bytes of one more token: what is certain goes out. `tokens`: all of the choice's."""
        text = self._detokenizer.push(piece)
        self.is_at_line_feed = "\n" in text
        parser = self._parser
        if parser is None:
            deltas = self._text_deltas(self._show(text))
        else:
            was_thinking, self.was_deliberating = parser.thinking, parser.deliberating
            parsed = parser.feed(text) if text else []
            self.was_thinking = was_thinking or parser.thinking
            self.thinking_n += self.was_thinking
            deltas = self._filter(parsed) if parsed else []
        if deltas and self._work.is_watched:
            for delta in deltas:
                self._emit(delta, tokens, timings() if self._task.timings_per_token else None)

    def finish(self, stop_type: StopType, tokens: list[int], timings: Timings) -> ChatChoice:
        """The whole choice, once no more tokens come; its last deltas go out."""
        finish_reason: FinishReason = "length" if stop_type == "limit" else "stop"
        rest, parser = self._detokenizer.finish(), self._parser
        if parser is None:
            deltas = self._text_deltas(self._show(rest) + self._record_shown(self._stops.finish()))
        else:
            deltas = self._filter([*(parser.feed(rest) if rest else []), *parser.finish(finish_reason)])
            if rest_held_back := self._record_shown(self._stops.finish()):
                deltas.append(MessageDelta(content=rest_held_back))
            finish_reason = _finish_reason(parser, finish_reason)
        watched = self._work.is_watched
        for delta in deltas if watched else ():
            self._emit(delta, tokens, timings if self._task.timings_per_token else None)
        last_logprobs = self._take_logprobs(is_last=True)
        if watched:
            self._work.emit(
                Delta(
                    index=self._index,
                    finish_reason=finish_reason,
                    logprobs=Logprobs(last_logprobs, self._task.post_sampling_probs) if last_logprobs else None,
                    timings=timings,
                )
            )
        return ChatChoice(
            index=self._index,
            finish_reason=finish_reason,
            message=self._message(parser) if parser else None,
            text=None if parser else self._task.echo + "".join(self._content),
            tokens=[] if parser else list(tokens),
            logprobs=Logprobs(self._logprobs, self._task.post_sampling_probs) if self._content_logprobs is not None else None,
            prefill=self._prefill,
            stop_type=stop_type,
            stopping_word=self.stop_string or "",
        )

    def _show(self, text: str) -> str:
        """Content comes in; returns what of it may be shown now."""
        if self._content_logprobs is not None and text:
            self._content_logprobs.read(text, is_content=True)
        if self._task.is_thinking_in_content and self.was_thinking:
            # Stop strings are not looked for in thinking, also where that stays in the content.
            return self._record_shown(self._stops.finish() + text)
        return self._record_shown(self._stops.push(text))

    def _record_shown(self, text: str) -> str:
        if text:
            self._content.append(text)
            if self._content_logprobs is not None:
                self._content_bytes += len(text.encode("utf-8", "replace"))
        return text

    def _text_deltas(self, text: str) -> list[MessageDelta]:
        return [MessageDelta(text=text)] if text else []

    def _filter(self, parsed: Iterable[dict[str, Any]]) -> list[MessageDelta]:
        """What the parser has made of the text, as far as stop strings let it through."""
        passed: list[MessageDelta] = []
        for fields in parsed:
            if self._stops.matched is not None:
                break
            if len(fields) == 1 and "content" in fields:  # nearly every token
                if fields["content"] and (content_shown := self._show(fields["content"])):
                    passed.append(MessageDelta(content=content_shown))
                continue
            delta = msgspec.convert(fields, MessageDelta)
            if delta.content:
                content = self._show(delta.content)
                delta = msgspec.structs.replace(delta, content=content or None)
            if self._content_logprobs is not None and delta.reasoning_content:
                self._content_logprobs.read(delta.reasoning_content, is_content=False)
            if self._content_logprobs is not None and delta.tool_calls:
                self._content_logprobs.skip()
            if delta != _NOTHING_NEW:
                passed.append(delta)
        return passed

    def _message(self, parser: StreamParser) -> AssistantMessage:
        """The message, its content cut where a stop string stood."""
        message = _message(parser)
        if self.stop_string is None:
            return message
        content = (message.content or "")[: self._prefill.get("content", 0)] + "".join(self._content)
        return msgspec.structs.replace(message, content=content)

    def _emit(self, delta: MessageDelta, tokens: list[int], timings: Timings | None) -> None:
        logprobs = self._take_logprobs()
        new_tokens: list[int] = []
        if self._parser is None:
            new_tokens = tokens[self._emitted_tokens :]
            self._emitted_tokens = len(tokens)
        self._work.emit(
            Delta(
                index=self._index,
                delta=delta,
                logprobs=Logprobs(logprobs, self._task.post_sampling_probs) if logprobs else None,
                tokens=new_tokens,
                timings=timings,
                prompt=self._prompt,
            )
        )
        self._prompt = None

    def _take_logprobs(self, *, is_last: bool = False) -> list[TokenLogprob]:
        if self._content_logprobs is None:
            return []
        ready = self._content_logprobs.take(self._content_bytes, is_last=is_last)
        self._logprobs += ready
        return ready


_NOTHING_NEW = MessageDelta()


def _message(parser: StreamParser) -> AssistantMessage:
    return msgspec.convert(parser.message(), AssistantMessage)


def _finish_reason(parser: StreamParser, reason: FinishReason) -> FinishReason:
    return "tool_calls" if parser.finish_reason(reason) == "tool_calls" else reason
