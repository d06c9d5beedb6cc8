"""Bulk jobs that are claimed and not yet among those computed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from batch.workers.chat.bulk.bulk_engine import JobPlanner
from batch.workers.chat.bulk.preparation import Preparation, PreparationThread
from batch.workers.chat.generation import Resources
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work

PICTURES_AHEAD = 2
"""Jobs with pictures that are claimed beyond those computed together, so that their pictures are encoded once a place is free.
More would only hold embeddings: a picture's take some megabytes."""
PLANS_AHEAD_SHARE = 2
"""One job for each so many computed together is claimed beyond them where a GPU would stand still while prompts are made."""
CLAIM_INTERVAL_S = 0.25
"""Between two looks for further jobs while there is room for more, for want of a wake-up, which makes the next one due."""
WAIT_S = 0.002
"""Between two passes of the yield points while nothing can be computed before a picture is encoded."""


class ClaimedJobs:
    """They wait for a place, or for their pictures, which the thread encodes meanwhile."""

    def __init__(self, planner: JobPlanner, preparations: PreparationThread, resources: Resources, width: int) -> None:
        """The thread prepares jobs with pictures where it encodes ahead, chats without where the model decodes ahead."""
        self._planner = planner
        self._preparations = preparations
        self._encodes_ahead = resources.encodes_ahead
        self._pictures = None if resources.encodes_ahead else resources.pictures
        self._plans_ahead = max(1, width // PLANS_AHEAD_SHARE) if resources.decodes_ahead else 0
        self._jobs: list[tuple[Work, Preparation | None]] = []
        """None: the job has nothing to wait for but a place."""
        self.ahead = 0
        """How many may be claimed for which there is no place yet."""
        self._next_look = 0.0
        self._heard_wake_ups = 0

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def works(self) -> list[Work]:
        """In the order in which they were claimed."""
        return [work for work, _ in self._jobs]

    def is_look_due(self, wake_ups: int, *, is_idle: bool) -> bool:
        """Whether to look for further jobs now; if so, the next look is due later. `wake_ups`: how many were heard so far."""
        now = time.monotonic()
        if not is_idle and now < self._next_look and wake_ups == self._heard_wake_ups:
            return False
        self._next_look, self._heard_wake_ups = now + CLAIM_INTERVAL_S, wake_ups
        return True

    def look_soon(self) -> None:
        """The next look is due at once."""
        self._next_look = 0.0

    def expect(self, works: Sequence[Work]) -> Sequence[Work]:
        """These are added next, in this order; returns them. Where no thread prepares them, each one's picture is decoded while
        the one before it is prepared."""
        if self._pictures is not None:
            self._pictures.expect(works)
        return works

    def add(self, work: Work) -> None:
        """Have the thread begin with its pictures, if it shows any. Raises BatchError where the spool has lost one."""
        preparation = self._preparations.submit(work) if self._encodes_ahead else None
        self.ahead = PICTURES_AHEAD if preparation is not None else self._plans_ahead
        if preparation is None and self._plans_ahead:
            preparation = self._preparations.submit_plan(work)
        self._jobs.append((work, preparation))

    def take(self) -> tuple[Work, Callable[[], TaskParams]] | None:
        """The first of the most urgent that could be computed, and what returns its plan or raises what it fails with; None:
        there is none."""
        ready = (one for one in self._jobs if one[1] is None or one[1].is_done)
        claimed = max(ready, key=lambda one: one[0].job.priority, default=None)
        if claimed is None:
            return None
        self._jobs.remove(claimed)
        work, preparation = claimed
        return work, partial(self._planner.plan_job, work) if preparation is None else preparation.result

    def wait(self) -> bool:
        """Wait a moment for the thread, if any of the jobs is with it; returns whether there are any jobs."""
        pending = [preparation for _, preparation in self._jobs if preparation is not None]
        if pending:
            self._preparations.wait(pending, WAIT_S)
        return bool(self._jobs)

    def drop(self, work: Work) -> None:
        """A job has ended, which may be one of these."""
        if self._pictures is not None:
            self._pictures.forget(work)
        for claimed in [claimed for claimed in self._jobs if claimed[0] is work]:
            self._jobs.remove(claimed)
            if claimed[1] is not None:
                self._preparations.cancel(claimed[1])

    def close(self) -> None:
        """Leave them all."""
        for work in self.works:
            self.drop(work)
