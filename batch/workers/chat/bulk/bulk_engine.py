"""What those who compute bulk jobs together need of the engine: two small protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from batch.media.decoder.pixel_memory import Pixels
from batch.payloads.chat import ChatResult
from batch.workers.chat.bulk.job import BulkJob
from batch.workers.chat.output.result import ChoiceResult
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work


class JobPlanner(Protocol):
    """What makes a job's plan: from any thread where that reads the pictures itself."""

    def plan_job(self, work: Work, read_picture: Callable[[str], Pixels] | None = None) -> TaskParams:
        """What a job asks of the model; `read_picture` decodes a picture by its sha256, None: as the engine does in its own
        thread. Raises BatchError where the job cannot run."""
        ...


class BulkEngine(JobPlanner, Protocol):
    """What the scheduler needs to know of jobs: the engine."""

    def make_result(self, work: Work, task: TaskParams, results: Sequence[ChoiceResult]) -> ChatResult:
        """The result of a job whose choices are all there."""
        ...

    def fits_bulk(self, task: TaskParams) -> bool:
        """Whether a job can be computed together with others."""
        ...

    def run_alone(self, work: Work, task: TaskParams | BulkJob, pass_others: Callable[[], None] | None = None) -> ChatResult:
        """Compute a job by itself: all of it, or the rest of one that others were computed with so far. `pass_others` is called
        at each of its yield points."""
        ...
