"""One choice of a job: the prompt goes into the KV, tokens come out one by one, text and deltas follow."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from batch.errors import BatchError
from batch.workers.chat import repetition_guard as repetition
from batch.workers.chat.constrained_decoding import Steering
from batch.workers.chat.detokenizer import TextStream
from batch.workers.chat.logprobs import entry
from batch.workers.chat.prompt_cache import PromptCache, Slot
from batch.workers.chat.result import Outcome, timings
from batch.workers.chat.sampler import Sampler
from batch.workers.chat.task_params import Plan
from batch.workers.chat.token_sequence import Cells
from batch.workers.chat.vision import Vision
from batch.workers.llama.context import ABORTED, DECODED, NO_ROOM, Context
from batch.workers.llama.library import last_error
from batch.workers.llama.model import Model
from batch.workers.untyped_engine import UntypedWork as Work


@dataclass(slots=True)
class Resources:
    """What every generation shares."""

    model: Model
    context: Context
    cache: PromptCache
    vision: Vision | None
    slice: int
    """Most prompt tokens between two units."""
    patient_slice: int
    """The same for bulk work, which others may overtake."""


class Generation:
    """Runs one choice. `run` may be left by any exception; the slot is given back either way."""

    def __init__(self, resources: Resources, work: Work, plan: Plan, index: int, *, patient: bool) -> None:
        """`patient`: the job is bulk work, so its prompt goes in by small slices that others can come between."""
        self._model = resources.model
        self._context = resources.context
        self._cache = resources.cache
        self._vision = resources.vision
        self._slice = resources.patient_slice if patient else resources.slice
        self._work = work
        self._plan = plan
        self._index = index
        self._parser = plan.parser() if plan.parser else None
        begun = self._parser.message() if self._parser else {}
        self._given = {field: len(begun[field]) for field in ("reasoning_content", "content") if begun.get(field)}
        self._stream = TextStream(plan.stops)
        self._text: list[str] = []
        self._entries: list[dict[str, Any]] = []
        self._untold: list[dict[str, Any]] = []
        self._tokens: list[int] = []
        self._told = 0
        self._silent = True
        self._timed = plan.time_limit < math.inf
        self._lines = False
        self._steering = Steering(self._model, plan, self._parser)
        self._thinking_n = 0
        self._prompt_ms = 0.0
        self._begun = 0.0
        self._cached = 0

    def run(self) -> Outcome:
        plan = self._plan
        seed = plan.sampling.seed
        sampling = replace(plan.sampling, seed=seed + self._index) if seed >= 0 else plan.sampling
        sampler = Sampler(self._model, sampling, bias=plan.bias)
        slot, self._cached = self._cache.acquire(plan.prompt, reuse=plan.cache_prompt)
        try:
            start = time.perf_counter()
            self._prefill(slot, start)
            if sampler.memory:
                sampler.accept(plan.prompt.tokens(sampler.memory))
            self._begun = time.perf_counter()
            self._prompt_ms = (self._begun - start) * 1e3
            self._steering.begin()
            if plan.echo and self._work.watched:
                self._tell({"text": plan.echo}, 0)
            stop, word, note = self._generate(slot, sampler)
            ended = time.perf_counter()
        finally:
            sampler.close()
            self._steering.close()
            self._cache.release(slot)
        return self._outcome(stop, word, note, (ended - self._begun) * 1e3)

    # -- the prompt

    def _prefill(self, slot: Slot, start: float) -> None:
        prompt = self._plan.prompt
        total = len(prompt)
        pause = self._cache.checkpoint_at(len(slot.cells), prompt)
        while len(slot.cells) < total:
            self._unit(slot, len(slot.cells), total)
            self._advance(slot, prompt, pause)
            if len(slot.cells) == pause:
                self._cache.checkpoint(slot)
            if self._plan.progress:
                self._work.emit(
                    {
                        "type": "progress",
                        "done": len(slot.cells),
                        "total": total,
                        "unit": "tokens",
                        "cache": self._cached,
                        "time_ms": int((time.perf_counter() - start) * 1e3),
                    }
                )

    def _advance(self, slot: Slot, cells: Cells, pause: int | None = None) -> None:
        """Put the next slice of text or the next picture into the KV, stopping at `pause`."""
        at = len(slot.cells)
        position = self._position(slot)
        chunk = cells.chunk_at(at)
        if chunk is not None:
            assert self._vision is not None
            if chunk.embedding is None:
                self._vision.encode(chunk)
                self._unit(slot, at, len(cells))
            self._decode(slot, partial(self._vision.decode, chunk, self._context, position, slot.seq))
            slot.cells.add_chunk(chunk.layout())
            return
        end = min(cells.text_end(at), at + self._slice)
        if pause is not None and at < pause:
            end = min(end, pause)
        ids = cells.ids[at:end]
        self._decode(slot, partial(self._context.decode_tokens, ids, position, slot.seq, output=end == len(cells)))
        slot.cells.add(ids)

    def _position(self, slot: Slot) -> int:
        return slot.cells.position(len(slot.cells))

    def _unit(self, slot: Slot, done: int, total: int | None) -> None:
        self._context.set_threads(self._work.unit(done, total))
        if slot.parked is not None:
            self._cache.unpark(slot)

    def _decode(self, slot: Slot, attempt: Callable[[], int]) -> None:
        """Try until it is in the KV, making room or letting a cancellation through as needed."""
        while (status := attempt()) != DECODED:
            if status == ABORTED:
                # What the broken-off call left behind goes; if nobody wanted this job gone, it tries again.
                self._context.clear_abort()
                if not self._context.forget(slot.seq, self._position(slot)) or self._cache.broken(slot):
                    self._rebuild(slot)
                self._unit(slot, len(slot.cells), None)
            elif status != NO_ROOM:
                raise BatchError(f"llama.cpp could not compute this request ({last_error() or f'code {status}'}).")
            elif not self._cache.make_room(slot):
                raise BatchError("There is no room left in the model's context: set a larger vlm.context.")

    def _rebuild(self, slot: Slot) -> None:
        """Compute everything so far once more."""
        cells = self._plan.prompt.copy()
        cells.add(self._tokens)
        cells.cut(len(slot.cells))
        self._cache.empty(slot)
        while len(slot.cells) < len(cells):
            self._unit(slot, len(slot.cells), len(cells))
            self._advance(slot, cells)

    # -- the answer

    def _generate(self, slot: Slot, sampler: Sampler) -> tuple[str, str, str]:
        """Draw tokens to the end: (eos | word | limit, the stop string, a note)."""
        plan, model, context, work = self._plan, self._model, self._context, self._work
        step, unit, sample, steering = context.decode_token, work.unit, sampler.sample, self._steering
        ends, tokens, seq = model.end_tokens, self._tokens, slot.seq
        cells, shown = slot.cells.ids, plan.shown
        position = self._position(slot)
        room = context.n_ctx - len(slot.cells)
        limit = min(plan.max_tokens, room) if plan.max_tokens >= 0 else room
        if limit <= 0:
            return "limit", "", ""
        guard = repetition.EVERY if plan.guard else 0
        deadline = self._begun + plan.time_limit
        n, note = 0, ""
        while True:
            token = steering.draw(sampler, context) if steering.bound else sample(context)
            if token is None:
                return "eos", "", "the grammar allowed nothing more"
            n += 1
            tokens.append(token)
            if plan.logprobs >= 0:
                self._untold.append(entry(model, context.logits(model.n_vocab), token, plan.logprobs))
            if token in ends:
                return "eos", "", note
            self._push(model.piece(token, special=token in shown), n)
            if self._stream.stopped is not None:
                self._hide(self._stream.stopped)
                return "word", self._stream.stopped, note
            if n >= limit or (self._lines and time.perf_counter() > deadline):
                return "limit", "", note
            if guard and n % guard == 0 and repetition.collapsed(tokens):
                note = "stopped a repetition"
                more = steering.collapsed()
                if more is None:
                    return "eos", "", note
                if more:
                    limit = min(limit, n + more)
            threads = unit(n, limit if plan.max_tokens >= 0 else None)
            if threads != context.threads:
                context.set_threads(threads)
            if slot.parked is not None:
                self._cache.unpark(slot)
            if step(token, position, seq) != DECODED:
                self._decode(slot, partial(step, token, position, seq))
            cells.append(token)
            position += 1

    def _push(self, piece: bytes, n: int) -> None:
        """A token's bytes go out as far as they are sure."""
        text = self._stream.push(piece)
        # llama-server's rule: out of time, a generation ends at a line feed.
        self._lines = self._timed and "\n" in text
        parser = self._parser
        if parser is None:
            self._text.append(text)
            if text and self._work.watched:
                self._tell({"text": text}, n)
            return
        before, steering = parser.thinking, self._steering
        if steering.budget > 0:
            steering.budget -= parser.deliberating
        deltas = parser.feed(text) if text else []
        if before or parser.thinking:
            self._thinking_n += 1
            if steering.budget == 0:
                steering.end_thinking()
        elif steering.waits and parser.called is not None:
            steering.begin(parser.called)
        if deltas and self._work.watched:
            for delta in deltas:
                self._tell(delta, n)

    def _hide(self, word: str) -> None:
        """Tokens that lie wholly within the stop string or behind it are not told."""
        tail, stop = b"", word.encode("utf-8", "replace")
        for token in reversed(self._tokens[len(self._tokens) - len(self._untold) :]):
            tail = self._model.piece(token, special=token in self._plan.shown) + tail
            if stop in tail and not tail.startswith(stop):
                return
            self._untold.pop()
            if stop in tail:
                return

    def _tell(self, delta: dict[str, Any], n: int) -> None:
        event: dict[str, Any] = {"type": "delta", "index": self._index, "delta": delta}
        if self._silent and not self._index:
            event["prompt"] = {"tokens": len(self._plan.prompt), "cached": self._cached}
        self._silent = False
        if self._untold:
            event["logprobs"] = {"content": self._untold}
            self._entries += self._untold
            self._untold = []
        if self._plan.timings_per_token:
            event["timings"] = self._timings(n)
        if self._parser is None:
            event["tokens"] = self._tokens[self._told : n]
            self._told = n
        self._work.emit(event)

    def _timings(self, n: int) -> dict[str, Any]:
        ms = (time.perf_counter() - self._begun) * 1e3
        return timings(self._cached, len(self._plan.prompt) - self._cached, self._prompt_ms, n, ms)

    # -- the end

    def _outcome(self, stop: str, word: str, note: str, ms: float) -> Outcome:
        n = len(self._tokens)
        reason = "length" if stop == "limit" else "stop"
        rest = self._stream.finish()
        choice: dict[str, Any] = {"index": self._index}
        if self._parser is None:
            self._text.append(rest)
            last = [{"text": rest}] if rest else []
            choice["text"] = self._plan.echo + "".join(self._text)
        else:
            last = (self._parser.feed(rest) if rest else []) + self._parser.finish(reason)
            choice["message"] = self._parser.message()
            if self._given:
                choice["given"] = self._given
            reason = self._parser.finish_reason(reason)
            if reason == "length" and not choice["message"]["content"] and not choice["message"].get("tool_calls"):
                note = note or ("all of max_tokens went into thinking" if self._thinking_n else "")
        choice.update(finish_reason=reason, stop_type=stop, stopping_word=word)
        if self._parser is None:
            choice["tokens"] = list(self._tokens)
        watched = self._work.watched
        for delta in last if watched else ():
            self._tell(delta, n)
        self._entries += self._untold
        if self._plan.logprobs >= 0:
            choice["logprobs"] = {"content": self._entries}
        made = Outcome(
            choice, self._cached, len(self._plan.prompt) - self._cached, self._prompt_ms, n, ms, self._thinking_n, note
        )
        if watched:
            event: dict[str, Any] = {"type": "delta", "index": self._index, "delta": {}, "finish_reason": reason}
            if self._untold:
                event["logprobs"] = {"content": self._untold}
            self._work.emit({**event, "timings": made.timings})
        return made
