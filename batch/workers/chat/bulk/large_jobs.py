"""Bulk jobs too large to be computed with others: each is computed by itself once no others are left."""

from __future__ import annotations

from batch.workers.chat.bulk.job import BulkJob
from batch.workers.chat.task_params import TaskParams
from batch.workers.engine import Work


class LargeJobs:
    """Those of one run, in the order in which they were planned, or in which their answers outgrew the room for them."""

    def __init__(self, lead: Work) -> None:
        """`lead`: the job with which the others were claimed."""
        self._lead = lead
        self._jobs: list[tuple[Work, TaskParams | BulkJob]] = []
        self.is_behind_one = False
        """Whether the last job that was planned is too large: the next may be so too."""

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def works(self) -> list[Work]:
        """In order."""
        return [work for work, _ in self._jobs]

    def add(self, work: Work, task: TaskParams) -> None:
        """One more, of which nothing is computed yet."""
        self._jobs.append((work, task))

    def add_outgrown(self, jobs: list[BulkJob]) -> None:
        """Move those here whose context has no room for their next token; others may need their sequences meanwhile."""
        if outgrown := [job for job in jobs if job.has_outgrown]:
            for job in outgrown:
                job.leave()
            self._jobs += [(job.work, job) for job in outgrown]
            jobs[:] = [job for job in jobs if job not in outgrown]

    def come_first(self, width: int) -> bool:
        """Whether they are computed before any further jobs: those that outgrew their room, and may never end, let the others
        pass until there are so many of them."""
        return len(self._jobs) >= width or any(not isinstance(task, BulkJob) for _, task in self._jobs)

    def most_to_claim(self, free: int) -> int:
        """How many further jobs are claimed where there are so many free places: one behind a large one, as the others would
        only be planned to go back into the line."""
        return min(free, 1) if self.is_behind_one else free

    def take(self) -> tuple[Work, TaskParams | BulkJob]:
        """The first, to be computed now. Those behind it of which nothing is computed yet wait in the line meanwhile, where
        others may take or cancel them, all but the lead, with which every job would go back."""
        first, *others = self._jobs
        self._jobs = [one for one in others if one[0] is self._lead or isinstance(one[1], BulkJob)]
        for work, task in others:
            if (work, task) not in self._jobs:
                work.put_back()
        return first

    def drop(self, work: Work) -> None:
        """It has ended otherwise, if it is one of these."""
        for one in [one for one in self._jobs if one[0] is work]:
            self._jobs.remove(one)
            if isinstance(one[1], BulkJob):
                one[1].close()

    def close(self) -> None:
        """Leave them all."""
        for work in self.works:
            self.drop(work)
