"""One bulk job under way beside others: its choices one after the other, each in a sequence of its own."""

from __future__ import annotations

from batch.workers.chat.generation import Generation, Resources, Steps
from batch.workers.chat.kv.slot import Slot
from batch.workers.chat.output.result import ChoiceResult
from batch.workers.chat.steps import Step
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work


class BulkJob:
    """A job that the scheduler computes step by step. `close` gives its sequence back, whatever it was doing."""

    def __init__(self, resources: Resources, work: Work, task: TaskParams) -> None:
        self._resources = resources
        self.work = work
        self.task = task
        self.step: Step | None = None
        """What it needs computed next; None before `start` and after the last choice."""
        self.donor: BulkJob | None = None
        """Set before `start`: a job that is about to compute what both prompts begin with."""
        self._generation: Generation | None = None
        self._steps: Steps | None = None
        self.results: list[ChoiceResult] = []
        """Of the choices that are there."""

    @property
    def is_started(self) -> bool:
        """Whether it has a sequence."""
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

    def start(self) -> None:
        """Take a sequence and find out the first step."""
        self.donor = None
        self._begin_choice()

    def advance(self, row: int) -> None:
        """The step was computed; `row`: which logits of that decode are its own, or LOST. Raises what ends the job."""
        assert self._steps is not None
        try:
            self.step = self._steps.send(row)
        except StopIteration as end:
            self.results.append(end.value)
            if not self.is_done:
                self._begin_choice()
            else:
                self.step = None

    def make_text(self) -> None:
        """While the step is being computed: make the text of what was drawn before it. Raises what ends the job."""
        assert self._generation is not None
        self._generation.make_text()

    def close(self) -> None:
        """Give the sequence back."""
        if self._steps is not None:
            self._steps.close()

    def _begin_choice(self) -> None:
        generation = Generation(self._resources, self.work, self.task, len(self.results), is_bulk=True)
        self._generation, self._steps = generation, generation.steps()
        self.step = next(self._steps)
