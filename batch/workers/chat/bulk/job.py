"""One bulk job under way beside others: its choices one after the other, each in a sequence of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from batch.workers.chat.generation import Generation, Resources, Steps
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.output.result import ChoiceResult
from batch.workers.chat.step_runner import StepRunner
from batch.workers.chat.steps import LOST, DecodeImage, NextToken, Step
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work
from batch.workers.llama.context import Logits, Rows

MIN_SHARED_TOKENS = 64
"""A job waits for another that has yet to compute so many tokens that both prompts begin with,"""
MIN_SHARED_SLICE_SHARE = 4
"""or, where the model is slow, one in so many of a slice's."""


class BulkJob:
    """A job that is computed step by step. `close` gives its sequence back, whatever it was doing."""

    def __init__(self, resources: Resources, work: Work, task: TaskParams) -> None:
        self._resources = resources
        self.work = work
        self.task = task
        self.step: Step | None = None
        """What it needs computed next; None before `start`, which each choice needs, and after the last choice."""
        self.donor: BulkJob | None = None
        """Set before `start`: a job that is about to compute what both prompts begin with."""
        self._generation: Generation | None = None
        self._steps: Steps | None = None
        self.results: list[ChoiceResult] = []
        """Of the choices that are there."""

    @property
    def is_started(self) -> bool:
        """Whether it is computing a choice."""
        return self._generation is not None

    @property
    def is_done(self) -> bool:
        """Whether all its choices are there."""
        return len(self.results) == self.task.n

    @property
    def slot(self) -> Slot:
        """Its sequence, once it is started."""
        assert self._generation is not None and self._generation.slot is not None
        return self._generation.slot

    @property
    def progress(self) -> tuple[int, int | None]:
        """How far it is, in tokens, and of how many."""
        return (self._generation.done, self._generation.total) if self._generation else (0, None)

    @property
    def shareable_picture(self) -> tuple[Rows, int, int] | None:
        """What it needs computed next, as (rows, position, sequence), if that is an encoded picture that may go into the KV in
        one decode with others."""
        if not isinstance(self.step, DecodeImage) or (rows := self.step.chunk.shareable_rows) is None:
            return None
        return rows, self.step.position, self.slot.seq

    def choose_donor(self, jobs: Iterable[BulkJob]) -> None:
        """Before `start`: wait as long as another of the jobs is on its way to where the two prompts part."""
        self.donor = None
        least = min(MIN_SHARED_TOKENS, self._resources.bulk_slice_tokens // MIN_SHARED_SLICE_SHARE)
        for other in jobs:
            if other is self or not other.is_started or other.is_done:
                continue
            slot = other.slot
            if len(slot.tokens) >= len(other.task.prompt):
                continue  # all that both can have in common stands there already
            common = self.task.prompt.common_prefix(other.task.prompt)
            common = min(common, len(self.task.prompt) - 1)
            # What stands there already can be shared now: a few tokens more are not worth waiting for, one after the other.
            if common - len(slot.tokens) >= least and self.task.cache_prompt:
                self.donor = other
                if common not in slot.checkpoint_at:
                    slot.checkpoint_at = sorted([*slot.checkpoint_at, common])
                return

    def start(self) -> None:
        """Begin the next choice: take a sequence and find out the first step."""
        self.donor = None
        generation = Generation(self._resources, self.work, self.task, len(self.results), is_bulk=True)
        self._generation, self._steps = generation, generation.steps()
        self.step = next(self._steps)

    def advance(self, row: int) -> None:
        """The step was computed; `row`: which logits of that decode are its own, or LOST. Raises what ends the job."""
        assert self._steps is not None
        try:
            self.step = self._steps.send(row)
        except StopIteration as end:
            self.results.append(end.value)
            self.step = None
            if not self.is_done:
                # Not begun here, as other jobs may yet have to read their logits of the same decode.
                self._generation = self._steps = None

    @property
    def has_outgrown(self) -> bool:
        """Whether its context has no room for its next token."""
        context = self._resources.context
        return context.has_own_kv and isinstance(self.step, NextToken) and len(self.slot.tokens) >= context.n_ctx

    def leave(self) -> None:
        """Give the sequence back until `finish_alone`, to which what stands there is of no use."""
        assert self._generation is not None
        self._generation.leave()

    def finish_alone(self, resources: Resources, runner: StepRunner, pass_others: Callable[[], None] | None) -> None:
        """Go on in another context, where its sequence is filled first, to its end, and close it; raises what ends it.
        `pass_others` is called at each of its yield points."""
        assert self._generation is not None

        def pass_yield_point() -> None:
            runner.pass_yield_point(self.work, self.slot, *self.progress, pass_others)

        try:
            self._resources = resources
            self._generation.move(resources)
            self.advance(LOST)
            while not self.is_done:
                if not self.is_started:
                    self.start()
                assert self.step is not None
                pass_yield_point()
                self.advance(runner.compute(self.step, self.slot, pass_yield_point))
        finally:
            self.close()

    def make_text(self) -> None:
        """While the step is being computed: make the text of what was drawn before it. Raises what ends the job."""
        assert self._generation is not None
        self._generation.make_text()

    @property
    def draws_freely(self) -> bool:
        """Whether its next token depends on the logits alone."""
        return self._generation is not None and self._generation.draws_freely

    def find_token(self, logits: Logits) -> None:
        """From any thread, before `advance`: find what the next token is drawn from."""
        assert self._generation is not None
        self._generation.find_token(logits)

    def close(self) -> None:
        """Give the sequence back."""
        if self._steps is not None:
            self._steps.close()
