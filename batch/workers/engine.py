"""What the worker's loop asks of an engine, and what it gives one: two small protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import msgspec

from batch.payloads.events import JobEvent, ProgressUnit
from batch.payloads.job_payload import Payload, Result
from batch.payloads.model_info import AnyModelInfo
from batch.payloads.questions import Answer, Question
from batch.queue.jobs import Job

if TYPE_CHECKING:
    from batch.queue.remote.prompt_prefix import HeldPrefixes

C = TypeVar("C", bound=msgspec.Struct)


class OwnWork(Protocol):
    """One job in the hands of an engine, by itself. Not thread-safe: used from the engine's thread only."""

    @property
    def job(self) -> Job: ...

    @property
    def payload(self) -> Payload:
        """What to do."""
        ...

    @property
    def is_watched(self) -> bool:
        """True while somebody listens: deltas to nobody need not be made."""
        ...

    def yield_point(self, done: float | None = None, total: float | None = None, unit: ProgressUnit = "tokens") -> int:
        """The yield point: call between two steps (a prompt slice, a token, a 30 s window, a batch of texts).

        Raises Cancelled when the job is to stop (let it pass through). Runs whatever is more urgent on this same
        engine, by calling `engine.run` again from inside, before it returns. Returns how many threads the next
        step may use, at least 1. Costs a few microseconds when nothing is up.
        """
        ...

    def emit(self, event: JobEvent) -> None:
        """Send an event to whoever waits for the job; dropped when nobody does. The worker fills in `event.job`."""
        ...

    def spool_path(self, sha256: str) -> Path:
        """Where the spool keeps these bytes."""
        ...

    def keep_result(self, data: bytes) -> str:
        """Put result bytes in the spool, tied to this job's row; returns their sha256."""
        ...

    def checkpoint(self, step: int, data: msgspec.Struct) -> None:
        """Write a finished step durably; a restart resumes behind it."""
        ...

    def checkpoints(self, type: type[C]) -> list[C]:
        """What earlier attempts wrote, in order of step."""
        ...


class Work(OwnWork, Protocol):
    """A job in the hands of an engine, and those that it takes along."""

    @property
    def wake_ups(self) -> int:
        """How often the worker has been told that something was queued or cancelled: while it stays the same, hardly a job
        can have come since the last that was claimed."""
        ...

    def claim_batch_mates(self, limit: int) -> list[Work]:
        """Take up to `limit` further jobs of the same task that wait in this queue, at this job's priority or above,
        to be done together with this one. Each must be ended with `finish` or `fail`."""
        ...

    def finish(self, result: Result) -> None:
        """End a batch mate; the worker itself ends the job that `run` returned a result for."""
        ...

    def finish_mates(self, results: Sequence[tuple[Work, Result]]) -> None:
        """End several of the jobs claimed with this one, itself among them or not, in one transaction."""
        ...

    def fail(self, error: Exception) -> None:
        """End a batch mate with an error."""
        ...

    def put_back(self) -> None:
        """Return a batch mate to its place in the line instead of ending it; the attempt is not counted."""
        ...


class Engine(Protocol):
    """One model, loaded once, one job at a time; `run` may be entered again from inside `Work.yield_point`."""

    has_short_steps: bool
    """Whether its steps take milliseconds, so that a waiting client's job need not be told of when it starts."""

    def load(self, report: Callable[[float], None]) -> AnyModelInfo:
        """Load the model, reporting progress 0..1; returns what is known of it.

        Raises ModelProblem with a sentence that names the file.
        """
        ...

    def run(self, work: Work) -> Result | None:
        """Do the job and return its result; None when the engine has ended the job itself, as it does batch mates.

        A BatchError fails the job with that error.
        """
        ...

    def ask(self, question: Question) -> Answer:
        """Answer a quick question that needs no turn; the answer's type is the question's in `ANSWER_TYPES`.

        Called from another thread while `run` may be busy: touch nothing that `run` changes. A BatchError goes back
        to who asked; NotSupported for a question that this engine cannot answer.
        """
        ...

    def settle(self) -> bool:
        """Called when no job has waited for a moment: do a few milliseconds' worth of what the next job would have to do
        first. Returns whether there is more."""
        ...

    def interrupt(self) -> None:
        """Called from another thread: stop the native call in flight as soon as it can be, then `Work.yield_point` or an
        exception ends the job. Harmless when nothing runs."""
        ...

    def follow_prefixes(self) -> Callable[[], HeldPrefixes] | None:
        """Called once the model is loaded, where workers share a queue: note from now on which prompts the prompt cache holds.
        Returns what reads that, from any thread, as of the last job; None where no prompts are kept."""
        ...

    def close(self) -> None:
        """Free the model; called once, from the engine's thread."""
        ...
