"""Runs one generation: every step is one native call, and before each lies the job's yield point."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

from batch.errors import BatchError
from batch.workers.chat.generation import Generation, Resources
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.output.result import ChoiceResult
from batch.workers.chat.steps import LOST, DecodeImage, EncodeImage, NextToken, PromptSlice, Step
from batch.workers.engine import Work
from batch.workers.llama.context import ABORTED, DECODED, NO_ROOM
from batch.workers.llama.library import clear_errors, last_error

_LAST_ROW = -1
"""With one sequence in a decode, the logits wanted are always the last ones."""
MAX_ABORTS = 3
"""A step that was broken off so often is computed to its end: nothing is begun for ever."""


class StepRunner:
    """Computes the steps of one generation at a time."""

    def __init__(self, resources: Resources) -> None:
        self._context = resources.context
        self._cache = resources.cache
        self._vision = resources.vision

    def run(self, generation: Generation, work: Work, pass_others: Callable[[], None] | None = None) -> ChoiceResult:
        """Compute a generation to its end; `pass_others` is called at each of its yield points. Whatever exception ends it, its
        sequence is given back."""
        steps = generation.steps()
        try:
            step = next(steps)
            slot = generation.slot
            assert slot is not None
            yield_point = partial(self._yield, generation, slot, work, pass_others)
            while True:
                yield_point()
                step = steps.send(self.compute(step, slot, yield_point))
        except StopIteration as end:
            result: ChoiceResult = end.value
            return result
        finally:
            steps.close()

    def _yield(self, generation: Generation, slot: Slot, work: Work, pass_others: Callable[[], None] | None) -> None:
        self.pass_yield_point(work, slot, generation.done, generation.total, pass_others)

    def pass_yield_point(
        self, work: Work, slot: Slot, done: int, total: int | None, pass_others: Callable[[], None] | None
    ) -> None:
        """A job's yield point, and that of those that wait for it, behind which its sequence is in place again."""
        self._context.set_threads(work.yield_point(done, total))
        if pass_others is not None:
            pass_others()
        if slot.parked is not None:
            self._cache.unpark(slot)

    def compute(self, step: Step, slot: Slot, yield_point: Callable[[], None]) -> int:
        """One step until it is done, making room as needed; returns what to send to the generation.

        `yield_point` is called where a step was aborted, and inside the encoding of a picture; what it raises, and
        BatchError, end the job.
        """
        aborts = 0
        while True:
            clear_errors()
            with self._context.undisturbed() if aborts >= MAX_ABORTS else nullcontext():
                status = self._call(step, slot, yield_point)
            if status == DECODED:
                return _LAST_ROW
            if status == ABORTED:
                aborts += 1
                self._context.clear_abort()
                is_lost = self.undo(slot)
                yield_point()  # if nobody wanted this job gone, it tries again
                if slot.parked is not None:
                    self._cache.unpark(slot)  # a more urgent job, which came in between, took its room
                if is_lost:
                    return LOST
            elif status != NO_ROOM:
                raise BatchError(f"llama.cpp could not compute this request ({last_error() or f'code {status}'}).")
            elif not self._cache.make_room(slot):
                raise BatchError("There is no room left in the model's context: set a larger vlm.context.")

    def _call(self, step: Step, slot: Slot, yield_point: Callable[[], None]) -> int:
        if slot.unsaved:
            self._cache.prepare(slot, step.n_tokens)
        match step:
            case NextToken():
                return self._context.decode_token(step.token, step.position, slot.seq)
            case PromptSlice():
                return self._context.decode_tokens(step.tokens, step.position, slot.seq, output=step.needs_logits)
            case EncodeImage():
                assert self._vision is not None
                self._vision.encode_chunk(step.chunk, yield_point)
                return DECODED
            case DecodeImage():
                assert self._vision is not None
                return self._vision.decode_chunk(step.chunk, self._context, step.position, slot.seq)

    def undo(self, slot: Slot) -> bool:
        """Remove what an aborted decode left in a sequence; returns whether more was lost, and the sequence is empty now."""
        if self._context.forget(slot.seq, slot.tokens.position(len(slot.tokens))) and not self._cache.has_lost_window(slot):
            return False
        self._cache.reset(slot)
        return True
