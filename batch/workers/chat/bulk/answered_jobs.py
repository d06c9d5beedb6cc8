"""Bulk jobs whose answers are there: several of them are ended with one flush to the disk."""

from __future__ import annotations

import time

from batch.payloads.chat import ChatResult
from batch.workers.engine import Work

END_TOGETHER_S = 0.2
"""So long a job whose answer is there waits for others to be ended with: writing an end down waits for the disk, once for
all of them, and what was computed in so short a time can be computed again after a power cut."""


class AnsweredJobs:
    """Those of one run that are not ended yet."""

    def __init__(self, lead: Work) -> None:
        """`lead`: the job with which the others were claimed."""
        self._lead = lead
        self._jobs: list[tuple[Work, ChatResult]] = []
        self._end_at = 0.0
        """time.monotonic() by which they are ended."""

    def add(self, work: Work, result: ChatResult) -> None:
        """One more."""
        if not self._jobs:
            self._end_at = time.monotonic() + END_TOGETHER_S
        self._jobs.append((work, result))

    def end_due(self) -> None:
        """End them where they have waited for others long enough, or a client waits for one."""
        if self._jobs and (time.monotonic() >= self._end_at or any(work.job.waited for work, _ in self._jobs)):
            self.end()

    def end(self) -> None:
        """End them now."""
        if self._jobs:
            jobs, self._jobs = self._jobs, []
            self._lead.finish_mates(jobs)
