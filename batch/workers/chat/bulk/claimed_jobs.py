"""Bulk jobs that are claimed and not yet among those computed together."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from batch.workers.chat.bulk.bulk_engine import JobPlanner
from batch.workers.chat.bulk.preparation import Preparation, PreparationThread
from batch.workers.chat.generation import Resources
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work

PICTURES_AHEAD = 2
"""Jobs with pictures that are claimed beyond those computed together, so that their pictures are encoded once a place is free.
More would only hold embeddings: a picture's take some megabytes."""
PICTURE_BYTES_AHEAD = 64 << 20
"""What the embeddings of more jobs than these take at most, where decoding and the thread share the cores."""
PLANS_AHEAD_SHARE = 2
"""One job for each so many computed together is claimed beyond them where a GPU would stand still while prompts are made."""
WAIT_S = 0.002
"""Between two passes of the yield points while nothing can be computed before a picture is encoded."""
MOST_WAIT_S = 0.25
"""So long tokens wait at a time for another job to join them. If none has, as a huge picture takes seconds, they are computed
for as long before they wait again."""


class ClaimedJobs:
    """They wait for a place, or for their pictures, which the thread encodes meanwhile."""

    def __init__(self, planner: JobPlanner, preparations: PreparationThread, resources: Resources, width: int) -> None:
        """The thread prepares jobs with pictures where it encodes ahead, chats without where the model decodes ahead."""
        self._planner = planner
        self._preparations = preparations
        self._encodes_ahead = resources.encodes_ahead
        self._pictures_ahead = _pictures_ahead(resources, width)
        self._width = width
        self._least = max(1, width // 2) if resources.shares_cores else 1
        """Fewer are not computed together while others are being prepared."""
        self._plans_ahead = max(1, width // PLANS_AHEAD_SHARE) if resources.decodes_ahead else 0
        self._jobs: list[tuple[Work, Preparation | None]] = []
        """None: the job has nothing to wait for but a place."""
        self._waits_since: float | None = None
        """time.monotonic() since when tokens wait, and no job has joined them."""
        self.ahead = 0
        """How many may be claimed for which there is no place yet."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def works(self) -> list[Work]:
        """In the order in which they were claimed."""
        return [work for work, _ in self._jobs]

    def add(self, work: Work) -> None:
        """Have the thread begin with its pictures, if it shows any. Raises BatchError where the spool has lost one."""
        preparation = self._preparations.submit(work) if self._encodes_ahead else None
        self.ahead = self._pictures_ahead if preparation is not None else self._plans_ahead
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
        self._waits_since = None
        work, preparation = claimed
        return work, partial(self._planner.plan_job, work) if preparation is None else preparation.result

    def wait(self, others: int) -> bool:
        """Wait a moment for the thread, if any of the jobs is with it and few others are computed together meanwhile; returns
        whether there may be another job to be computed now."""
        if others >= (self._least if self._preparations.has_core else self._width):
            self._waits_since = None
            return False
        pending = [preparation for _, preparation in self._jobs if preparation is not None]
        if pending:
            if others and not self._is_turn_to_wait():
                return False
            self._preparations.wait(pending, WAIT_S)
        return bool(pending) or bool(self._jobs and not others)

    def _is_turn_to_wait(self) -> bool:
        now = time.monotonic()
        if self._waits_since is None or now - self._waits_since >= 2 * MOST_WAIT_S:
            self._waits_since = now
        return now - self._waits_since < MOST_WAIT_S

    def share_cores(self, threads: int) -> int:
        """How many of so many threads are left for a decode beside what the thread is preparing."""
        return self._preparations.share_cores(threads)

    def drop(self, work: Work) -> None:
        """It has ended otherwise, if it is one of these."""
        for claimed in [claimed for claimed in self._jobs if claimed[0] is work]:
            self._jobs.remove(claimed)
            if claimed[1] is not None:
                self._preparations.cancel(claimed[1])

    def close(self) -> None:
        """Leave them all."""
        for work in self.works:
            self.drop(work)


def _pictures_ahead(resources: Resources, width: int) -> int:
    """How many jobs with pictures are claimed ahead of so many that are computed together."""
    if not resources.shares_cores or resources.vision is None:
        return PICTURES_AHEAD
    # Such jobs often end together, and the pictures of the next ones are to be ready then.
    return max(PICTURES_AHEAD, min(width // PLANS_AHEAD_SHARE, PICTURE_BYTES_AHEAD // resources.vision.max_embedding_bytes))
