"""One choice of a job as a series of steps: the prompt goes into the KV, tokens come out, text and deltas follow."""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass

import msgspec

from batch.payloads.chat import StopType, Timings
from batch.payloads.events import Progress
from batch.workers.chat.dialects.stream_parser import StreamParser
from batch.workers.chat.images.picture_reader import PictureReader
from batch.workers.chat.images.vision import Vision
from batch.workers.chat.kv.prompt_cache import PromptCache
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.kv.token_sequence import TokenSequence
from batch.workers.chat.output.choice_text import ChoiceText
from batch.workers.chat.output.result import ChoiceResult, make_timings
from batch.workers.chat.sampling.constrained_decoding import ConstrainedDecoding
from batch.workers.chat.sampling.logprobs import make_token_logprob, token_logprob
from batch.workers.chat.sampling.repetition_guard import CHECK_INTERVAL_TOKENS, has_collapsed
from batch.workers.chat.sampling.sampler import Sampler
from batch.workers.chat.steps import LOST, DecodeImage, EncodeImage, NextToken, PromptSlice, Step
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work
from batch.workers.llama.context import Context, Logits
from batch.workers.llama.model import Model

Steps = Generator[Step, int, ChoiceResult]
"""Yields what to compute; is sent the row of the last decode whose logits are its own, or LOST."""


@dataclass(slots=True)
class Resources:
    """What all generations share."""

    model: Model
    context: Context
    cache: PromptCache
    vision: Vision | None
    slice_tokens: int
    """Most prompt tokens in one step."""
    bulk_slice_tokens: int
    """The same for bulk jobs, which others may overtake."""
    checkpoint_interval: int
    """There is a checkpoint at the end of a prompt's slice once so many tokens have come since the last one."""
    mixed_prompt_tokens: int = 0
    """Most prompt tokens of bulk jobs in a decode that they share with each other and with tokens; 0: each slice is computed
    alone, as it is where a job's numbers then do not depend on its company."""
    joint_prompt_tokens: int = 0
    """Most prompt tokens of several bulk jobs in a decode without generated tokens, where those share none with prompts."""
    most_tokens: int = 0
    """Of a prompt and its answer; 0: as many as the context has room for. A job that has more than its context holds goes on in
    another one."""
    joint_multiple: int = 1
    """Of what number of tokens a slice is a multiple behind which there is another one's in such a decode."""
    joint_picture_tokens: int = 0
    """Most tokens of several bulk jobs' pictures in a decode; 0: each picture is computed alone."""
    decodes_ahead: bool = False
    """Whether bulk jobs have a token decoded before its text is made, as a GPU computes while the text is; where the text
    then ends the answer, that decode was for nothing."""
    encodes_ahead: bool = False
    """Whether pictures of bulk jobs are encoded in a thread while others are described; else between their steps."""
    pictures: PictureReader | None = None
    """Decodes the pictures of jobs that are planned in the engine's thread."""


class Generation:
    """Computes one choice, step by step. Closing the generator of `steps` gives everything back, at any step."""

    def __init__(self, resources: Resources, work: Work, task: TaskParams, index: int, *, is_bulk: bool) -> None:
        """`is_bulk`: its prompt goes in by small slices, which more urgent jobs can come between."""
        self._model = resources.model
        self._context = resources.context
        self._cache = resources.cache
        self._resources = resources
        self._slice_tokens = resources.bulk_slice_tokens if is_bulk else resources.slice_tokens
        self._work = work
        self._task = task
        self._index = index
        self._is_bulk = is_bulk
        parser = task.parser() if task.parser else None
        self._text = ChoiceText(work, task, index, parser)
        self._constrained = ConstrainedDecoding(
            self._model,
            task.constraint,
            task.matcher,
            parser,
            thinking_budget=task.thinking_budget,
            end_of_thinking=task.end_of_thinking,
        )
        self._parser = parser
        self._tokens: list[int] = []
        self._has_pending_text = False
        """Whether the last token is being decoded and its text is yet to be made."""
        self._end: tuple[StopType, str] | None = None
        """What the text of the last token ended the answer with."""
        self._limit = 0
        """Most tokens of the answer."""
        self._note = ""
        self._prompt_started = 0.0
        self._started = 0.0
        self._cached_n = 0
        self._sampler: Sampler | None = None
        self.slot: Slot | None = None
        """Its sequence, from the first step on; another one behind `move`; None once it is given back."""
        self.done = 0
        """How far the prompt, then the answer is, in tokens: what the next yield point reports."""
        self.total: int | None = None

    def steps(self) -> Steps:
        """The steps to the end, and then the result."""
        task = self._task
        seed = task.sampling.seed
        sampling = msgspec.structs.replace(task.sampling, seed=seed + self._index) if seed >= 0 else task.sampling
        self._sampler = sampler = Sampler(self._model, self._context, sampling, bias=task.bias)
        try:
            slot, self._cached_n = self._cache.acquire(task.prompt, reuse=task.cache_prompt, is_bulk=self._is_bulk)
            self.slot = slot
            try:
                self._prompt_started = time.perf_counter()
                if task.return_progress:
                    self._emit_progress(slot)
                row = yield from self._fill(slot, task.prompt, task.return_progress)
                slot.prefixes = task.prefixes
                if sampler.memory_tokens:
                    sampler.accept(task.prompt.last_text_tokens(sampler.memory_tokens))
                self._started = time.perf_counter()
                self._constrained.start()
                self._text.start(len(task.prompt), self._cached_n)
                stop_type, note = yield from self._generate(slot, sampler, row)
                timings = self._timings()
            finally:
                self.leave()
        finally:
            sampler.close()
        return self._finish(stop_type, note, timings)

    # -- the prompt

    def _fill(self, slot: Slot, target: TokenSequence, reports: bool = False) -> Generator[Step, int, int]:
        """Bring the slot up to all of `target`; returns the row of the logits behind its last token."""
        row = -1
        while (at := len(slot.tokens)) < len(target):
            self.done, self.total = at, len(target)
            position = slot.tokens.position(at)
            chunk = target.chunk_at(at)
            if chunk is not None:
                if not chunk.is_encoded:
                    yield EncodeImage(chunk)
                if (yield DecodeImage(chunk, position)) == LOST:
                    continue
                slot.tokens.append_chunk(chunk.layout())
            else:
                end = self._cache.slice_end(slot, at, target.text_end(at), self._slice_tokens, len(target))
                step = PromptSlice(target.ids[at:end], position, end == len(target))
                row = yield step
                if row == LOST:
                    continue
                slot.tokens.append_tokens(step.tokens)
            self._cache.follow(slot, at, self._resources.checkpoint_interval)
            if reports:
                self._emit_progress(slot)
        return row

    def _emit_progress(self, slot: Slot) -> None:
        elapsed = time.perf_counter() - self._prompt_started
        self._work.emit(
            Progress(done=len(slot.tokens), total=len(self._task.prompt), cache=self._cached_n, time_ms=int(elapsed * 1e3))
        )

    # -- the answer

    def _generate(self, slot: Slot, sampler: Sampler, row: int) -> Generator[Step, int, tuple[StopType, str]]:
        """Draw tokens to the end; returns what ended them, and a note."""
        task, tokens = self._task, self._tokens
        end_tokens, ids = self._model.end_tokens, slot.tokens.ids
        step = NextToken(0, slot.tokens.position(len(slot.tokens)))
        room = (self._resources.most_tokens or self._context.n_ctx) - len(slot.tokens)
        self._limit = min(task.max_tokens, room) if task.max_tokens >= 0 else room
        if self._limit <= 0:
            return "limit", ""
        self.total = self._limit if task.max_tokens >= 0 else None
        decodes_ahead = self._is_bulk and self._resources.decodes_ahead
        while True:
            token = self._draw(sampler, row)
            if token is None:
                return "eos", "the grammar allowed nothing more"
            tokens.append(token)
            if token in end_tokens:
                return "eos", self._note
            n = len(tokens)
            self._has_pending_text = True
            if not decodes_ahead or n >= self._limit:
                self.make_text()
                if self._end is not None:
                    return self._end
            self.done = n
            step.token = token
            row = yield step
            while row == LOST:
                assert self.slot is not None
                slot = self.slot
                yield from self._fill(slot, self._decoded())
                ids = slot.tokens.ids
                self.done, self.total = n, self._limit if task.max_tokens >= 0 else None
                row = yield step
            ids.append(token)
            step.position += 1
            if decodes_ahead:
                self.make_text()
                if self._end is not None:
                    return self._end

    def _decoded(self) -> TokenSequence:
        """The prompt and the answer, but for the token that is being decoded."""
        tokens = self._task.prompt.copy()
        tokens.append_tokens(self._tokens[:-1])
        return tokens

    def leave(self) -> None:
        """Give the sequence back, if it has one."""
        slot, self.slot = self.slot, None
        if slot is not None:
            self._cache.release(slot)

    def move(self, resources: Resources) -> None:
        """Behind a token that its context has no room for: go on in another one, where LOST has to be sent next, as what was
        computed is computed again there."""
        assert self._sampler is not None
        self.leave()
        self.slot, _ = resources.cache.acquire(self._decoded(), reuse=self._task.cache_prompt, is_bulk=self._is_bulk)
        self._resources, self._context, self._cache = resources, resources.context, resources.cache
        self._sampler.context = resources.context

    def make_text(self) -> None:
        """Make the text of the last token, unless that was done; what is certain of it goes out.

        Called while that token is being decoded, where tokens are decoded ahead."""
        if not self._has_pending_text:
            return
        self._has_pending_text = False
        task, text, tokens = self._task, self._text, self._tokens
        token, n = tokens[-1], len(tokens)
        text.push(self._model.piece(token, special=token in task.shown_tokens), tokens, self._timings)
        if self._parser is not None:
            self._follow_thinking(self._parser)
        is_late = task.time_limit_s < math.inf and text.is_at_line_feed
        if text.stop_string is not None:
            self._end = "word", self._note
        elif n >= self._limit or (is_late and time.perf_counter() > self._started + task.time_limit_s):
            self._end = "limit", self._note
        elif task.stop_repetition and n % CHECK_INTERVAL_TOKENS == 0 and has_collapsed(tokens):
            self._note = "stopped a repetition"
            more = self._constrained.close_repetition()
            if more is None:
                self._end = "eos", self._note
            elif more:
                self._limit = min(self._limit, n + more)

    @property
    def draws_freely(self) -> bool:
        """Whether no grammar weighs on the next token, and nobody wants to know the others' probabilities."""
        return self._sampler is not None and not self._constrained.is_active and self._task.logprobs < 0

    def find_token(self, logits: Logits) -> None:
        """From any thread: find what the next token, which these logits decide on, is drawn from."""
        assert self._sampler is not None
        self._sampler.find(logits)

    def _draw(self, sampler: Sampler, row: int) -> int | None:
        task, is_constrained = self._task, self._constrained.is_active
        if task.logprobs >= 0 and task.post_sampling_probs and not is_constrained:
            drawn, probability, likeliest = sampler.sample_with_probabilities(row, task.logprobs)
            logs = [(other, math.log(p)) for other, p in likeliest]
            logprob = make_token_logprob(self._model, drawn, math.log(probability), logs)
            self._text.add_logprob(logprob, self._model.piece(drawn, special=drawn in task.shown_tokens))
            return drawn
        token = self._constrained.draw(sampler, row) if is_constrained else sampler.sample(row)
        if task.logprobs >= 0 and token is not None and token not in self._model.end_tokens:
            logprob = token_logprob(self._model, self._context.logits(row), token, task.logprobs)
            self._text.add_logprob(logprob, self._model.piece(token, special=token in task.shown_tokens))
        return token

    def _follow_thinking(self, parser: StreamParser) -> None:
        """Let the constraint and the budget follow what the last token made of the answer."""
        text, constrained = self._text, self._constrained
        if constrained.remaining_thinking > 0:
            constrained.remaining_thinking -= text.was_deliberating
        if text.was_thinking:
            if constrained.remaining_thinking == 0:
                constrained.end_thinking()
        elif constrained.awaits_trigger and parser.called is not None:
            constrained.start(parser.called)

    def _timings(self) -> Timings:
        """Timings so far."""
        predicted_ms = (time.perf_counter() - self._started) * 1e3
        prompt_n = len(self._task.prompt) - self._cached_n
        prompt_ms = (self._started - self._prompt_started) * 1e3
        return make_timings(self._cached_n, prompt_n, prompt_ms, len(self._tokens), predicted_ms)

    def _finish(self, stop_type: StopType, note: str, timings: Timings) -> ChoiceResult:
        choice = self._text.finish(stop_type, self._tokens, timings)
        message, thinking_n = choice.message, self._text.thinking_n
        if choice.finish_reason == "length" and message is not None and not message.content and not message.tool_calls:
            note = note or ("all of max_tokens went into thinking" if thinking_n else "")
        return ChoiceResult(choice, timings, thinking_n, note)
