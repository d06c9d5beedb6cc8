"""Bulk jobs too large to be computed with others: each is computed by itself once no others are left."""

from __future__ import annotations

from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work


class LargeJobs:
    """Those of one run, in the order in which they were planned."""

    def __init__(self, lead: Work) -> None:
        """`lead`: the job with which the others were claimed."""
        self._lead = lead
        self._jobs: list[tuple[Work, TaskParams]] = []
        self.is_behind_one = False
        """Whether the last job that was planned is too large: the next may be so too."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def works(self) -> list[Work]:
        """In order."""
        return [work for work, _ in self._jobs]

    def add(self, work: Work, task: TaskParams) -> None:
        """One more."""
        self._jobs.append((work, task))

    def most_to_claim(self, free: int) -> int:
        """How many further jobs are claimed where there are so many free places: one behind a large one, as the others would
        only be planned to go back into the line."""
        return min(free, 1) if self.is_behind_one else free

    def take(self) -> tuple[Work, TaskParams]:
        """The first, to be computed now. Those behind it wait in the line meanwhile, where others may take or cancel them, all
        but the lead, with which every job would go back."""
        first, *others = self._jobs
        self._jobs = [job for job in others if job[0] is self._lead]
        for work, _ in others:
            if work is not self._lead:
                work.put_back()
        return first

    def drop(self, work: Work) -> None:
        """It has ended otherwise, if it is one of these."""
        self._jobs = [job for job in self._jobs if job[0] is not work]
