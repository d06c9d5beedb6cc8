"""The tokens of many sequences are looked for in several threads: one passes over the vocabularies of 32 for as long as a GPU
takes for a fifth of their decode."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from batch.cpu_sharing.core_table import usable
from batch.workers.chat.bulk.job import BulkJob
from batch.workers.llama.context import Context, Logits

MOST_THREADS = 4
"""More wait for memory."""
MIN_JOBS_PER_THREAD = 2


class TokenFinder:
    """Finds what jobs draw next from, before each draws it. Its threads end with `close`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._threads = min(MOST_THREADS, usable())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="tokens")

    def find(self, jobs: Sequence[tuple[BulkJob, int]]) -> None:
        """For each job, which token is likeliest, or which few are, behind the row of the last decode named with it."""
        if len(jobs) < MIN_JOBS_PER_THREAD * self._threads:
            return
        # The context is asked from one thread alone; the first question waits for the GPU.
        draws = [(job, self._context.logits(row)) for job, row in jobs if job.draws_freely]
        list(self._pool.map(_find, [draws[at :: self._threads] for at in range(self._threads)]))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _find(jobs: Sequence[tuple[BulkJob, Logits]]) -> None:
    for job, logits in jobs:
        job.find_token(logits)
